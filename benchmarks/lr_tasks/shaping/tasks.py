"""The tasks on which a rule for the learning rate is designed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.shaping import glyphs, images, tables, texts
from benchmarks.lr_tasks.shaping.module import (
    Loss,
    MakeOptimizer,
    MakeSchedule,
    Training,
    cosine,
    cross_entropy_and_dice,
    polynomial,
    warmup_cosine,
    warmup_linear,
)
from benchmarks.lr_tasks.shaping.nets import LetterLSTM, RowGRU, UNet, autoencoder, plain_cnn, small_vit
from benchmarks.lr_tasks.shaping.scores import accuracy, explained_variance, intersection_over_union
from benchmarks.lr_tasks.task import LRTask
from benchmarks.tasks import mlp
from lightning_hp import SAM

Params = Iterable[nn.Parameter]


def _sgd(params: Params, lr: float) -> Optimizer:
    return SGD(params, lr=lr)


def _momentum(params: Params, lr: float) -> Optimizer:
    return SGD(params, lr=lr, momentum=0.9)


def _momentum_decay(params: Params, lr: float) -> Optimizer:
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-4)


def _adam(params: Params, lr: float) -> Optimizer:
    return Adam(params, lr=lr)


def _adamw(params: Params, lr: float) -> Optimizer:
    return AdamW(params, lr=lr)


def _adamw_vit(params: Params, lr: float) -> Optimizer:
    return AdamW(params, lr=lr, weight_decay=0.05)


def _rmsprop(params: Params, lr: float) -> Optimizer:
    return RMSprop(params, lr=lr)


def _grid(low: float, count: int) -> tuple[float, ...]:
    """Exponents in steps of half a decade."""
    return tuple(low + 0.5 * i for i in range(count))


def _mnist_images() -> Split:
    """MNIST pixels as input and as target."""
    split = datasets.mnist()
    x, x_test = split.x_train.flatten(1), split.x_test.flatten(1)
    return Split(x, x, x_test, x_test)


def _digits_1000() -> Split:
    split = datasets.digits()
    return split._replace(x_train=split.x_train[:1000], y_train=split.y_train[:1000])


def _task(
    name: str,
    split: Callable[[], Split],
    net: Callable[[], nn.Module],
    optimizer: MakeOptimizer,
    *,
    batch_size: int,
    epochs: int,
    default_lr: float,
    exponents: tuple[float, ...],
    schedule: MakeSchedule | None = None,
    loss: Loss = cross_entropy,
    metric: Callable[[Tensor, Tensor], float] = accuracy,
    callbacks: Callable[[], list[pl.Callback]] = list,
    **options: Any,
) -> LRTask:
    def loader() -> DataLoader[Any]:
        data = split()
        return DataLoader(TensorDataset(data.x_train, data.y_train), batch_size, shuffle=True)

    @torch.no_grad()
    def score(module: pl.LightningModule) -> float:
        data = split()
        return metric(module(data.x_test), data.y_test)

    return LRTask(
        name,
        module=lambda lr: Training(net(), loss, lr, optimizer, schedule),
        loader=loader,
        epochs=epochs,
        score=score,
        naive_lr=0.1 if optimizer in (_sgd, _momentum, _momentum_decay) else 1e-3,
        default_lr=default_lr,
        exponents=exponents,
        callbacks=callbacks,
        options=options,
    )


TASKS: tuple[LRTask, ...] = (
    _task(
        "pairs36-mlp-momentum",
        images.pairs_of_36_classes,
        lambda: mlp(128, 128, 36),
        _momentum,
        batch_size=32,
        epochs=16,
        default_lr=0.01,
        exponents=_grid(-4.0, 8),
    ),
    _task(
        "table35-mlp-momentum",
        tables.generated_classes,
        lambda: mlp(40, 128, 35),
        _momentum,
        batch_size=64,
        epochs=12,
        default_lr=0.01,
        exponents=_grid(-4.0, 8),
    ),
    _task(
        "pairs100-mlp-adamw",
        images.pairs_of_100_classes,
        lambda: mlp(392, 256, 100),
        _adamw,
        batch_size=64,
        epochs=8,
        default_lr=1e-3,
        exponents=_grid(-5.0, 8),
    ),
    _task(
        "mnist-plaincnn-momentum",
        datasets.mnist,
        plain_cnn,
        _momentum,
        batch_size=64,
        epochs=3,
        default_lr=0.01,
        exponents=_grid(-3.5, 8),
    ),
    _task(
        "news-bert-adamw-warmup",
        texts.news,
        texts.SmallBert,
        _adamw,
        batch_size=16,
        epochs=4,
        default_lr=5e-5,
        exponents=_grid(-5.0, 8),
        schedule=warmup_linear,
    ),
    _task(
        "letters-lite0-momentum-cosine",
        glyphs.letters,
        glyphs.first_blocks,
        _momentum_decay,
        batch_size=16,
        epochs=4,
        default_lr=0.01,
        exponents=_grid(-3.5, 8),
        schedule=cosine,
    ),
    _task(
        "letters-lite0-adamw-cosine",
        glyphs.letters,
        glyphs.first_blocks,
        _adamw,
        batch_size=16,
        epochs=4,
        default_lr=3e-4,
        exponents=_grid(-4.5, 8),
        schedule=cosine,
    ),
    _task(
        "photo-unet-momentum-poly",
        images.digits_before_photo,
        UNet,
        _momentum_decay,
        batch_size=8,
        epochs=3,
        default_lr=0.01,
        exponents=_grid(-3.5, 9),
        schedule=polynomial,
        loss=cross_entropy_and_dice,
        metric=intersection_over_union,
    ),
    _task(
        "mnist-autoencoder-adam",
        _mnist_images,
        autoencoder,
        _adam,
        batch_size=64,
        epochs=8,
        default_lr=1e-3,
        exponents=_grid(-4.5, 8),
        loss=mse_loss,
        metric=explained_variance,
    ),
    _task(
        "mnist-gru-rmsprop",
        datasets.mnist,
        lambda: RowGRU(14, 64, 10),
        _rmsprop,
        batch_size=32,
        epochs=3,
        default_lr=1e-3,
        exponents=_grid(-4.5, 8),
    ),
    _task(
        "letters-lstm-adam-clipped",
        datasets.text,
        LetterLSTM,
        _adam,
        batch_size=64,
        epochs=2,
        default_lr=1e-3,
        exponents=_grid(-4.0, 9),
        gradient_clip_val=1.0,
    ),
    _task(
        "friedman-mlp-adam-batch8",
        tables.friedman,
        lambda: mlp(10, 64, 1),
        _adam,
        batch_size=8,
        epochs=8,
        default_lr=1e-3,
        exponents=_grid(-4.5, 8),
        loss=mse_loss,
        metric=explained_variance,
    ),
    _task(
        "digits-vit-adamw-warmup",
        datasets.digits,
        small_vit,
        _adamw_vit,
        batch_size=32,
        epochs=8,
        default_lr=1e-3,
        exponents=_grid(-4.5, 8),
        schedule=warmup_cosine,
    ),
    _task(
        "digits-mlp-momentum-sam",
        datasets.digits,
        lambda: mlp(64, 128, 10),
        _momentum,
        batch_size=32,
        epochs=10,
        default_lr=0.01,
        exponents=_grid(-3.5, 8),
        callbacks=lambda: [SAM(rho=0.2)],
    ),
    _task(
        "digits-mlp-sgd-batch2",
        _digits_1000,
        lambda: mlp(64, 128, 10),
        _sgd,
        batch_size=2,
        epochs=3,
        default_lr=0.01,
        exponents=_grid(-4.0, 8),
    ),
    _task(
        "price-mlp-adam",
        tables.prices,
        lambda: mlp(10, 64, 1),
        _adam,
        batch_size=64,
        epochs=15,
        default_lr=1e-3,
        exponents=_grid(-4.0, 9),
        loss=mse_loss,
        metric=explained_variance,
    ),
)
