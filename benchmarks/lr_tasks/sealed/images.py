"""Sealed tasks with images: fine-tuning, denoising, many noisy classes, SAM, a deep plain network, small batches."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed import data
from benchmarks.lr_tasks.sealed.common import adamw, explained_on, half_decades, momentum, one_cycle, thirds
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs
from benchmarks.lr_tasks.shaping.module import Training, cosine, polynomial, warmup_cosine
from benchmarks.lr_tasks.task import LRTask
from lightning_hp import SAM


def pretrained_blocks() -> nn.Module:
    """The first blocks of an ImageNet network, and a new head for ten digits."""
    trunk = next(shaping_glyphs.first_blocks().children())
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10))


def denoiser() -> nn.Module:
    """Three convolutions without normalisation."""
    hidden = (nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())
    return nn.Sequential(*hidden, nn.Conv2d(12, 1, 3, padding=1))


def plain_cnn() -> nn.Module:
    """Two convolutions without normalisation for 8x8 pixels and 60 classes."""
    layers = (nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(384, 96), nn.ReLU(), nn.Linear(96, 60))


def dropout_mlp() -> nn.Module:
    """An MLP with dropout for 14x14 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 96), nn.GELU(), nn.Dropout(0.2), nn.Linear(96, 10))


def letter_cnn() -> nn.Module:
    """Strided convolutions with BatchNorm for 16x16 pixels and 26 classes."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 12), (12, 24)):
        layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, 26))


def deep_mlp() -> nn.Module:
    """Eight layers with tanh and without normalisation."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(7):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def tiny_batch_norm_cnn() -> nn.Module:
    """Two strided convolutions with BatchNorm for 8x8 pixels."""
    first = (nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    second = (nn.Conv2d(8, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="colour-digits-lite0-adamw-warmup",
        module=lambda lr: Training(pretrained_blocks(), cross_entropy, lr, adamw, warmup_cosine),
        loader=batches(lambda: data.colour_digits()[:2], 8),
        epochs=4,
        score=accuracy_on(lambda: data.colour_digits()[2:]),
        naive_lr=1e-3,
        default_lr=3e-4,
        exponents=half_decades(-4.5, 0.5),
    ),
    LRTask(
        name="denoising-cnn-momentum-poly",
        module=lambda lr: Training(denoiser(), mse_loss, lr, momentum, polynomial),
        loader=batches(lambda: data.noisy_images()[:2], 16),
        epochs=2,
        score=explained_on(data.noisy_images),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="noisy-60-classes-cnn-adamw-cosine",
        module=lambda lr: Training(plain_cnn(), cross_entropy, lr, adamw, cosine),
        loader=batches(lambda: data.turned_digits()[:2], 32),
        epochs=5,
        score=accuracy_on(lambda: data.turned_digits()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-5, -1),
    ),
    LRTask(
        name="sam-mlp-adamw-constant",
        module=lambda lr: Training(dropout_mlp(), cross_entropy, lr, adamw, None),
        loader=batches(lambda: data.few_images()[:2], 32),
        epochs=12,
        score=accuracy_on(lambda: data.few_images()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-5, -1),
        callbacks=lambda: [SAM(rho=0.05)],
    ),
    LRTask(
        name="sam-letters-cnn-momentum-cosine",
        module=lambda lr: Training(letter_cnn(), cross_entropy, lr, momentum, cosine),
        loader=batches(lambda: data.grey_letters()[:2], 26),
        epochs=16,
        score=accuracy_on(lambda: data.grey_letters()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-4, 0.5),
        callbacks=lambda: [SAM(rho=0.2)],
    ),
    LRTask(
        name="deep-tanh-mlp-momentum-steps",
        module=lambda lr: Training(deep_mlp(), cross_entropy, lr, momentum, thirds),
        loader=batches(lambda: data.noisy_digits()[:2], 16),
        epochs=19,
        score=accuracy_on(lambda: data.noisy_digits()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="batch-8-cnn-momentum-onecycle",
        module=lambda lr: Training(tiny_batch_norm_cnn(), cross_entropy, lr, momentum, one_cycle),
        loader=batches(lambda: data.noisy_digits()[:2], 8),
        epochs=12,
        score=accuracy_on(lambda: data.noisy_digits()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-4, 0.5),
    ),
)
