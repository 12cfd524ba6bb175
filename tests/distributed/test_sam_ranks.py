"""SAM in two gloo processes: DDP with and without a synchronized first pass, a loss that is NaN on one rank, FSDP2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import check_both, needs_streams


@pytest.mark.parametrize(
    "scenario", ["ddp", "ddp_statistics", "one_rank_breaks", pytest.param("fsdp2", marks=needs_streams)]
)
def test_two_ranks_equal_the_reference(scenario: str, tmp_path: Path) -> None:
    check_both(scenario, tmp_path, timeout=240, module="tests.distributed.sam_ranks")
