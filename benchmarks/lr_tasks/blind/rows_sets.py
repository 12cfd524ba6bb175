"""Blind tasks with graphs and sets: kinds of graphs, kinds of solids, and the energy of atoms."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, softplus
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR

from benchmarks.lr_tasks.blind import rows_data as data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, explained
from benchmarks.lr_tasks.sealed.common import Params, half_decades, strongly_decayed
from benchmarks.lr_tasks.shaping.module import Training, warmup_cosine
from benchmarks.lr_tasks.task import LRTask


class Isomorphism(nn.Module):
    """A graph isomorphism network: sums over neighbours, MLPs with BatchNorm, and the sum over the nodes."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.layers, n_in = nn.ModuleList(), 2
        for _ in range(3):
            mlp = (nn.Linear(n_in, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
            self.layers.append(nn.Sequential(*mlp))
            n_in = dim
        self.head = nn.Sequential(nn.BatchNorm1d(3 * dim), nn.Dropout(0.3), nn.Linear(3 * dim, data.FAMILIES))

    def forward(self, matrix: Tensor) -> Tensor:
        degree = matrix.sum(2, keepdim=True)
        is_node = (degree > 0).float()
        h, sums = torch.cat([is_node, degree / 4], 2), []
        for layer in self.layers:
            h = h + matrix @ h
            h = layer(h.flatten(0, 1)).unflatten(0, matrix.shape[:2]) * is_node
            sums.append(h.sum(1))
        logits: Tensor = self.head(torch.cat(sums, 1))
        return logits


def adam(params: Params, lr: float) -> Optimizer:
    """Adam with a little weight decay in its gradient."""
    return Adam(params, lr=lr, weight_decay=1e-5)


def halved(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Half the rate after each quarter of the training."""
    return MultiStepLR(optimizer, [steps // 4, steps // 2, 3 * steps // 4], gamma=0.5)


class EdgeConvolution(nn.Module):
    """An MLP on each point and the step to each of its neighbours, and the maximum over them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * n_in, n_out, bias=False), nn.Linear(n_out, n_out, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(n_out), nn.BatchNorm1d(n_out)])

    def forward(self, h: Tensor, near: Tensor) -> Tensor:
        sets, points, neighbours = near.shape
        centre = h[:, :, None].expand(-1, -1, neighbours, -1)
        other = h.gather(1, near.flatten(1)[..., None].expand(-1, -1, h.shape[2])).view_as(centre)
        edges = torch.cat([centre, other - centre], 3).flatten(0, 2)
        for layer, norm in zip((self.first, self.second), self.norms, strict=True):
            edges = norm(layer(edges)).relu()
        return edges.view(sets, points, neighbours, -1).amax(2)


class PointGraph(nn.Module):
    """Two edge convolutions over the five nearest points, and the mean and maximum over the set, as in DGCNN."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EdgeConvolution(3, dim), EdgeConvolution(dim, dim)])
        head = (nn.Linear(4 * dim, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, data.SOLIDS))
        self.head = nn.Sequential(*head)

    def forward(self, points: Tensor) -> Tensor:
        near = torch.cdist(points, points).topk(6, largest=False).indices[..., 1:]
        h, found = points, []
        for layer in self.layers:
            h = layer(h, near)
            found.append(h)
        both = torch.cat(found, 2)
        logits: Tensor = self.head(torch.cat([both.mean(1), both.amax(1)], 1))
        return logits


class Solids(Training):
    """Turns each set by a random angle about its upright axis."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        points, kinds = batch
        angle = 2 * math.pi * torch.rand(len(points), 1, device=points.device)
        x, y, z = points.unbind(2)
        turned = [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y, z]
        return self.loss(self(torch.stack(turned, 2)), kinds)


class Interactions(nn.Module):
    """Convolutions whose filters depend on the distance of two atoms, as in SchNet; the sum over the atoms."""

    centres: Tensor

    def __init__(self, dim: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(data.ELEMENTS, dim)
        self.register_buffer("centres", torch.linspace(0.5, 5.0, 16))
        self.filters = nn.ModuleList(
            [nn.Sequential(nn.Linear(16, dim), nn.Softplus(), nn.Linear(dim, dim)) for _ in range(layers)]
        )
        self.inputs = nn.ModuleList([nn.Linear(dim, dim, bias=False) for _ in range(layers)])
        self.outputs = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, dim), nn.Softplus(), nn.Linear(dim, dim)) for _ in range(layers)]
        )
        self.first, self.last = nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, kinds: Tensor, places: Tensor) -> Tensor:
        h, n = self.embed(kinds), kinds.shape[1]
        square = (places[:, :, None] - places[:, None]).square().sum(3)
        is_pair = ~torch.eye(n, dtype=torch.bool, device=places.device)
        distance = square.clamp(min=1e-6).sqrt()[..., None]
        radial = (-((distance - self.centres) / 0.3).square() / 2).exp() * is_pair[..., None]
        for filters, first, last in zip(self.filters, self.inputs, self.outputs, strict=True):
            weights = filters(radial) * is_pair[..., None]
            h = h + last((weights * first(h)[:, None]).sum(2))
        energy: Tensor = self.last(softplus(self.first(h))).sum((1, 2))
        return energy


class Energies(NetModule):
    """Mean squared error of the energy; AdamW whose rate falls by a factor after each epoch."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        kinds, places, energy = batch
        return mse_loss(self.net(kinds, places), energy)

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.8)]


@torch.no_grad()
def energy_score(module: pl.LightningModule) -> float:
    """Explained variance of the energy of test clusters."""
    kinds, places, energy = data.clusters()[1]
    return explained(module.net(kinds, places), energy)  # type: ignore[operator]


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="graph-kinds-gin-adam-halved",
        module=lambda lr: Training(Isomorphism(), cross_entropy, lr, adam, halved),
        loader=batches(lambda: data.graph_families()[:2], 32),
        epochs=12,
        score=accuracy_on(lambda: data.graph_families()[2:]),
        naive_lr=1e-3,
        default_lr=1e-2,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="solids-edge-convolution-adamw-clipped",
        module=lambda lr: Solids(PointGraph(), cross_entropy, lr, strongly_decayed, warmup_cosine),
        loader=batches(lambda: data.solids()[:2], 32),
        epochs=10,
        score=accuracy_on(lambda: data.solids()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, 0),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="energies-schnet-adamw-exponential",
        module=lambda lr: Energies(Interactions(), lr),
        loader=batches(lambda: data.clusters()[0], 32),
        epochs=12,
        score=energy_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
