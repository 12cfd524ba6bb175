"""A loss landscape on two gloo processes."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.launch import check_both


def test_the_processes_share_the_points(tmp_path: Path) -> None:
    check_both("shared", tmp_path, timeout=240, module="tests.distributed.landscape_ranks")
