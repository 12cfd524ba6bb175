"""Reserved tasks that learn an embedding of images: angles with a margin, and attention over bags of images."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, normalize, one_hot

from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step
from benchmarks.lr_tasks.reserved import data
from benchmarks.lr_tasks.sealed.common import adam, half_decades, momentum
from benchmarks.lr_tasks.shaping.module import Training, polynomial
from benchmarks.lr_tasks.task import LRTask


class Angles(nn.Module):
    """A CNN for 16x16 pixels; returns the cosine between its embedding and each class."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((1, 12), (12, 24), (24, 32)):
            layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.embed = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 32), nn.BatchNorm1d(32))
        self.classes = nn.Parameter(torch.randn(len(data.CYRILLIC), 32))

    def forward(self, x: Tensor) -> Tensor:
        return linear(normalize(self.embed(x)), normalize(self.classes))


class ArcFace(NetModule):
    """Cross entropy of scaled cosines; the angle to the right class counts as larger by a margin."""

    scale, margin = 12.0, 0.3

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        cosines: Tensor = self.net(x)
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        is_right = one_hot(labels, cosines.shape[1])
        return cross_entropy(self.scale * (angles + self.margin * is_right).cos(), labels)

    def configure_optimizers(self) -> object:
        optimizer = momentum(self.parameters(), self.lr)
        return each_step(optimizer, polynomial(optimizer, self.total_steps))


class AttentionPooling(nn.Module):
    """Embeds each image of a bag, weights them by gated attention, and returns one logit."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        layers = (nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.embed = nn.Sequential(*layers, nn.Linear(64, dim), nn.ReLU())
        self.what, self.gate, self.weigh = nn.Linear(dim, 16), nn.Linear(dim, 16), nn.Linear(16, 1)
        self.head = nn.Linear(dim, 1)

    def forward(self, bags: Tensor) -> Tensor:
        states: Tensor = self.embed(bags.flatten(0, 1)).unflatten(0, bags.shape[:2])
        weights = self.weigh(self.what(states).tanh() * self.gate(states).sigmoid()).softmax(1)
        logits: Tensor = self.head((weights * states).sum(1))[:, 0]
        return logits


@torch.no_grad()
def bag_accuracy(module: pl.LightningModule) -> float:
    """Accuracy on test bags in percent."""
    bags, labels = data.bags()[2:]
    return 100.0 * float(((module(bags) > 0) == (labels > 0)).float().mean())


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="arcface-cnn-momentum-poly",
        module=lambda lr: ArcFace(Angles(), lr),
        loader=batches(lambda: data.cyrillic_letters()[:2], 32),
        epochs=12,
        score=accuracy_on(lambda: data.cyrillic_letters()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="bags-attention-adam-batch-8",
        module=lambda lr: Training(AttentionPooling(), binary_cross_entropy_with_logits, lr, adam, None),
        loader=batches(lambda: data.bags()[:2], 8),
        epochs=3,
        score=bag_accuracy,
        naive_lr=1e-3,
        default_lr=5e-4,
        exponents=half_decades(-5, -1),
    ),
)
