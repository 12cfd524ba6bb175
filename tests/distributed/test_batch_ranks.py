"""BatchSizeScaler on two gloo processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import check_both, needs_streams, run_ranks


@pytest.mark.parametrize(
    "scenario", ["ddp", "classes", "with_sam", "joint", pytest.param("fsdp2", marks=needs_streams), "nothing_fits"]
)
def test_processes_agree(scenario: str, tmp_path: Path) -> None:
    check_both(scenario, tmp_path, timeout=240, module="tests.distributed.batch_ranks")


def test_a_bug_on_one_process_ends_both(tmp_path: Path) -> None:
    outputs = run_ranks("one_rank_fails", tmp_path, timeout=120, module="tests.distributed.batch_ranks")
    assert all(code != 0 for code, _ in outputs)
    assert "a bug on one rank" in outputs[1][1]
