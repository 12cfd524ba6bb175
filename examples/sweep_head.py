"""The sweep of an article: hidden units from 64 to 1024, then dropout, then the activation function.

    python examples/sweep_head.py [--seeds 3] [--epochs 12] [--refine 0] [--workers 1] [--logdir runs/sweep_head]

A head with one hidden layer is trained on the features of a frozen ImageNet network, for 62 classes of glyphs that are
drawn in the fonts of matplotlib. The features are computed once, and nothing is downloaded. One subject is swept at a
time, the most important first; each keeps its best value. LRFinder rehearses in each setting and finds its learning
rate. Every setting is trained with the same seeds, so that differences can be told from noise. A second call of the
script trains nothing; more values, seeds or subjects train what is new. Takes about two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from _finetuning import RANGE, run_once, silence_messages
from _glyphs import CLASSES, render
from finetune_images import VARIANTS, load_lite0
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import Backbone, Classifier, LRFinder, sweep

SPACE = {
    "n_hidden_units": [64, 128, 256, 512, 1024],
    "dropout_val": [0.0, 0.2, 0.5],
    "activation_fn": ["ReLU", "GELU", "Tanh"],
}
BATCH_SIZE = 3 * len(CLASSES)  # three samples of each class


@functools.cache
def load_features() -> dict[str, TensorDataset]:
    """Features of the training and validation images, standardised; computed once in each process."""
    lower, upper = load_lite0()
    frozen = nn.Sequential(lower, upper)
    data = {part: run_once(frozen, TensorDataset(*render(part, VARIANTS[part]))) for part in ("train", "val")}
    std, mean = torch.std_mean(data["train"].tensors[0], dim=0)
    return {part: TensorDataset((d.tensors[0] - mean) / (std + 1e-6), d.tensors[1]) for part, d in data.items()}


def build(settings: dict[str, Any]) -> tuple[Classifier, tuple[DataLoader, DataLoader]]:
    """A head with these options, and the features as data."""
    data = load_features()
    backbone = Backbone(nn.Identity(), head=None, example_input=data["train"].tensors[0][:2])
    nn_options_dict = {**settings, "n_hidden_layers": 1, "use_dropout": settings["dropout_val"] > 0}
    model = Classifier(backbone, len(CLASSES), nn_options_dict, scheduler="CosineAnnealingLR", top_k=None)
    train = DataLoader(data["train"], BATCH_SIZE, shuffle=True)
    return model, (train, DataLoader(data["val"], batch_size=256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings per setting")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--refine", type=int, default=0, help="further settings between the values of the lists")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once")
    parser.add_argument("--logdir", type=Path, default=Path("runs/sweep_head"))
    args = parser.parse_args()
    silence_messages()
    torch.set_num_threads(1)  # more threads do not speed up such a small model

    result = sweep(
        build,
        SPACE,
        monitor="val_accuracy",
        mode="max",
        trainer={"max_epochs": args.epochs, "accelerator": "cpu"},
        seeds=args.seeds,
        refine=args.refine,
        retune=LRFinder(**RANGE),
        workers=args.workers,
        logdir=args.logdir,
        enable_progress_bar=sys.stderr.isatty(),
    )

    print(f"{result}\n")
    header, rows = result.table()
    columns = range(len(SPACE) + 3)  # the subjects, the rate used, mean and standard error
    print("  ".join(f"{header[column]:>16}" for column in columns))
    for row in rows:
        shown = [row[column] for column in columns]
        print("  ".join(f"{cell:16.4f}" if isinstance(cell, float) else f"{cell or '-':>16}" for cell in shown))
    figure = args.logdir / "sweep.png"
    result.plot().savefig(figure, dpi=110)
    print(f"\nFigure: {figure}\nCurves, tables, figures and the HParams tab: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
