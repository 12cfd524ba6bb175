"""Networks of the hidden tasks with images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.lr_tasks.apart.images_data import PLACES
from benchmarks.lr_tasks.reserved.data import CYRILLIC
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs


def _convolution(n_in: int, n_out: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(n_out), nn.ReLU6()]


class Inverted(nn.Module):
    """More channels, a depthwise convolution and fewer channels, beside a shortcut where the shape stays."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        depthwise = _convolution(3 * n_in, 3 * n_in, stride=stride, groups=3 * n_in)
        last = (nn.Conv2d(3 * n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
        self.layers = nn.Sequential(*_convolution(n_in, 3 * n_in, 1), *depthwise, *last)
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.layers(x)
        return x + changed if self.has_shortcut else changed


def mobile_net() -> nn.Module:
    """MobileNetV2 of two blocks for 12x12 pixels and 36 classes."""
    blocks = (Inverted(10, 20, 2), Inverted(20, 20, 1))
    last = (*_convolution(20, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 36))
    return nn.Sequential(*_convolution(1, 10, stride=2), *blocks, *last)


class Wide(nn.Module):
    """Two convolutions with dropout between them, each after BatchNorm and ReLU, beside a shortcut."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        first = (nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.Dropout(0.2))
        last = (nn.BatchNorm2d(n_out), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False))
        self.layers, self.shortcut = nn.Sequential(*first, *last), nn.Conv2d(n_in, n_out, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.shortcut(x) + self.layers(x)
        return changed


def wide_resnet() -> nn.Module:
    """A wide residual network of two blocks for 16x16 pixels and the Cyrillic letters."""
    blocks = (nn.Conv2d(1, 8, 3, 1, 1, bias=False), Wide(8, 16), Wide(16, 40), nn.BatchNorm2d(40), nn.ReLU())
    return nn.Sequential(*blocks, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(160, len(CYRILLIC)))


class Fire(nn.Module):
    """Few channels, and from them many by convolutions of two sizes; without normalisation."""

    def __init__(self, n_in: int, squeezed: int, n_out: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(n_in, squeezed, 1), nn.ReLU())
        self.small, self.large = nn.Conv2d(squeezed, n_out // 2, 1), nn.Conv2d(squeezed, n_out // 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.small(x), self.large(x)], 1).relu()


def squeeze_net() -> nn.Module:
    """SqueezeNet of two blocks for 16x16 pixels and ten digits."""
    first = (nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU())
    blocks = (Fire(16, 8, 32), nn.MaxPool2d(2), Fire(32, 16, 64), nn.Dropout(0.1))
    return nn.Sequential(*first, *blocks, nn.Conv2d(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def stem_and_two_blocks() -> nn.Module:
    """Stem and first two blocks of EfficientNet-Lite0 with ImageNet weights, and a new head for places in photos."""
    trunk = next(shaping_glyphs.first_blocks().children())
    assert isinstance(trunk, nn.Sequential)
    return nn.Sequential(*trunk[:5], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, PLACES))


class CoordinateCNN(nn.Module):
    """Convolutions with GroupNorm that also see where a pixel is, for 24x24 pixels, and eight coordinates."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((3, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.GroupNorm(4, n_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 8))

    def forward(self, x: Tensor) -> Tensor:
        axis = torch.linspace(-1, 1, x.shape[2], device=x.device)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(len(x), -1, -1, -1)
        corners: Tensor = self.layers(torch.cat([x, places], 1))
        return corners
