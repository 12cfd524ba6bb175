"""Networks of the apart tasks with images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.lr_tasks.apart.images_data import PLACES, SCRIPTS
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs


class DenseBlock(nn.Module):
    """Convolutions, each after BatchNorm and ReLU, of all that is before them."""

    def __init__(self, n_in: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for n in range(n_in, n_in + layers * growth, growth):
            self.layers.append(nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, growth, 3, 1, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def dense_net() -> nn.Module:
    """DenseNet of two blocks for 20x20 pixels and 12 classes."""
    first = (nn.Conv2d(1, 12, 3, 2, 1, bias=False), DenseBlock(12, 8, 2))
    transition = (nn.BatchNorm2d(28), nn.ReLU(), nn.Conv2d(28, 16, 1, bias=False), nn.AvgPool2d(2))
    last = (DenseBlock(16, 8, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, *transition, *last, nn.Linear(800, 12))


def stem_and_block() -> nn.Module:
    """Stem and first block of EfficientNet-Lite0 with ImageNet weights, and a new head for the scripts."""
    trunk = next(shaping_glyphs.first_blocks().children())
    assert isinstance(trunk, nn.Sequential)
    return nn.Sequential(*trunk[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, len(SCRIPTS)))


class GatedBlock(nn.Module):
    """An MLP whose hidden numbers are gated by those of the other patches, beside a shortcut."""

    def __init__(self, dim: int, patches: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU())
        self.norm, self.mix, self.last = nn.LayerNorm(2 * dim), nn.Linear(patches, patches), nn.Linear(2 * dim, dim)
        nn.init.normal_(self.mix.weight, std=1e-3)
        nn.init.ones_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = self.first(x).chunk(2, 2)
        gate = self.mix(self.norm(gate).transpose(1, 2)).transpose(1, 2)
        changed: Tensor = x + self.last(kept * gate)
        return changed


class GatedMLP(nn.Module):
    """gMLP with two blocks for the 16 patches of 16x16 coloured pixels."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.Sequential(GatedBlock(dim, 16), GatedBlock(dim, 16), nn.LayerNorm(dim))
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, PLACES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return logits


def batch_norm_mlp() -> nn.Module:
    """Two hidden layers with BatchNorm and dropout for two digits and their 19 sums."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((392, 192), (192, 96)):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(96, 19))


def flow_net() -> nn.Module:
    """Two strided convolutions over two pieces of 20x20 pixels, and how far one is moved, as in FlowNet."""
    convolutions = (nn.Conv2d(2, 16, 5, 2, 2), nn.LeakyReLU(0.1), nn.Conv2d(16, 32, 3, 2, 1), nn.LeakyReLU(0.1))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 64), nn.LeakyReLU(0.1), nn.Linear(64, 2))


def _convolution(n_in: int, n_out: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    layer = nn.Conv2d(n_in, n_out, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())


class Decoder(nn.Module):
    """A strided and a dilated convolution, and a decoder that adds the details of the first layer again."""

    def __init__(self) -> None:
        super().__init__()
        self.detail = _convolution(1, 8)
        self.context = nn.Sequential(_convolution(8, 16, 2), _convolution(16, 16, dilation=2), _convolution(16, 8))
        self.last = nn.Sequential(_convolution(8, 8), nn.Conv2d(8, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        detail = self.detail(x)
        height: Tensor = self.last(detail + interpolate(self.context(detail), scale_factor=2))
        return height
