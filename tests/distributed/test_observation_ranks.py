"""A callback that changes the batch of one process acts on both."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.launch import check_both


def test_a_callback_that_acts_on_one_process_acts_on_both(tmp_path: Path) -> None:
    module = "tests.distributed.observation_ranks"
    check_both("one_rank_is_changed", tmp_path, timeout=240, module=module)


def test_what_begins_in_a_later_epoch_is_seen_on_both(tmp_path: Path) -> None:
    check_both("one_rank_begins_later", tmp_path, timeout=240, module="tests.distributed.observation_ranks")
