"""GradientNoiseScale on two gloo processes."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.test_two_ranks import two_ranks


def test_two_ranks_equal_a_loop(tmp_path: Path) -> None:
    for code, output in two_ranks("all_of_them", tmp_path, timeout=240, module="tests.distributed.noise_scale_ranks"):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
