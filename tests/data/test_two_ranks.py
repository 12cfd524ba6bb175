"""Balanced batches under DDP: two gloo processes and a Trainer."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.launch import check_both


def test_balanced_batches_on_two_ranks(tmp_path: Path) -> None:
    check_both("balanced", tmp_path, timeout=120, module="tests.data.two_ranks")
