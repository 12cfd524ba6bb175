"""Images composed of real ones: pairs of digits, and digits in front of a photo."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks import datasets
from benchmarks.datasets import Split


def _pairs(x: Tensor, y: Tensor, digits: int, count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    random = np.random.RandomState(seed)
    usable = np.flatnonzero(y.numpy() < digits)
    left, right = (torch.from_numpy(random.choice(usable, count)) for _ in range(2))
    images = torch.cat([x[left], x[right]], dim=3)
    images += noise * torch.from_numpy(random.standard_normal(images.shape)).float()
    return images, y[left] * digits + y[right]


def _pair_split(source: Split, digits: int, n_train: int, noise: float, wrong: float) -> Split:
    """Pairs of training digits for training and of test digits for testing; some training labels are wrong."""
    x, y = _pairs(source.x_train, source.y_train, digits, n_train, noise, 1)
    random = np.random.RandomState(3)
    drawn = torch.from_numpy(random.randint(0, digits**2, n_train))
    y = torch.where(torch.from_numpy(random.random_sample(n_train) < wrong), drawn, y)
    return Split(x, y, *_pairs(source.x_test, source.y_test, digits, 1000, noise, 2))


@lru_cache(maxsize=1)
def pairs_of_36_classes() -> Split:
    """Two of scikit-learn's digits 0 to 5 side by side, with noisy pixels; 2000 and 1000 images."""
    return _pair_split(datasets.digits(), 6, 2000, noise=0.5, wrong=0.0)


@lru_cache(maxsize=1)
def pairs_of_100_classes() -> Split:
    """Two MNIST digits side by side, with noisy pixels, and a fifth of the labels drawn; 4000 and 1000 images."""
    return _pair_split(datasets.mnist(), 10, 4000, noise=0.5, wrong=0.2)


@lru_cache(maxsize=1)
def digits_before_photo() -> Split:
    """MNIST digits in front of parts of two photos, and the mask of the digit; 600 and 300 images of 20x20 pixels."""
    from sklearn.datasets import load_sample_images

    photos = [torch.tensor(photo, dtype=torch.float32).mean(2) / 255.0 for photo in load_sample_images().images]
    source = datasets.mnist()
    random = np.random.RandomState(0)

    def compose(digits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        images, masks = [], []
        for digit in digits[:count]:
            photo = photos[random.randint(2)]
            top, left = random.randint(photo.shape[0] - 20), random.randint(photo.shape[1] - 20)
            row, column = random.randint(7), random.randint(7)
            ink = pad((digit * 0.28 + 0.13).clamp(0, 1), (column, 6 - column, row, 6 - row))
            images.append((1 - ink) * photo[top : top + 20, left : left + 20] + ink)
            masks.append((ink > 0.3).float())
        return (torch.stack(images) - 0.45) / 0.25, torch.stack(masks)

    return Split(*compose(source.x_train, 600), *compose(source.x_test, 300))
