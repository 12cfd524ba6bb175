"""BackboneFreezing on two gloo processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import check_both, needs_streams


@pytest.mark.parametrize("scenario", ["ddp", pytest.param("fsdp2", marks=needs_streams)])
def test_processes_stay_equal(scenario: str, tmp_path: Path) -> None:
    check_both(scenario, tmp_path, timeout=240, module="tests.distributed.freezing_ranks")
