"""Held-out tasks with tables and graphs: a graph network, a transformer over columns, and counts."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, mse_loss, poisson_nll_loss
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader

from benchmarks.lr_tasks.held_out import data
from benchmarks.lr_tasks.held_out.common import NetModule, batches, explained, percent_equal
from benchmarks.lr_tasks.task import LRTask


class GraphNet(nn.Module):
    """Two graph convolutions with dropout."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        def gather(h: Tensor) -> Tensor:
            return torch.zeros_like(h).index_add(0, edges[0], h[edges[1]] * weights[:, None])

        h = gather(self.first(dropout(x, 0.5, self.training))).relu()
        return gather(self.second(dropout(h, 0.5, self.training)))


class NodeClassifier(NetModule):
    """Classifies the nodes of one graph; a batch is the whole graph."""

    def training_step(self, batch: data.Graph, batch_idx: int) -> Tensor:
        logits = self.net(batch.features, batch.edges, batch.weights)
        return cross_entropy(logits[batch.is_train], batch.labels[batch.is_train])

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.lr, weight_decay=5e-4)


@torch.no_grad()
def node_accuracy(module: pl.LightningModule) -> float:
    """Accuracy on the nodes that are not for training."""
    graph = data.digit_graph()
    logits = module.net(graph.features, graph.edges, graph.weights)  # type: ignore[operator]
    return percent_equal(logits[~graph.is_train], graph.labels[~graph.is_train])


def whole_graph() -> DataLoader[Any]:
    """One batch per epoch: the graph."""
    return DataLoader([data.digit_graph()], batch_size=None)  # type: ignore[arg-type]


class ColumnTransformer(nn.Module):
    """Each column of a table is a token, as in FT-Transformer."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.randn(8, dim) * dim**-0.5)
        self.categories = nn.ModuleList([nn.Embedding(size, dim) for size in (4, 6)])
        self.summary = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        embedded = [embed(column)[:, None] for embed, column in zip(self.categories, categories.T, strict=True)]
        summary = self.summary.expand(len(numbers), 1, -1)
        tokens = torch.cat([summary, numbers[:, :, None] * self.weight + self.bias, *embedded], 1)
        return self.head(self.blocks(tokens)[:, 0]).squeeze(1)


class TableRegression(NetModule):
    """Mean squared error of a standardised target."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        numbers, categories, target = batch
        return mse_loss(self.net(numbers, categories), target)

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), lr=self.lr, weight_decay=1e-5)


@torch.no_grad()
def table_score(module: pl.LightningModule) -> float:
    """Explained variance on test rows."""
    numbers, categories, target = data.mixed_table()[1]
    return explained(module.net(numbers, categories), target)  # type: ignore[operator]


class PoissonRegression(NetModule):
    """Predicts the logarithm of the rate of a count."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return poisson_nll_loss(self.net(x).squeeze(1), y)

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


@torch.no_grad()
def deviance_score(module: pl.LightningModule) -> float:
    """Explained deviance on test rows in percent, not below 0."""
    x, y = data.counts()[2:]

    def deviance(log_rate: Tensor) -> float:
        return float((torch.xlogy(y, y) - y * log_rate - y + log_rate.exp()).mean())

    share = deviance(module.net(x).squeeze(1)) / deviance(y.mean().log().expand(len(y)))  # type: ignore[operator]
    return max(0.0, 100.0 * (1.0 - share))


def count_mlp() -> nn.Module:
    """An MLP with tanh."""
    return nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="graph-gcn-adam-constant",
        module=lambda lr: NodeClassifier(GraphNet(), lr),
        loader=whole_graph,
        epochs=180,
        score=node_accuracy,
        naive_lr=1e-3,
        default_lr=1e-2,
        exponents=(-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5),
    ),
    LRTask(
        name="table-transformer-adamw-constant",
        module=lambda lr: TableRegression(ColumnTransformer(), lr),
        loader=batches(lambda: data.mixed_table()[0], 128),
        epochs=15,
        score=table_score,
        naive_lr=1e-3,
        default_lr=1e-4,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
    LRTask(
        name="counts-poisson-momentum-batch-4",
        module=lambda lr: PoissonRegression(count_mlp(), lr),
        loader=batches(lambda: data.counts()[:2], 4),
        epochs=3,
        score=deviance_score,
        naive_lr=0.1,
        default_lr=0.01,
        exponents=(-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
)
