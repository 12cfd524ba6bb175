"""Networks of the blind tasks with images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.lr_tasks.blind.images_glyphs import ALPHABET, FONTS, LETTERS, SYMBOLS
from benchmarks.lr_tasks.blind.images_photos import DAMAGES
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A large depthwise convolution and an MLP, scaled per channel, beside a shortcut that some samples take alone."""

    def __init__(self, dim: int, drop: float = 0.1) -> None:
        super().__init__()
        mlp = (nn.Conv2d(dim, 3 * dim, 1), nn.GELU(), nn.Conv2d(3 * dim, dim, 1))
        self.layers = nn.Sequential(nn.Conv2d(dim, dim, 5, padding=2, groups=dim), ChannelNorm(dim), *mlp)
        self.scale, self.drop = nn.Parameter(torch.full((dim, 1, 1), 1e-2)), drop

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(len(x), 1, 1, 1) >= self.drop if self.training else 1 - self.drop
        changed: Tensor = x + kept * self.scale * self.layers(x)
        return changed


def conv_next(dim: int = 32) -> nn.Module:
    """ConvNeXt of one stage, with two blocks, for 16x16 pixels."""
    layers = (nn.Conv2d(1, dim, 6, 4, 1), ChannelNorm(dim), ConvNeXtBlock(dim), ConvNeXtBlock(dim))
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(dim), nn.Linear(dim, len(SYMBOLS))
    )


class PreActivation(nn.Module):
    """Two convolutions, each after BatchNorm and ReLU, beside a shortcut."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        stride = 1 if n == n_in else 2
        first = (nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n, 3, stride, 1, bias=False))
        self.layers = nn.Sequential(*first, nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, n, 3, 1, 1, bias=False))
        self.shortcut = nn.Identity() if n == n_in else nn.Conv2d(n_in, n, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.shortcut(x) + self.layers(x)
        return changed


def resnet() -> nn.Module:
    """A strided stem and three blocks for 16x16 coloured pixels."""
    blocks = (nn.Conv2d(3, 8, 3, 1, 1, bias=False), PreActivation(8, 16), PreActivation(16, 16), PreActivation(16, 32))
    return nn.Sequential(
        *blocks, nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(DAMAGES))
    )


def captcha_cnn() -> nn.Module:
    """Two strided convolutions with BatchNorm for 20x48 pixels, a layer with dropout, and logits (classes, letters)."""
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((1, 12, 2), (12, 24, 2)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    hidden = (nn.Flatten(), nn.Linear(1440, 96), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(
        *layers, *hidden, nn.Linear(96, LETTERS * len(ALPHABET)), nn.Unflatten(1, (len(ALPHABET), LETTERS))
    )


def two_blocks() -> nn.Module:
    """Stem and first two blocks of EfficientNet-Lite0 with ImageNet weights, and a new head for the fonts."""
    trunk = next(shaping_glyphs.first_blocks().children())
    assert isinstance(trunk, nn.Sequential)
    return nn.Sequential(*trunk[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, len(FONTS)))


class ConvTransformer(nn.Module):
    """Two strided convolutions, a layer of attention over 16 places, and their weighted mean, for 16x16 pixels."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, dim, 3, 2, 1))
        self.place = nn.Parameter(0.02 * torch.randn(16, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.1, "gelu", batch_first=True, norm_first=True)
        self.layers, self.weight = nn.Sequential(layer, nn.LayerNorm(dim)), nn.Linear(dim, 1)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layers(self.embed(x).flatten(2).transpose(1, 2) + self.place)
        logits: Tensor = self.head((self.weight(tokens).softmax(1) * tokens).sum(1))
        return logits


def demosaicer() -> nn.Module:
    """Convolutions at half the resolution, and a last one whose channels become pixels."""
    first = (nn.Conv2d(4, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())
    return nn.Sequential(*first, nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2))


class Excited(nn.Module):
    """A strided convolution with BatchNorm, whose channels are scaled by what their means are."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(n_in, n, 3, 2, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU())
        squeeze = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(n, n // 4, 1), nn.ReLU())
        self.scale = nn.Sequential(*squeeze, nn.Conv2d(n // 4, n, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        scaled: Tensor = x * self.scale(x)
        return scaled


def corner_finder() -> nn.Module:
    """Three squeeze-and-excitation blocks for 24x24 pixels, and eight coordinates."""
    blocks = (Excited(1, 8), Excited(8, 16), Excited(16, 32))
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 8))
