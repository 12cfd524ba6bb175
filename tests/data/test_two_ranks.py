"""Balanced batches under DDP: two gloo processes and a Trainer."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.test_two_ranks import two_ranks


def test_balanced_batches_on_two_ranks(tmp_path: Path) -> None:
    for code, output in two_ranks("balanced", tmp_path, timeout=120, module="tests.data.two_ranks"):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
