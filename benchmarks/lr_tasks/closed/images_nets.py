"""Networks of the closed tasks with images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.lr_tasks.closed.images_data import ARMENIAN, MARKS, PICTOGRAMS, SHAPES
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs


def _convolution(n_in: int, n_out: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


class Shuffle(nn.Module):
    """Half of the channels through a depthwise convolution between two of 1x1, then both halves interleaved."""

    def __init__(self, n: int) -> None:
        super().__init__()
        depthwise = (nn.Conv2d(n // 2, n // 2, 3, 1, 1, groups=n // 2, bias=False), nn.BatchNorm2d(n // 2))
        self.layers = nn.Sequential(*_convolution(n // 2, n // 2, 1), *depthwise, *_convolution(n // 2, n // 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        return torch.stack([kept, self.layers(changed)], 2).flatten(1, 2)


def shuffle_net() -> nn.Module:
    """ShuffleNetV2 of two stages for 16x16 pixels and the signs."""
    stages = (*_convolution(3, 16, stride=2), Shuffle(16), *_convolution(16, 32, stride=2), Shuffle(32))
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(512, len(SHAPES) * len(MARKS)))


class PoolBlock(nn.Module):
    """Mixes places by an average of 3x3 and channels by two layers, each normalised, scaled and added."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm, self.pool = nn.GroupNorm(1, n), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        layers = (nn.Conv2d(n, 2 * n, 1), nn.GELU(), nn.Dropout(0.1), nn.Conv2d(2 * n, n, 1))
        self.layers = nn.Sequential(nn.GroupNorm(1, n), *layers)
        self.scales = nn.Parameter(torch.full((2, n, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.scales[0] * (self.pool(normed) - normed)
        mixed: Tensor = x + self.scales[1] * self.layers(x)
        return mixed


def pool_former() -> nn.Module:
    """PoolFormer of two blocks for 16x16 pixels and the Armenian letters."""
    first = (nn.Conv2d(1, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 56, 3, 2, 1))
    last = (nn.GroupNorm(1, 56), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(224, len(ARMENIAN)))
    return nn.Sequential(*first, PoolBlock(56), PoolBlock(56), *last)


def stem_and_two_blocks() -> nn.Module:
    """Stem and first two blocks of EfficientNet-Lite0 with ImageNet weights, and a new head for the pictograms."""
    trunk = next(shaping_glyphs.first_blocks().children())
    assert isinstance(trunk, nn.Sequential)
    head = (nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(216, len(PICTOGRAMS)))
    return nn.Sequential(*trunk[:5], *head)


def number_cnn() -> nn.Module:
    """Four convolutions, dropout, and two layers for 16x16 colour pixels and ten digits; without normalisation."""
    first = (nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    last = (nn.Flatten(), nn.Dropout(0.3), nn.Linear(384, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(*first, *second, *last)


class ScanCleaner(nn.Module):
    """Convolutions at full and at half size, joined, for one channel."""

    def __init__(self, n: int = 8) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(1, n, 3, 1, 1), nn.LeakyReLU(0.1))
        lower = (nn.Conv2d(n, 2 * n, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(2 * n, 2 * n, 3, 1, 1), nn.LeakyReLU(0.1))
        self.lower = nn.Sequential(*lower)
        self.last = nn.Sequential(nn.Conv2d(3 * n, n, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(n, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        lower = interpolate(self.lower(top), scale_factor=2.0)
        clean: Tensor = self.last(torch.cat([top, lower], 1))
        return clean


def cell_counter() -> nn.Module:
    """Convolutions with BatchNorm, whose last map is averaged, for 24x24 pixels and one number."""
    layers = (*_convolution(1, 8, 5, 2), *_convolution(8, 16), *_convolution(16, 32, stride=2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
