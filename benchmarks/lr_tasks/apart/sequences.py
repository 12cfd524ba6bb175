"""A task of the eighth group with sequences: which letter an outline is."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.datasets import Split
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import half_decades, nesterov
from benchmarks.lr_tasks.shaping.module import Training, warmup_cosine
from benchmarks.lr_tasks.task import LRTask

#: Places along an outline, and letters.
PLACES, LETTERS = 48, 26
_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic"),
    *("STIXGeneralBol", "STIXGeneralBolIta", "cmr10", "cmb10", "cmtt10", "cmss10"),
)


def _outline(letter: str, font: str) -> np.ndarray:
    """Corners of the outline of a letter, all its closed curves one after another."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    name = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    curves = TextPath((0, 0), letter, size=1.0, prop=FontProperties(fname=str(name))).to_polygons()
    return np.concatenate([np.asarray(curve) for curve in curves])


@lru_cache(maxsize=1)
def outlines() -> Split:
    """Lower-case letters as 48 places (x, y) along their outlines, distorted and noisy; 3328 and 832."""
    random = np.random.RandomState(103)
    corners = [[_outline(letter, font) for letter in string.ascii_lowercase] for font in _FONTS]
    rows, labels = [], []
    for _ in range(10):
        for of_font in corners:
            for label, outline in enumerate(of_font):
                turned = outline @ (np.eye(2) + random.normal(0, 0.2, (2, 2)))
                length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(turned, axis=0), axis=1))])
                where = np.linspace(0, length[-1], PLACES, endpoint=False)
                places = np.stack([np.interp(where, length, turned[:, axis]) for axis in (0, 1)])
                wobble = np.cumsum(random.normal(0, 0.03, places.shape), 1)
                places = np.roll(places + wobble, random.randint(PLACES), axis=1)
                rows.append((places - places.mean(1, keepdims=True)) / places.std())
                labels.append(label)
    order = random.permutation(len(rows))
    x, y = torch.tensor(np.stack(rows)[order], dtype=torch.float32), torch.tensor(labels)[order]
    return Split(x[:3328], y[:3328], x[3328:], y[3328:])


class Inception(nn.Module):
    """Convolutions of three lengths behind a narrow one, beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(3 * dim, dim, 1, bias=False)
        self.lengths = nn.ModuleList([nn.Conv1d(dim, dim, n, padding=n // 2, bias=False) for n in (3, 7, 13)])
        self.norm = nn.BatchNorm1d(3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        found = torch.cat([convolution(narrow) for convolution in self.lengths], 1)
        return torch.relu(self.norm(found) + x)


def inception_time(dim: int = 10) -> nn.Module:
    """A convolution with stride, two blocks of InceptionTime, and the mean over the places."""
    first = (nn.Conv1d(2, 3 * dim, 5, 2, 2, bias=False), nn.BatchNorm1d(3 * dim), nn.ReLU())
    last = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(3 * dim, LETTERS))
    return nn.Sequential(*first, Inception(dim), Inception(dim), *last)


class Moved(Training):
    """Stretches an outline and lets it start elsewhere."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, letters = batch
        x = x.roll(int(torch.randint(PLACES, ())), 2) * (1 + 0.1 * torch.randn(len(x), 2, 1, device=x.device))
        return self.loss(self(x), letters)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="outlines-inception-time-nesterov-warmup-cosine",
        module=lambda lr: Moved(inception_time(), cross_entropy, lr, nesterov, warmup_cosine),
        loader=batches(lambda: outlines()[:2], 64),
        epochs=16,
        score=accuracy_on(lambda: outlines()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-2.5, 1),
    ),
)
