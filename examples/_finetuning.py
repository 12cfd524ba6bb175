"""What the two fine-tuning examples share: features of frozen layers, one training, the scores and the figure."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_hp import Backbone, Classifier

TEXT, GREY, BLUE, RED = "#26324a", "#6b7385", "#245a8d", "#d1435b"
# Arguments of LRFinder that save time on two CPU cores: half of its default range, and fewer steps.
RANGE = {"min_lr": 1e-5, "max_lr": 1.0}
FEW_STEPS = {**RANGE, "budget": 200}
Scores = Mapping[str, Sequence[float]]  # the accuracies of each variant, one per seed


def silence_messages() -> None:
    """Silences messages that Lightning and other libraries repeat in every training."""
    for name in ("pytorch_lightning", "lightning_hp", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*LeafSpec.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", message)


@torch.no_grad()
def run_once(frozen: nn.Module, data: Dataset, batch_size: int = 64) -> TensorDataset:
    """Returns the outputs of a frozen module, computed once, since they are the same in every epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen.eval().to(device)
    outputs, labels = [], []
    for batch in DataLoader(data, batch_size):
        if isinstance(batch, dict):
            labels.append(batch.pop("labels"))
            outputs.append(frozen(**{name: value.to(device) for name, value in batch.items()}).cpu())
        else:
            labels.append(batch[1])
            outputs.append(frozen(batch[0].to(device)).cpu())
    frozen.cpu()
    return TensorDataset(torch.cat(outputs), torch.cat(labels))


def probe(
    features: Mapping[str, TensorDataset], num_classes: int, options: dict[str, Any], seed: int, folder: Path, name: str
) -> float:
    """Trains a head on frozen features with a found learning rate; returns the validation accuracy."""
    pl.seed_everything(seed, verbose=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads do not speed up such a small model
    # Features are standardised; otherwise a few epochs are not enough to learn from the smaller ones.
    std, mean = torch.std_mean(features["train"].tensors[0], dim=0)
    scaled = {
        part: TensorDataset((data.tensors[0] - mean) / (std + 1e-6), data.tensors[1]) for part, data in features.items()
    }
    backbone = Backbone(nn.Identity(), head=None, example_input=scaled["train"].tensors[0][:2])
    model = Classifier(backbone, num_classes, options, scheduler="CosineAnnealingLR", find_lr=RANGE, top_k=None)
    batch_size = max(32, 3 * num_classes)
    trainer = fit(model, scaled, epochs=12, batch_size=batch_size, folder=folder, name=f"{name}_seed={seed}")
    if model.lr == 1e-3:
        print(f"  {name}, seed {seed}: no learning rate was found; the default is used", flush=True)
    torch.set_num_threads(threads)
    return float(trainer.callback_metrics["val_accuracy"])


def fit(
    model: Classifier,
    data: Mapping[str, Dataset],
    *,
    epochs: int,
    batch_size: int,
    folder: Path,
    name: str,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Trains a model once and returns the Trainer; the curves are in TensorBoard under ``name``."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=TensorBoardLogger(folder.parent, name=folder.name, version=name),
        num_sanity_val_steps=0,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    train = DataLoader(data["train"], batch_size, shuffle=True)
    trainer.fit(model, train, DataLoader(data["val"], batch_size=256))
    return trainer


def count_confusions(model: Classifier, data: Dataset) -> np.ndarray:
    """Returns the confusion matrix: true classes in rows, predicted classes in columns."""
    loader = DataLoader(data, batch_size=256)
    # A new Trainer, since BatchSizeScaler would also search a batch size for predictions in the Trainer of the fit.
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False)
    predictions = torch.cat([batch.argmax(1).cpu() for batch in trainer.predict(model, loader)])
    labels = torch.cat([batch["labels"] if isinstance(batch, dict) else batch[1] for batch in loader])
    counts = np.zeros((model.num_classes, model.num_classes), dtype=int)
    np.add.at(counts, (labels.numpy(), predictions.numpy()), 1)
    return counts


def print_scores(scores: Scores) -> None:
    """Prints the mean and the standard deviation of each variant over its seeds."""
    for name, values in scores.items():
        spread = f" +- {stdev(values):.1%}" if len(values) > 1 else ""
        print(f"  {name:22s} {fmean(values):6.1%}{spread}", flush=True)


def draw(scores: Scores, title: str, counts: np.ndarray, classes: Sequence[str], subtitle: str) -> Figure:
    """Draws the compared variants on the left and the confusion matrix on the right."""
    figure = Figure(figsize=(14, 8.4) if len(classes) > 20 else (11, 5.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3.4))
    _draw_scores(left, scores, title)
    _draw_confusions(right, counts, classes, subtitle)
    return figure


def save(figure: Figure, trainer: pl.Trainer, folder: Path) -> None:
    """Saves the figure into the folder and into the TensorBoard run of the fine-tuning."""
    trainer.logger.experiment.add_figure("comparison_and_confusions", figure, trainer.global_step, close=False)
    trainer.logger.finalize("success")
    path = folder / f"{folder.name}.png"
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path}\nCurves, tables and figures: tensorboard --logdir {folder}", flush=True)


