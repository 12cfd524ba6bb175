"""Tasks of the tenth group with texts: the language of a name, and the part of a docstring a sentence is from."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from benchmarks.datasets import Split
from benchmarks.lr_tasks.blind.texts import pretrained_words
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.sealed.common import Params, decayed, half_decades, one_cycle
from benchmarks.lr_tasks.shaping.module import Training, warmup_linear
from benchmarks.lr_tasks.task import LRTask

#: All are written with Latin letters.
LANGUAGES = (
    *("cs", "de", "en", "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id", "is", "it", "lt", "lv"),
    *("nb", "nl", "pl", "pt", "ro", "sk", "sq", "tr"),
)
#: Characters of a name, and different ones; rare ones share the last number, and 0 is padding.
NAME, CHARACTERS = 24, 385


@lru_cache(maxsize=1)
def names() -> Split:
    """Names of places, languages and currencies in 24 languages; 4800 and 960."""
    from babel import Locale

    random = np.random.RandomState(114)
    parts: tuple[list[tuple[list[int], int]], ...] = ([], [])
    for label, language in enumerate(LANGUAGES):
        locale, found = Locale(language), set()
        for name in (*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()):
            plain = " ".join(re.findall(r"[^\W\d_]+", name.lower()))[:NAME]
            if len(plain) >= 5:
                found.add(plain)
        rows = sorted(found)
        for i, j in enumerate(random.permutation(len(rows))[:240]):
            parts[i >= 200].append(([min(ord(c), CHARACTERS - 1) for c in rows[j]], label))

    def tensors(part: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
        x = torch.tensor([codes + [0] * (NAME - len(codes)) for codes, _ in part])
        return x, torch.tensor([label for _, label in part])

    return Split(*tensors(parts[0]), *tensors(parts[1]))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first = (nn.Conv1d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm1d(dim), nn.ReLU())
        self.layers = nn.Sequential(*first, nn.Conv1d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class CharacterResNet(nn.Module):
    """Embedded characters, a convolution with stride, residual blocks, and the maximum over the name."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, 16, padding_idx=0)
        first = (nn.Conv1d(16, dim, 5, 2, 2, bias=False), nn.BatchNorm1d(dim), nn.ReLU())
        self.blocks = nn.Sequential(*first, Residual(dim), Residual(dim))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(dim, len(LANGUAGES)))

    def forward(self, numbers: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.embed(numbers).transpose(1, 2)).amax(2))
        return logits


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with smoothed labels."""
    return cross_entropy(logits, labels, label_smoothing=0.1)


def nesterov(params: Params, lr: float) -> Optimizer:
    """SGD with Nesterov's momentum and weight decay."""
    return SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3)


SECTIONS = ("Attributes", "Notes", "Parameters", "Returns")
#: Of each sentence; numbers of the vector of a word; sentences of each section for training and testing.
TOKENS, DIM, TRAINING, TESTING = 20, 64, 680, 200


def _sentences(library: str) -> list[tuple[str, str]]:
    """The first words of parts of docstrings, and their section; they differ a little between releases."""
    found: dict[str, str] = {}
    for path in [path for path in sorted(package_folder(library).rglob("*.py")) if "tests" not in path.parts][:400]:
        text = path.read_text(errors="ignore")
        for node in ast.walk(ast.parse(text)) if "-----" in text else ():
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                parts = re.split(r"^(\w[\w ]+)\n-{3,}\n", ast.get_docstring(node) or "", flags=re.MULTILINE)
                for section, body in zip(parts[1::2], parts[2::2], strict=True):
                    for part in re.split(r"\n\s*\n" if section == "Notes" else r"\n(?=\S)", body):
                        lines = part.splitlines() if section == "Notes" else part.splitlines()[1:]
                        words = " ".join(lines).split()
                        if section in SECTIONS and len(words) >= 5:
                            found[" ".join(words[:TOKENS])] = section
    return sorted(found.items())


@lru_cache(maxsize=1)
def sentences() -> tuple[Tensor, Split]:
    """Vectors of words, and sentences of docstrings as numbers of their words; 2720 and 800 of four sections."""
    random = np.random.RandomState(115)
    rows = [row for library in ("matplotlib", "networkx", "numpy", "scipy", "sklearn") for row in _sentences(library)]
    parts: tuple[list[tuple[str, int]], ...] = ([], [])
    for label, section in enumerate(SECTIONS):
        of_section = [text for text, name in rows if name == section]
        for i, j in enumerate(random.permutation(len(of_section))[: TRAINING + TESTING]):
            parts[i >= TRAINING].append((of_section[j], label))
    vectors, numbers = pretrained_words([text for part in parts for text, _ in part], TOKENS, DIM)
    labels, border = torch.tensor([label for part in parts for _, label in part]), len(parts[0])
    return vectors, Split(numbers[:border], labels[:border], numbers[border:], labels[border:])


class GatedCNN(nn.Module):
    """Pretrained vectors of words, gated convolutions, and a mean over the words with learned weights."""

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(sentences()[0].clone(), freeze=False, padding_idx=0)
        self.first, self.dropout = nn.Linear(DIM, dim), nn.Dropout(0.2)
        self.gated = nn.ModuleList([nn.Conv1d(dim, 2 * dim, 3, padding=1) for _ in range(2)])
        self.weights, self.head = nn.Linear(dim, 1), nn.Linear(dim, len(SECTIONS))

    def forward(self, numbers: Tensor) -> Tensor:
        h = self.first(self.dropout(self.embed(numbers))).transpose(1, 2)
        for layer in self.gated:
            h = h + nn.functional.glu(layer(h), 1)
        h = h.transpose(1, 2)
        weights = self.weights(h)[..., 0].masked_fill(numbers == 0, -1e9).softmax(1)
        logits: Tensor = self.head(self.dropout((weights[..., None] * h).sum(1)))
        return logits


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="names-character-resnet-nesterov-onecycle",
        module=lambda lr: Training(CharacterResNet(), smoothed, lr, nesterov, one_cycle),
        loader=batches(lambda: names()[:2], 48),
        epochs=9,
        score=accuracy_on(lambda: names()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="sections-gated-cnn-adamw-decay-warmup-linear-accumulation",
        module=lambda lr: Training(GatedCNN(), cross_entropy, lr, decayed, warmup_linear),
        loader=batches(lambda: sentences()[1][:2], 16),
        epochs=6,
        score=accuracy_on(lambda: sentences()[1][2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1.5),
        options={"accumulate_grad_batches": 2},
    ),
)
