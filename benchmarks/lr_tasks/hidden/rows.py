"""Tasks of the ninth group with sets, tables and graphs: kinds of solids, letters as numbers, and kinds of graphs."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, glu
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from benchmarks.datasets import Split
from benchmarks.lr_tasks.blind import rows_data as data
from benchmarks.lr_tasks.blind.rows_sets import Solids
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import Params, decayed, half_decades, nesterov
from benchmarks.lr_tasks.shaping.module import Training, warmup_cosine
from benchmarks.lr_tasks.task import LRTask
from lightning_hp.callbacks import SAM


class PointNet(nn.Module):
    """The same layers for each point, the maximum over the points, and an MLP."""

    def __init__(self, dim: int = 32, wide: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((3, dim), (dim, dim), (dim, wide)):
            layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
        self.each = nn.Sequential(*layers)
        first = (nn.Linear(wide, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(), nn.Dropout(0.2))
        self.all = nn.Sequential(*first, nn.Linear(dim, data.SOLIDS))

    def forward(self, points: Tensor) -> Tensor:
        found = self.each(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        logits: Tensor = self.all(found.amax(1))
        return logits


def late_steps(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A tenth of the rate after three fifths of the training, and a hundredth after 85 %."""
    return MultiStepLR(optimizer, [round(0.6 * steps), round(0.85 * steps)], gamma=0.1)


class Gated(nn.Module):
    """A linear map whose outputs are scaled by gates, normalised."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(n_in, 2 * n_out), nn.LayerNorm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.norm(glu(self.linear(x), 1))
        return gated


def gated_net(dim: int = 64) -> nn.Module:
    """Two gated layers with dropout, for sixteen columns and 26 letters."""
    return nn.Sequential(Gated(16, dim), nn.Dropout(0.1), Gated(dim, dim), nn.Dropout(0.1), nn.Linear(dim, 26))


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and a little weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=2e-4)


#: Steps of the longest random walk.
WALKS = 6


@lru_cache(maxsize=1)
def graphs() -> Split:
    """Adjacency matrices of graphs of eight kinds; beside them degrees and chances that a random walk returns."""

    def extended(matrix: Tensor) -> Tensor:
        degree = matrix.sum(2, keepdim=True)
        step, walk, parts = matrix / degree.clamp(min=1), torch.eye(data.NODES), [matrix, degree / 4]
        for _ in range(WALKS):
            walk = step @ walk
            parts.append(3 * walk.diagonal(dim1=1, dim2=2)[..., None])
        return torch.cat(parts, 2)

    x, y, x_test, y_test = data.graph_families()
    return Split(extended(x), y, extended(x_test), y_test)


class GraphLayer(nn.Module):
    """Attention to all nodes, with a bias for neighbours that differs between the heads, and an MLP."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.near = nn.Parameter(torch.linspace(-1, 3, heads)[:, None, None])
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim))

    def forward(self, h: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + self.near * matrix[:, None] + bias).softmax(3)
        h = h + self.out((weights @ v).transpose(1, 2).flatten(2))
        changed: Tensor = h + self.mlp(self.norms[1](h))
        return changed


class GraphTransformer(nn.Module):
    """What is known of each node, a layer of attention, and the mean over the nodes."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(WALKS + 1, dim), GraphLayer(dim)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Dropout(0.1), nn.Linear(dim, data.FAMILIES))

    def forward(self, x: Tensor) -> Tensor:
        matrix, known = x.split([data.NODES, WALKS + 1], 2)
        is_node = (known[..., :1] > 0).float()
        bias = (is_node.transpose(1, 2)[:, None] - 1) * 1e9
        h = self.layer(self.embed(known), matrix, bias)
        logits: Tensor = self.head((h * is_node).sum(1) / is_node.sum(1))
        return logits


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="solids-pointnet-nesterov-steps",
        module=lambda lr: Solids(PointNet(), cross_entropy, lr, nesterov, late_steps),
        loader=batches(lambda: data.solids()[:2], 64),
        epochs=12,
        score=accuracy_on(lambda: data.solids()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="letter-table-gated-sam-momentum-constant",
        module=lambda lr: Training(gated_net(), cross_entropy, lr, momentum, None),
        loader=batches(lambda: data.letter_statistics()[:2], 48),
        epochs=7,
        score=accuracy_on(lambda: data.letter_statistics()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3, 0.5),
        callbacks=lambda: [SAM(rho=0.05)],
    ),
    LRTask(
        name="graph-kinds-transformer-adamw-decay-warmup-cosine",
        module=lambda lr: Training(GraphTransformer(), cross_entropy, lr, decayed, warmup_cosine),
        loader=batches(lambda: graphs()[:2], 32),
        epochs=5,
        score=accuracy_on(lambda: graphs()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
)
