"""The gradient noise scale on two gloo processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import check_both


@pytest.mark.parametrize("scenario", ["ddp", "with_sam", "sharded"])
def test_processes_measure_what_both_have(scenario: str, tmp_path: Path) -> None:
    check_both(scenario, tmp_path, timeout=240, module="tests.distributed.noise_scale_ranks")