def common_arguments(description: str | None, logdir: str) -> argparse.ArgumentParser:
    """A parser with the arguments that both examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="trainings per head; the fine-tuning runs once")
    parser.add_argument("--logdir", type=Path, default=Path("runs") / logdir)
    return parser


def _draw_scores(ax: Axes, scores: Scores, title: str) -> None:
    best = max(scores, key=lambda name: fmean(scores[name]))
    for position, (name, values) in enumerate(scores.items()):
        color = RED if name == best else BLUE
        percent = [100 * value for value in values]
        ax.plot(percent, [position] * len(percent), "o", color=color, alpha=0.45, markeredgewidth=0)
        ax.plot([fmean(percent)] * 2, [position - 0.2, position + 0.2], color=color, linewidth=2.5)
        ax.text(fmean(percent), position - 0.26, f"{fmean(percent):.1f}", color=color, ha="center", va="bottom")
    ax.set_yticks(range(len(scores)), list(scores), color=TEXT)
    ax.set_ylim(len(scores) - 0.5, -0.6)
    shown = [100 * value for values in scores.values() for value in values]
    # An axis of at least six points, so that noise does not look like a difference.
    margin = max(0.6, (6 - max(shown) + min(shown)) / 2)
    ax.set_xlim(min(shown) - margin, max(shown) + margin)
    ax.set_xlabel("validation accuracy in %: each seed, and the mean", color=GREY)
    ax.set_title(title, loc="left", color=TEXT, fontweight="bold")
    ax.spines[:].set_visible(False)
    ax.tick_params(colors=GREY, length=0)
    ax.grid(axis="x", color="#e8ebf0")
    ax.set_axisbelow(True)


def _draw_confusions(ax: Axes, counts: np.ndarray, classes: Sequence[str], subtitle: str) -> None:
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    correct = np.eye(len(classes), dtype=bool)
    ax.imshow(np.where(correct, shares, np.nan), cmap="Blues", vmin=0, vmax=1.3)
    ax.imshow(np.where(~correct & (counts > 0), shares, np.nan), cmap="Reds", vmin=-0.15, vmax=0.7)
    many = len(classes) > 20
    if not many:
        for row, column in np.ndindex(counts.shape):
            color = (
                "white"
                if shares[row, column] > (0.5 if row == column else 0.35)
                else TEXT
                if counts[row, column]
                else "#c9cfd9"
            )
            ax.text(column, row, counts[row, column], ha="center", va="center", color=color)
    ax.set_xticks(range(len(classes)), classes, fontsize=7 if many else 10)
    ax.set_yticks(range(len(classes)), classes, fontsize=7 if many else 10)
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(colors=TEXT, length=0)
    ax.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#eef0f4", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(subtitle, loc="left", color=TEXT, fontweight="bold")
