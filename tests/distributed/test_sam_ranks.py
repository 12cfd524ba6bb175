"""SAM in two gloo processes: DDP with and without a synchronized first pass, a loss that is NaN on one rank, FSDP2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.test_two_ranks import needs_streams, two_ranks


@pytest.mark.parametrize(
    "scenario", ["ddp", "ddp_statistics", "one_rank_breaks", pytest.param("fsdp2", marks=needs_streams)]
)
def test_two_ranks_equal_the_reference(scenario: str, tmp_path: Path) -> None:
    for code, output in two_ranks(scenario, tmp_path, timeout=240, module="tests.distributed.sam_ranks"):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
