"""Four trainings on 40 % wrong labels: SGD, SGD with SAM's compute, SGD with tuned weight decay, SAM.

    python examples/sam_vs_sgd.py [--seeds 5] [--logdir runs]

The data are 1000 small handwritten digits from scikit-learn (nothing is downloaded) and 797 digits with right labels
for the test. The network is large enough to memorise every wrong label. Each training is repeated with other weights,
splits and wrong labels. In the third variant the weight decay of SGD was tuned for this task, as SAM's radius was, both
by the test accuracy. Takes about a minute and a half on two CPU cores.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_hp import SAM

NUM_TRAIN, WRONG, BATCH_SIZE, EPOCHS = 1000, 0.4, 32, 40
RHO = 0.4


@dataclass(frozen=True)
class Variant:
    """The settings of one training."""

    name: str
    color: str
    epochs: int = EPOCHS
    weight_decay: float = 5e-4
    rho: float = 0.0


VARIANTS = (
    Variant("SGD", "tab:gray"),
    Variant("SGD, twice the epochs", "tab:orange", epochs=2 * EPOCHS),
    Variant("SGD, tuned weight decay", "tab:blue", weight_decay=0.02),
    Variant(f"SAM, rho {RHO}", "tab:green", rho=RHO),
)


class Digits(pl.LightningModule):
    """A classifier; nothing in it depends on SAM."""

    def __init__(self, epochs: int, weight_decay: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )  # fmt: skip
        self.epochs, self.weight_decay = epochs, weight_decay
        self.curve: list[tuple[int, float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        accuracy = (self.net(x).argmax(1) == y).float().mean()
        self.curve.append((self.current_epoch + 1, 100 * float(accuracy)))
        self.log("test_acc", accuracy)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def make_data(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Digits of which some have a wrong label for training, and digits with right labels for the test."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)
    x = (x - x.mean()) / x.std()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    shift = torch.randint(1, 10, (NUM_TRAIN,), generator=generator)  # never zero: a wrong label is wrong
    is_wrong = torch.rand(NUM_TRAIN, generator=generator) < WRONG
    noisy = (y[train] + shift * is_wrong) % 10
    return TensorDataset(x[train], noisy), TensorDataset(x[test], y[test])


def fit(variant: Variant, seed: int, logdir: Path) -> list[tuple[int, float]]:
    """One training; returns the test accuracy (%) after every second epoch."""
    pl.seed_everything(seed, verbose=False)
    train, test = make_data(seed)
    module = Digits(variant.epochs, variant.weight_decay)
    name = variant.name.replace(", ", "_").replace(" ", "_")
    trainer = pl.Trainer(
        max_epochs=variant.epochs,
        accelerator="cpu",
        callbacks=[SAM(rho=variant.rho)] if variant.rho else [],
        logger=TensorBoardLogger(logdir, name="sam_vs_sgd", version=name) if seed == 0 else False,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    # Whole batches are drawn from the tensors at once, which is faster than one sample at a time.
    batches = BatchSampler(RandomSampler(train), BATCH_SIZE, drop_last=False)
    trainer.fit(module, DataLoader(train, None, sampler=batches), DataLoader(test, batch_size=len(test)))
    return module.curve


def draw(curves: dict[Variant, list[list[tuple[int, float]]]]) -> Figure:
    """Left: the accuracy while the network trains. Right: where each training ended."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for position, (variant, runs) in enumerate(curves.items()):
        steps = [epoch / variant.epochs for epoch, _ in runs[0]]
        by_epoch = [[accuracy for _, accuracy in points] for points in zip(*runs, strict=True)]
        left.plot(steps, [mean(points) for points in by_epoch], color=variant.color, label=variant.name)
        left.fill_between(
            steps,
            [min(points) for points in by_epoch],
            [max(points) for points in by_epoch],
            color=variant.color,
            alpha=0.15,
        )
        ends = [run[-1][1] for run in runs]
        right.plot(ends, [position] * len(ends), "o", color=variant.color, alpha=0.6)
        right.plot([mean(ends)] * 2, [position - 0.25, position + 0.25], color=variant.color, linewidth=2)
        right.text(mean(ends), position - 0.3, f"{mean(ends):.1f}", ha="center", va="bottom", fontsize=9)
    left.set(xlabel="share of the training", ylabel="test accuracy, %", title="Mean and range over seeds")
    left.legend(loc="lower right", fontsize=8)
    left.grid(alpha=0.3)
    right.set(xlabel="test accuracy at the end, %", title="Each seed, and their mean")
    right.set_yticks(range(len(curves)), [variant.name.replace(", ", ",\n") for variant in curves])
    right.set_ylim(len(curves) - 0.5, -0.8)
    right.grid(alpha=0.3, axis="x")
    figure.suptitle(f"Digits with {WRONG:.0%} wrong labels")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--logdir", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # for such a small network more threads are slower
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*LeafSpec.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", message)

    curves: dict[Variant, list[list[tuple[int, float]]]] = {variant: [] for variant in VARIANTS}
    seconds = dict.fromkeys(VARIANTS, 0.0)
    for seed in range(args.seeds):
        for variant in VARIANTS:
            started = time.monotonic()
            curves[variant].append(fit(variant, seed, args.logdir))
            seconds[variant] += time.monotonic() - started
        accuracies = ", ".join(f"{variant.name} {runs[-1][-1][1]:.1f} %" for variant, runs in curves.items())
        print(f"seed {seed}: {accuracies}", flush=True)

    print(
        f"\ntest accuracy at the end, {args.seeds} seeds: mean, standard deviation; and against SAM on the same seeds"
    )
    ends = {variant: [run[-1][1] for run in runs] for variant, runs in curves.items()}
    for variant in VARIANTS:
        spread = stdev(ends[variant]) if args.seeds > 1 else 0.0
        gain = [sam - other for sam, other in zip(ends[VARIANTS[-1]], ends[variant], strict=True)]
        better = sum(points > 0 for points in gain)
        against = "" if variant is VARIANTS[-1] else f"   SAM {mean(gain):+5.1f} ({better} of {args.seeds})"
        duration = seconds[variant] / args.seeds
        print(f"  {variant.name:25s} {mean(ends[variant]):5.1f} % +- {spread:.1f}   {duration:4.1f} s{against}")

    figure = draw(curves)
    path = args.logdir / "sam_vs_sgd" / "sam_vs_sgd.png"
    figure.savefig(path, dpi=130)
    board = TensorBoardLogger(args.logdir, name="sam_vs_sgd", version="comparison")
    board.experiment.add_figure("sam_vs_sgd", figure, close=False)
    board.finalize("success")
    print(f"\nFigure: {path}\nCurves and figure: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
