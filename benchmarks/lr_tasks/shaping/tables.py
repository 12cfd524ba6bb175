"""Tables: generated classes, the diabetes table, and a target with heavy tails."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import Split


def _split(x: np.ndarray, y: Tensor, n_train: int) -> Split:
    """The first rows are for training; features are standardised by them."""
    features = torch.tensor(x, dtype=torch.float32)
    mean, std = features[:n_train].mean(0), features[:n_train].std(0)
    features = (features - mean) / std
    return Split(features[:n_train], y[:n_train], features[n_train:], y[n_train:])


@lru_cache(maxsize=1)
def generated_classes() -> Split:
    """35 overlapping classes in 40 features, a tenth of the labels wrong; 3000 and 1000 rows."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        4000, 40, n_informative=16, n_classes=35, n_clusters_per_class=1, class_sep=1.5, flip_y=0.1, random_state=0
    )
    return _split(x, torch.tensor(y, dtype=torch.long), 3000)


@lru_cache(maxsize=1)
def friedman() -> Split:
    """The first problem of Friedman with noise, target standardised; 800 and 1000 rows."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(1800, noise=1.0, random_state=0)
    target = torch.tensor((y - y[:800].mean()) / y[:800].std(), dtype=torch.float32)
    return _split(x, target[:, None], 800)


@lru_cache(maxsize=1)
def prices() -> Split:
    """A log-normal target, such as a price: the logarithm is a smooth function and noise; 2000 and 1000 rows."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(3000, noise=1.0, random_state=1)
    price = np.exp(3.0 + (y - y.mean()) / y.std())
    return _split(x, torch.tensor(price, dtype=torch.float32)[:, None], 2000)
