"""BackboneFreezing on two gloo processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.test_two_ranks import needs_streams, two_ranks


@pytest.mark.parametrize("scenario", ["ddp", pytest.param("fsdp2", marks=needs_streams)])
def test_processes_stay_equal(scenario: str, tmp_path: Path) -> None:
    for code, output in two_ranks(scenario, tmp_path, timeout=240, module="tests.distributed.freezing_ranks"):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
