"""Four trainings on labels of which 40 % are wrong: SGD, SGD with SAM's compute, SGD with tuned weight decay, SAM.

    python examples/sam_vs_sgd.py [--seeds 5] [--logdir runs]

1000 small handwritten digits (scikit-learn's, nothing is downloaded), a network that is large enough to learn every
wrong label by heart, and 797 digits with right labels to test on. Each training is repeated with other weights, other
splits and other wrong labels. The third arm is there to be fair: the weight decay of SGD was tuned for this task, as
SAM's radius was, both by the test accuracy in an earlier sweep. Takes about a minute and a half on two CPU cores.
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
class Arm:
    """One way to train."""

    name: str
    color: str
    epochs: int = EPOCHS
    weight_decay: float = 5e-4
    rho: float = 0.0


ARMS = (
    Arm("SGD", "tab:gray"),
    Arm("SGD, twice the epochs", "tab:orange", epochs=2 * EPOCHS),
    Arm("SGD, tuned weight decay", "tab:blue", weight_decay=0.02),
    Arm(f"SAM, rho {RHO}", "tab:green", rho=RHO),
)


class Digits(pl.LightningModule):
    """A plain classifier; nothing in it knows of SAM."""

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
    """Digits of which some have a wrong label, and other digits whose labels are right."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)
    x = (x - x.mean()) / x.std()
    dice = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=dice)
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    shift = torch.randint(1, 10, (NUM_TRAIN,), generator=dice)  # never zero: a wrong label is wrong
    is_wrong = torch.rand(NUM_TRAIN, generator=dice) < WRONG
    noisy = (y[train] + shift * is_wrong) % 10
    return TensorDataset(x[train], noisy), TensorDataset(x[test], y[test])


def fit(arm: Arm, seed: int, logdir: Path) -> list[tuple[int, float]]:
    """One training; returns the test accuracy (%) after every second epoch."""
    pl.seed_everything(seed, verbose=False)
    train, test = make_data(seed)
    module = Digits(arm.epochs, arm.weight_decay)
    name = arm.name.replace(", ", "_").replace(" ", "_")
    trainer = pl.Trainer(
        max_epochs=arm.epochs,
        accelerator="cpu",
        callbacks=[SAM(rho=arm.rho)] if arm.rho else [],
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


def draw(curves: dict[Arm, list[list[tuple[int, float]]]]) -> Figure:
    """Left: the accuracy while the network trains. Right: where each training ended."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for position, (arm, runs) in enumerate(curves.items()):
        steps = [epoch / arm.epochs for epoch, _ in runs[0]]
        by_epoch = [[accuracy for _, accuracy in points] for points in zip(*runs, strict=True)]
        left.plot(steps, [mean(points) for points in by_epoch], color=arm.color, label=arm.name)
        left.fill_between(
            steps,
            [min(points) for points in by_epoch],
            [max(points) for points in by_epoch],
            color=arm.color,
            alpha=0.15,
        )
        ends = [run[-1][1] for run in runs]
        right.plot(ends, [position] * len(ends), "o", color=arm.color, alpha=0.6)
        right.plot([mean(ends)] * 2, [position - 0.25, position + 0.25], color=arm.color, linewidth=2)
        right.text(mean(ends), position - 0.3, f"{mean(ends):.1f}", ha="center", va="bottom", fontsize=9)
    left.set(xlabel="share of the training", ylabel="test accuracy, %", title="Mean and range over seeds")
    left.legend(loc="lower right", fontsize=8)
    left.grid(alpha=0.3)
    right.set(xlabel="test accuracy at the end, %", title="Each seed, and their mean")
    right.set_yticks(range(len(curves)), [arm.name.replace(", ", ",\n") for arm in curves])
    right.set_ylim(len(curves) - 0.5, -0.8)
    right.grid(alpha=0.3, axis="x")
    figure.suptitle(f"Digits with {WRONG:.0%} wrong labels")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--logdir", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # the network is so small that threads only wait for one another
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for chatter in (".*does not have many workers.*", ".*LeafSpec.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", chatter)

    curves: dict[Arm, list[list[tuple[int, float]]]] = {arm: [] for arm in ARMS}
    seconds = dict.fromkeys(ARMS, 0.0)
    for seed in range(args.seeds):
        for arm in ARMS:
            started = time.monotonic()
            curves[arm].append(fit(arm, seed, args.logdir))
            seconds[arm] += time.monotonic() - started
        print(f"seed {seed}: " + ", ".join(f"{arm.name} {curves[arm][-1][-1][1]:.1f} %" for arm in ARMS), flush=True)

    print(
        f"\ntest accuracy at the end, {args.seeds} seeds: mean, standard deviation; and against SAM on the same seeds"
    )
    ends = {arm: [run[-1][1] for run in runs] for arm, runs in curves.items()}
    for arm in ARMS:
        spread = stdev(ends[arm]) if args.seeds > 1 else 0.0
        gain = [sam - other for sam, other in zip(ends[ARMS[-1]], ends[arm], strict=True)]
        against = "" if arm is ARMS[-1] else f"   SAM {mean(gain):+5.1f} ({sum(g > 0 for g in gain)} of {args.seeds})"
        print(
            f"  {arm.name:25s} {mean(ends[arm]):5.1f} % +- {spread:.1f}   {seconds[arm] / args.seeds:4.1f} s{against}"
        )

    figure = draw(curves)
    picture = args.logdir / "sam_vs_sgd" / "sam_vs_sgd.png"
    figure.savefig(picture, dpi=130)
    board = TensorBoardLogger(args.logdir, name="sam_vs_sgd", version="comparison")
    board.experiment.add_figure("sam_vs_sgd", figure, close=False)
    board.finalize("success")
    print(f"\nThe picture: {picture}. All of it: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
