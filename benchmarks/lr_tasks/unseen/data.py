"""Data of the unseen tasks, made from those of the other groups."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.reserved import data as reserved_data


@lru_cache(maxsize=1)
def ground_cover() -> Split:
    """Seven classes of uneven size from twenty numbers and a kind of soil, one-hot; 6400 rows and 1000."""
    from sklearn.datasets import make_classification

    shares, random = [0.36, 0.3, 0.12, 0.08, 0.06, 0.05, 0.03], np.random.RandomState(80)
    x, y = make_classification(
        7400,
        20,
        n_informative=12,
        n_classes=7,
        n_clusters_per_class=4,
        weights=shares,
        class_sep=1.6,
        flip_y=0.03,
        random_state=80,
    )
    soil = (y + random.choice([0, 0, 1, 2, 5], len(y))) % 10
    numbers = torch.tensor((x - x[:6400].mean(0)) / x[:6400].std(0), dtype=torch.float32)
    features = torch.cat([numbers, torch.eye(10)[torch.from_numpy(soil)]], 1)
    labels = torch.tensor(y, dtype=torch.long)
    return Split(features[:6400], labels[:6400], features[6400:], labels[6400:])


@lru_cache(maxsize=1)
def leaning_digits() -> Split:
    """MNIST turned by up to 60 degrees, with noise, and the angle in units of 35 degrees; 2400 and 600."""
    split, random = datasets.mnist(), np.random.RandomState(81)

    def lean(x: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.from_numpy(random.uniform(-np.pi / 3, np.pi / 3, len(x))).float()
        rows = [torch.stack([angle.cos(), -angle.sin(), 0 * angle], 1)]
        rows.append(torch.stack([angle.sin(), angle.cos(), 0 * angle], 1))
        grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        turned = grid_sample(x, grid, padding_mode="border", align_corners=False)
        noise = torch.from_numpy(random.standard_normal(x.shape)).float()
        return turned + 0.3 * noise, angle[:, None] * 180 / (np.pi * 35)

    return Split(*lean(split.x_train[:2400]), *lean(split.x_test[:600]))


@lru_cache(maxsize=1)
def letter_pairs() -> Split:
    """Two Cyrillic letters, of which half are the same, in two channels, and whether they are; 3840 and 800."""
    split, random = reserved_data.cyrillic_letters(), np.random.RandomState(82)

    def pairs(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        labels, first = y.numpy(), random.randint(0, len(x), count)
        is_same, second = random.random_sample(count) < 0.5, random.randint(0, len(x), count)
        for i in np.flatnonzero(is_same):
            second[i] = random.choice(np.flatnonzero(labels == labels[first[i]]))
        both = torch.cat([x[torch.from_numpy(first)], x[torch.from_numpy(second)]], 1)
        return both, torch.from_numpy(labels[first] == labels[second]).float()

    return Split(*pairs(*split[:2], 3840), *pairs(*split[2:], 800))


@lru_cache(maxsize=1)
def ink() -> tuple[Tensor, Tensor]:
    """MNIST as shares of ink between 0 and 1, one row of 196 pixels each; 4000 and 500."""
    split = datasets.mnist()
    x, x_test = ((x * 0.28 + 0.13).clamp(0, 1).flatten(1) for x in (split.x_train, split.x_test[:500]))
    return x, x_test
