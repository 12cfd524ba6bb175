"""Photos and digits of the blind tasks: damaged pieces, mosaics, sheets on a photo, digits among scraps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from benchmarks import datasets
from benchmarks.datasets import Split


@lru_cache(maxsize=1)
def photos() -> tuple[Tensor, ...]:
    """Three photos of packages, (3, height, width), standardised, at half their size."""
    import matplotlib as mpl
    from PIL import Image
    from sklearn.datasets import load_sample_images

    portrait = Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    found = [*load_sample_images().images, np.asarray(portrait)]
    small = [avg_pool2d(torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1) / 255, 2) for photo in found]
    return tuple((photo - 0.45) / 0.27 for photo in small)


def _pieces(random: np.random.RandomState, count: int, size: int, is_test: bool) -> Tensor:
    """Square pieces of the photos; those for testing are of the rightmost three tenths."""
    pieces = []
    for _ in range(count):
        photo = photos()[random.randint(3)]
        height, width = photo.shape[1:]
        border = 7 * width // 10
        left = random.randint(border, width - size + 1) if is_test else random.randint(0, border - size + 1)
        top = random.randint(0, height - size + 1)
        pieces.append(photo[:, top : top + size, left : left + size])
    return torch.stack(pieces)


#: What is done to the pieces of `damaged_pieces`.
DAMAGES = ("none", "blur", "noise", "large pixels", "few levels")


def _damage(random: np.random.RandomState, x: Tensor, kind: int) -> Tensor:
    """One piece, (3, 16, 16), with some strength of a kind of damage."""
    strength = float(random.uniform(0.6, 1))
    if kind == 1:
        return strength * avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) + (1 - strength) * x
    if kind == 2:
        return x + 0.25 * strength * torch.from_numpy(random.standard_normal(x.shape)).float()
    if kind == 3:
        large = avg_pool2d(x, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return strength * large + (1 - strength) * x
    return x if kind == 0 else (x / (0.5 * strength)).round() * 0.5 * strength


@lru_cache(maxsize=1)
def damaged_pieces() -> Split:
    """Pieces of photos with much detail, 16x16 pixels, and which of five damages they have; 4800 and 600."""
    random = np.random.RandomState(110)

    def damage(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        pieces, kinds = _pieces(random, 3 * count, 16, is_test), random.randint(0, len(DAMAGES), count)
        detail = pieces.diff(dim=2).abs().mean((1, 2, 3)) + pieces.diff(dim=3).abs().mean((1, 2, 3))
        chosen = pieces[detail.topk(count).indices.sort().values]
        x = torch.stack([_damage(random, piece, kind) for piece, kind in zip(chosen, kinds.tolist(), strict=True)])
        return x + 0.02 * torch.from_numpy(random.standard_normal(x.shape)).float(), torch.from_numpy(kinds)

    return Split(*damage(4800, False), *damage(600, True))


@lru_cache(maxsize=1)
def mosaics() -> Split:
    """The values of a colour sensor, four per 2x2 pixels and noisy, (4, 8, 8), and the piece of a photo; 4000, 500."""
    random = np.random.RandomState(111)

    def sense(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        pieces = _pieces(random, count, 16, is_test)
        channels = [pieces[:, c, i::2, j::2] for c, i, j in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1))]
        x = torch.stack(channels, 1)
        return x + 0.2 * torch.from_numpy(random.standard_normal(x.shape)).float(), pieces

    return Split(*sense(4000, False), *sense(500, True))


@lru_cache(maxsize=1)
def sheets() -> Split:
    """A bright sheet in front of a photo, seen at an angle, and its four corners; 6400 and 500 of 24x24 pixels."""
    from PIL import Image, ImageDraw

    random = np.random.RandomState(112)

    def place(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        x = _pieces(random, count, 24, is_test).mean(1, keepdim=True)
        middle = random.uniform(9.5, 14.5, (count, 1, 2))
        angles = random.uniform(-0.5, 0.5, (count, 1)) + np.pi * (np.arange(4) / 2 + 0.25)
        radii = random.uniform(6, 9.5, (count, 1, 1)) * random.uniform(0.85, 1.15, (count, 4, 1))
        corners = middle + radii * np.stack([np.cos(angles), np.sin(angles)], 2)
        for image, sheet in zip(x, corners, strict=True):
            mask = Image.new("L", (96, 96), 0)
            ImageDraw.Draw(mask).polygon([(4 * u, 4 * v) for u, v in sheet], fill=255)
            cover = torch.tensor(np.asarray(mask.resize((24, 24), Image.Resampling.BOX)) / 255, dtype=torch.float32)
            image[0] = (1 - cover) * image[0] + cover * random.uniform(0.3, 2.0)
        x = x + 0.2 * torch.from_numpy(random.standard_normal(x.shape)).float()
        return x, torch.tensor((corners.reshape(count, 8) - 12) / 6, dtype=torch.float32)

    return Split(*place(6400, False), *place(500, True))


@lru_cache(maxsize=1)
def digits_among_scraps() -> Split:
    """An MNIST digit somewhere in 16x16 pixels, with four scraps of other digits around; 4000 and 600."""
    source, random = datasets.mnist(), np.random.RandomState(113)

    def scatter(digits: Tensor, count: int) -> Tensor:
        digits = (digits * 0.28 + 0.13).clamp(0, 1)
        images = torch.zeros(count, 1, 16, 16)
        for image, digit in zip(images, digits[:count], strict=True):
            top, left = random.randint(0, 3, 2)
            image[:, top : top + 14, left : left + 14] = digit
            for _ in range(4):
                other = digits[random.randint(len(digits))]
                (row, column), (top, left) = random.randint(3, 8, 2), random.choice([0, 1, 12, 13], 2)
                piece = image[:, top : top + 3, left : left + 3]
                piece.copy_(torch.maximum(piece, other[:, row : row + 3, column : column + 3]))
        return (images - 0.13) / 0.28

    x, x_test = scatter(source.x_train, 4000), scatter(source.x_test, 600)
    return Split(x, source.y_train, x_test, source.y_test[:600])
