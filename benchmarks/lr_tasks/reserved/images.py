"""Reserved tasks with images: two mixers, one with SAM, a depthwise CNN, and the last block of a pretrained CNN."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.fresh import data as fresh_data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step
from benchmarks.lr_tasks.reserved import data
from benchmarks.lr_tasks.sealed import data as sealed_data
from benchmarks.lr_tasks.sealed.common import half_decades, one_cycle, thirds
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs
from benchmarks.lr_tasks.shaping.module import Training, warmup_cosine
from benchmarks.lr_tasks.task import LRTask
from lightning_hp import SAM


class MixerBlock(nn.Module):
    """An MLP over the patches, and an MLP over the channels."""

    def __init__(self, patches: int, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.over_patches = nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
        self.over_channels = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.first(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.over_channels(self.second(x))
        return mixed


class Mixer(nn.Module):
    """MLP-Mixer with two blocks for 14x14 pixels in 49 patches."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 2, 2)
        self.blocks = nn.Sequential(MixerBlock(49, dim), MixerBlock(49, dim))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.embed(x).flatten(2).transpose(1, 2)).mean(1))
        return logits


def moved(x: Tensor) -> Tensor:
    """Each batch of images moved by up to one pixel, and brighter or darker."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    x = pad(x, (1, 1, 1, 1), mode="replicate")[:, :, down : down + 14, right : right + 14]
    return x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1))


class MixerTraining(NetModule):
    """Cross entropy of moved images, AdamW with much weight decay, one-cycle."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.net(moved(x)), labels)

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)
        return each_step(optimizer, one_cycle(optimizer, self.total_steps))


class Residual(nn.Sequential):
    """Layers beside a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def conv_mixer(dim: int = 16) -> nn.Module:
    """ConvMixer with two blocks for 8x8 pixels in 16 patches."""
    layers: list[nn.Module] = [nn.Conv2d(1, dim, 2, 2), nn.GELU(), nn.BatchNorm2d(dim)]
    for _ in range(2):
        depthwise = Residual(nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.GELU(), nn.BatchNorm2d(dim))
        layers += [depthwise, nn.Conv2d(dim, dim, 1), nn.GELU(), nn.BatchNorm2d(dim)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, 10))


def decayed(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """AdamW with the weight decay of vision models."""
    return AdamW(params, lr=lr, weight_decay=0.05)


def depthwise_cnn() -> nn.Module:
    """Depthwise separable convolutions with BatchNorm for 12x12 pixels and 36 classes, as in MobileNet."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for n_in, n_out, stride in ((16, 32, 2), (32, 48, 2)):
        layers += [nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in, bias=False), nn.BatchNorm2d(n_in), nn.ReLU()]
        layers += [nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(432, 36))


class Depthwise(NetModule):
    """Cross entropy with smoothed labels, RMSprop with momentum, a rate that falls after each epoch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.net(x), labels, label_smoothing=0.1)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ExponentialLR]]:
        optimizer = RMSprop(self.parameters(), lr=self.lr, alpha=0.9, momentum=0.9, weight_decay=1e-5)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.8)]


@lru_cache(maxsize=1)
def lower_layers() -> Split:
    """Greek letters after the frozen stem and first three blocks of EfficientNet-Lite0."""
    split, trunk = data.greek_letters(), next(shaping_glyphs.first_blocks().children())
    assert isinstance(trunk, nn.Sequential)
    with torch.no_grad():
        x, x_test = (torch.cat([trunk[:6].eval()(part) for part in x.split(64)]) for x in (split[0], split[2]))
    return split._replace(x_train=x, x_test=x_test)


def last_block() -> nn.Module:
    """The fourth block with ImageNet weights, and a new head for the Greek letters."""
    trunk: Any = next(shaping_glyphs.first_blocks().children())
    head = nn.Linear(40, len(data.GREEK))
    return nn.Sequential(trunk[6], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), head)


def nesterov(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """SGD with Nesterov's momentum and a little weight decay."""
    return SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="mlp-mixer-adamw-onecycle",
        module=lambda lr: MixerTraining(Mixer(), lr),
        loader=batches(lambda: tuple(t[:2048] for t in datasets.mnist()[:2]), 32),
        epochs=10,
        score=accuracy_on(lambda: (datasets.mnist().x_test[:500], datasets.mnist().y_test[:500])),
        naive_lr=1e-3,
        default_lr=3e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
    LRTask(
        name="sam-convmixer-adamw-warmup-cosine",
        module=lambda lr: Training(conv_mixer(), cross_entropy, lr, decayed, warmup_cosine),
        loader=batches(lambda: sealed_data.noisy_digits()[:2], 32),
        epochs=10,
        score=accuracy_on(lambda: sealed_data.noisy_digits()[2:]),
        naive_lr=1e-3,
        default_lr=3e-3,
        exponents=half_decades(-3.5, 0.5),
        callbacks=lambda: [SAM(rho=0.05)],
    ),
    LRTask(
        name="depthwise-cnn-smoothing-rmsprop-exponential",
        module=lambda lr: Depthwise(depthwise_cnn(), lr),
        loader=batches(lambda: fresh_data.capitals()[:2], 32),
        epochs=12,
        score=accuracy_on(lambda: fresh_data.capitals()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-5, -1),
    ),
    LRTask(
        name="last-block-lite0-nesterov-steps",
        module=lambda lr: Training(last_block(), cross_entropy, lr, nesterov, thirds),
        loader=batches(lambda: lower_layers()[:2], 16),
        epochs=7,
        score=accuracy_on(lambda: lower_layers()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3.5, 0.5),
    ),
)
