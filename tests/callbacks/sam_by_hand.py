"""SAM as a loop without Lightning: the reference that the callback has to equal bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from tests.training import NUM_CLASSES, NUM_FEATURES


def make_net(norm: bool = True, dropout: float = 0.3, momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, 16),
        nn.BatchNorm1d(16, momentum=momentum) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(16, NUM_CLASSES),
    )


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01),
    "groups": lambda net: torch.optim.SGD(
        [{"params": list(net[0].parameters()), "lr": 0.01}, {"params": [p for m in net[1:] for p in m.parameters()]}],
        lr=0.1,
        momentum=0.9,
    ),
    "radii": lambda net: torch.optim.SGD(
        [
            {"params": list(net[0].parameters()), "sam_rho": 0.1},
            {"params": list(net[1].parameters()), "sam_rho": 0},
            {"params": list(net[4].parameters())},
        ],
        lr=0.1,
    ),
}


class Wrapped(pl.LightningModule):
    """A net in Lightning that records in every way what its training step does."""

    def __init__(self, net: nn.Module, optimizer: str = "momentum", scheduler: bool = False) -> None:
        super().__init__()
        self.net = net
        self.optimizer_name = optimizer
        self.scheduler = scheduler
        self.accuracy = MulticlassAccuracy(NUM_CLASSES)
        self.random_states: list[Tensor] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.hooks: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch[0].to(self.dtype), batch[1]
        self.random_states.append(random_state(x))
        self.batches.append((x.clone(), y.clone()))
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.accuracy.update(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(y))
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        self.hooks.append("before_backward")

    def on_after_backward(self) -> None:
        self.hooks.append("after_backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.hooks.append("before_optimizer_step")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0].to(self.dtype)), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.optimizer_name](self.net)
        if not self.scheduler:
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def random_state(x: Tensor) -> Tensor:
    """The state of the generator of a tensor's device."""
    return torch.cuda.get_rng_state() if x.is_cuda else torch.get_rng_state()


def sam_by_hand(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    random_states: Sequence[Tensor],
    rho: float | Callable[[int], float] = 0.05,
    accumulate: int = 1,
    batches_per_epoch: int = 6,
    scaler: torch.amp.GradScaler | None = None,
    autocast: torch.dtype | None = None,
    before_step: Callable[[list[Tensor]], Any] = lambda parameters: None,
    after_step: Callable[[], Any] = lambda: None,
    eta: float | None = None,
    moves: Callable[[str], bool] = lambda name: True,
    shares: Callable[[str], float] = lambda name: 1.0,
) -> list[float]:
    """Trains ``net`` in place on given batches with given random states; returns the losses at w.

    Each batch has its own e(w); the gradients at w + e(w) are accumulated, as in m-SAM. On an accelerator, where a sum
    has another order, the norm is torch's own, and e is scaled before it is added.
    """
    named = dict(net.named_parameters())
    parameters = list(named.values())
    losses, steps = [], 0

    def loss_of(number: int) -> Tensor:
        x, y = batches[number]
        (torch.cuda.set_rng_state if x.is_cuda else torch.set_rng_state)(random_states[number])
        with torch.autocast(x.device.type, autocast, cache_enabled=False) if autocast else nullcontext():
            loss = nn.functional.cross_entropy(net(x), y)
        losses.append(float(loss.detach()))
        loss = loss / accumulate
        return loss if scaler is None else scaler.scale(loss)

    for number in range(len(batches)):
        radius = rho(steps) if callable(rho) else rho
        if radius == 0:
            loss_of(number).backward()
        else:
            gradients = torch.autograd.grad(loss_of(number), parameters, allow_unused=True)
            statistics = copy.deepcopy(dict(net.named_buffers()))
            home = [p.detach().clone() for p in parameters]
            direction = {
                name: (gradient, gradient if eta is None or p.ndim < 2 else gradient * (p.detach().abs() + eta))
                for (name, p), gradient in zip(named.items(), gradients, strict=True)
                if gradient is not None and moves(name)
            }
            on_host = not batches[number][0].is_cuda
            norm = torch.stack([scaled.norm() for _, scaled in direction.values()]).norm()
            if not on_host:
                norm = torch.nn.utils.get_total_norm([scaled for _, scaled in direction.values()])
            if torch.isfinite(norm):
                with torch.no_grad():
                    for name, (_, scaled) in direction.items():
                        p = named[name]
                        e = scaled if eta is None or p.ndim < 2 else scaled * (p.abs() + eta)
                        if on_host:
                            p.add_(e * shares(name), alpha=float(radius / norm))
                        else:
                            p.add_((e * shares(name) if shares(name) != 1 else e) * (radius / norm))
            loss_of(number).backward()
            losses.pop()
            with torch.no_grad():
                for p, w in zip(parameters, home, strict=True):
                    p.copy_(w)
                for name, buffer in net.named_buffers():
                    buffer.copy_(statistics[name])
        if (number + 1) % batches_per_epoch % accumulate and (number + 1) % batches_per_epoch:
            continue
        if scaler is not None:
            scaler.unscale_(optimizer)
        before_step(parameters)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        after_step()
        optimizer.zero_grad()
        steps += 1
    return losses
