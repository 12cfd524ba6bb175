"""Tasks of the tenth group with a table and with sets: what a visitor does, and which particle a jet is from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.optim import Adam, NAdam, Optimizer

from benchmarks.lr_tasks.closed import rows_data as data
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import Params, half_decades
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask


class CrossNetwork(nn.Module):
    """Embedded categories and numbers, two layers of their products, and an MLP beside them, as in DCN."""

    def __init__(self, dim: int = 6, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Embedding(size, dim) for size in data.CATEGORIES])
        for embedding in self.embed.parameters():
            nn.init.normal_(embedding, std=0.3)
        wide = dim * len(data.CATEGORIES) + data.NUMBERS
        self.cross = nn.ModuleList([nn.Linear(wide, wide), nn.Linear(wide, wide)])
        self.deep = nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(wide + hidden, data.ACTIONS)

    def forward(self, x: Tensor) -> Tensor:
        kinds, numbers = x[:, : -data.NUMBERS].long(), x[:, -data.NUMBERS :]
        embedded = [embed(kind) for embed, kind in zip(self.embed, kinds.unbind(1), strict=True)]
        first = crossed = torch.cat([*embedded, numbers], 1)
        for layer in self.cross:
            crossed = crossed + first * layer(crossed)
        logits: Tensor = self.head(torch.cat([crossed, self.deep(first)], 1))
        return logits


def adam(params: Params, lr: float) -> Optimizer:
    """Adam with a little weight decay in its gradient."""
    return Adam(params, lr=lr, weight_decay=1e-5)


class Attention(nn.Module):
    """One set looks at another; what it finds is added, normalised, and changed by an MLP."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(other).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(q, k, v, mask)
        x = self.norms[0](x + self.out(found.transpose(1, 2).flatten(2)))
        changed: Tensor = self.norms[1](x + self.mlp(x))
        return changed


class Perceiver(nn.Module):
    """A few learned points look at the particles of a jet, and then at each other."""

    def __init__(self, dim: int = 32, points: int = 6) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.points = nn.Parameter(torch.randn(1, points, dim))
        self.gather, self.mix = Attention(dim), Attention(dim)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, data.JETS))

    def forward(self, jets: Tensor) -> Tensor:
        mask, h = jets[:, None, None, :, 3] > 0, self.embed(jets[..., :3])
        points = self.gather(self.points.expand(len(h), -1, -1), h, mask)
        logits: Tensor = self.head(self.mix(points, points).mean(1))
        return logits


def nadam(params: Params, lr: float) -> Optimizer:
    """NAdam with decoupled weight decay."""
    return NAdam(params, lr=lr, weight_decay=0.02, decoupled_weight_decay=True, foreach=True)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="visits-cross-network-adam-constant",
        module=lambda lr: Training(CrossNetwork(), cross_entropy, lr, adam, None),
        loader=batches(lambda: data.visits()[:2], 256),
        epochs=9,
        score=accuracy_on(lambda: data.visits()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="jets-perceiver-nadamw-cosine",
        module=lambda lr: Training(Perceiver(), cross_entropy, lr, nadam, cosine),
        loader=batches(lambda: data.jets()[:2], 64),
        epochs=9,
        score=accuracy_on(lambda: data.jets()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
)
