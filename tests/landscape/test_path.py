"""Copies of the weights along a training: evenly spaced, at most so many."""

from __future__ import annotations

import itertools

import pytest
import torch

from lightning_hp.landscape import TrainingPath


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("steps", [4, 50, 333])
@pytest.mark.parametrize("max_points", [3, 8])
def test_the_copies_are_evenly_spaced_and_few(every: int, steps: int, max_points: int):
    path = TrainingPath(max_points, every)
    weight = torch.zeros(1)
    for step in range(steps + 1):
        weight.fill_(step)
        path.show([weight], step)
        assert len(path.before(step + 1)) <= max_points
    at = [float(copies[0]) for copies in path.before(steps)]
    assert at[0] == 0
    gaps = {after - before for before, after in itertools.pairwise(at)}
    assert len(gaps) <= 1
    assert all(gap % every == 0 for gap in gaps)
    assert len(at) >= min(max_points, steps // every) // 2
