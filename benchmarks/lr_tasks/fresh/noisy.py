"""Fresh tasks that are hard to train or easy to overfit: deep networks without normalisation, few images."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.lr_tasks.fresh import data
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import half_decades, momentum, thirds
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask


def _with_kaiming(net: nn.Module) -> nn.Module:
    """The usual initial weights of deep networks with ReLU."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def deep_relu_mlp() -> nn.Module:
    """Eleven layers without normalisation for 12x12 pixels and 36 classes."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(144, 64), nn.ReLU()]
    for _ in range(9):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return _with_kaiming(nn.Sequential(*layers, nn.Linear(64, 36)))


def deep_plain_cnn() -> nn.Module:
    """Eight convolutions without normalisation for 8x8 pixels, as in VGG."""
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((1, 8, 1), (8, 8, 2), *((8, 8, 1),) * 3, (8, 16, 2), *((16, 16, 1),) * 2):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.ReLU()]
    return _with_kaiming(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10)))


def few_images_cnn() -> nn.Module:
    """Two strided convolutions with BatchNorm, and dropout, for 14x14 pixels."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="deep-relu-mlp-36-classes-momentum-constant",
        module=lambda lr: Training(deep_relu_mlp(), cross_entropy, lr, momentum, None),
        loader=batches(lambda: data.capitals()[:2], 32),
        epochs=28,
        score=accuracy_on(lambda: data.capitals()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-4.5, -0.5),
    ),
    LRTask(
        name="wrong-labels-deep-cnn-momentum-cosine",
        module=lambda lr: Training(deep_plain_cnn(), cross_entropy, lr, momentum, cosine),
        loader=batches(lambda: data.wrong_labels()[:2], 16),
        epochs=10,
        score=accuracy_on(lambda: data.wrong_labels()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="160-images-cnn-momentum-steps",
        module=lambda lr: Training(few_images_cnn(), cross_entropy, lr, momentum, thirds),
        loader=batches(lambda: data.few_mnist()[:2], 16),
        epochs=100,
        score=accuracy_on(lambda: data.few_mnist()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-4, 0),
    ),
)
