"""SAM on two processes: each scenario is run in both."""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lightning_hp import SAM, LRFinder
from tests.callbacks.contract import loader
from tests.callbacks.sam_by_hand import Wrapped, make_net
from tests.distributed.two_ranks import Sharded
from tests.training import NUM_CLASSES, NUM_FEATURES, assert_identical, assert_same_training, train

RHO = 0.3


def fit(callbacks: list[Any], module: pl.LightningModule, strategy: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    ddp = DDPStrategy(process_group_backend="gloo", **(strategy or {}))
    return train(module, callbacks, loader(shuffle=True), strategy=ddp, devices=2, max_epochs=2, **kwargs)


def on_both(value: Any) -> list[Any]:
    values: list[Any] = [None, None]
    dist.all_gather_object(values, value)
    return values


def two_by_hand(pieces: list[list[tuple[Tensor, Tensor]]], sync: bool, accumulate: int, clip: float = 0.0) -> nn.Module:
    """The reference: both processes in one, with the gradients of their batches averaged."""
    net = make_net(norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    parameters = list(net.parameters())

    def gradients(x: Tensor, y: Tensor) -> list[Tensor]:
        loss = nn.functional.cross_entropy(net(x), y) / accumulate
        return list(torch.autograd.grad(loss, parameters))

    def at_perturbed(x: Tensor, y: Tensor, direction: list[Tensor]) -> list[Tensor]:
        home = [p.detach().clone() for p in parameters]
        norm = torch.stack([g.norm() for g in direction]).norm()
        with torch.no_grad():
            for p, g in zip(parameters, direction, strict=True):
                p.add_(g, alpha=float(RHO / norm))
        found = gradients(x, y)
        with torch.no_grad():
            for p, w in zip(parameters, home, strict=True):
                p.copy_(w)
        return found

    total: list[list[Tensor]] = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    for number, batches in enumerate(zip(*pieces, strict=True)):
        own = [gradients(x, y) for x, y in batches]
        mean = [(a + b) / 2 for a, b in zip(*own, strict=True)]
        for rank, (x, y) in enumerate(batches):
            found = at_perturbed(x, y, mean if sync else own[rank])
            total[rank] = [t + g for t, g in zip(total[rank], found, strict=True)]
        if (number + 1) % accumulate == 0:
            for p, a, b in zip(parameters, *total, strict=True):
                p.grad = (a + b) / 2
            if clip:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            total = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    return net


def ddp() -> None:
    """The ranks agree, and equal the reference for both; e(w) is synchronized exactly if that was requested."""
    rows: list[tuple[bool, int, float, dict[str, Any]]] = [
        (False, 1, 0.0, {}),
        (True, 1, 0.0, {}),
        (False, 3, 0.1, {}),
        (True, 3, 0.0, {}),
        (False, 1, 0.0, {"gradient_as_bucket_view": True}),
        (True, 3, 0.0, {"gradient_as_bucket_view": True}),
        (False, 1, 0.0, {"find_unused_parameters": True}),
        (True, 1, 0.0, {"static_graph": True}),
        (False, 1, 0.0, {"static_graph": True}),  # its reducer has to see each backward pass
    ]
    for sync, accumulate, clip, strategy in rows:
        module = Wrapped(make_net(norm=False, dropout=0.0))
        kwargs = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip or None}
        fit([SAM(rho=RHO, sync_perturbation=sync)], module, strategy, **kwargs)
        mine = [p.detach() for p in module.net.parameters()]
        theirs = on_both(mine)
        assert_identical(theirs[0], theirs[1], "weights of both ranks")
        is_synchronized = sync or "static_graph" in strategy
        by_hand = two_by_hand(on_both(module.batches), is_synchronized, accumulate, clip)
        other = two_by_hand(on_both(module.batches), not is_synchronized, accumulate, clip)
        # Rounding: the reducer adds in another order.
        worst = max(float((p - q).abs().max()) for p, q in zip(mine, by_hand.parameters(), strict=True))
        apart = max(float((p - q).abs().max()) for p, q in zip(mine, other.parameters(), strict=True))
        assert worst < 1e-6 < 1e-4 < apart, (sync, accumulate, strategy, worst, apart)


def ddp_statistics() -> None:
    """BatchNorm statistics, logs and random states are those of the first pass: for a tiny radius, as without SAM."""
    tiny = [SAM(rho=1e-6), SAM(rho=1e-6, sync_perturbation=True)]
    runs = [fit(callbacks, Wrapped(make_net())) for callbacks in ([], [tiny[0]], [tiny[1]])]
    for run in runs[1:]:
        assert_identical(run.module.random_states, runs[0].module.random_states, "random states")
        for name, there in runs[0].weights.items():
            assert torch.allclose(run.weights[name].double(), there.double(), atol=1e-4), name
        assert int(run.weights["net.1.num_batches_tracked"]) == 6
    finder = LRFinder(min_lr=1e-4, max_lr=10.0, num_training_steps=70, num_repeats=1, zoom=False, update_attr=False)
    under = fit([finder, SAM(rho=RHO)], Wrapped(make_net()))
    assert_same_training(under, fit([SAM(rho=RHO)], Wrapped(make_net())))


class BreaksOnOne(Wrapped):
    """The loss of one rank is not finite in one step."""

    def __init__(self) -> None:
        super().__init__(make_net(norm=False, dropout=0.0), "adamw")
        self.home: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx in (1, 2):
            self.home.append(copy.deepcopy([p.detach() for p in self.net.parameters()]))
        return loss * float("nan") if batch_idx == 1 and self.global_rank == 1 else loss


def one_rank_breaks() -> None:
    """Both skip the step."""
    module = BreaksOnOne()
    fit([SAM(rho=RHO)], module)
    before, after = module.home[:2]  # what the second pass appended has been undone
    assert_identical(after, before, "weights after the skipped step")
    weights = on_both([p.detach() for p in module.net.parameters()])
    assert_identical(weights[0], weights[1], "weights of both ranks")
    assert all(torch.isfinite(p).all() for p in weights[0])


class Recording(Sharded):
    """FSDP2, without dropout, with its batches recorded."""

    def configure_model(self) -> None:
        super().configure_model()
        self.net[2].p = 0.0
        self.batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches.append((batch[0].clone(), batch[1].clone()))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def fsdp2() -> None:
    """Sharded weights move by the norm of the whole gradient and are restored exactly."""
    for adaptive, accumulate in ((False, 1), (False, 3), (True, 1)):
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        pl.seed_everything(1)
        sam = SAM(rho=RHO, adaptive=adaptive)
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, max_epochs=2, strategy=strategy, callbacks=[sam], logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            accumulate_grad_batches=accumulate,
        )  # fmt: skip
        module = Recording()
        trainer.fit(module, loader(shuffle=True), loader())
        whole = [p.full_tensor().detach() for p in module.parameters()]
        by_hand = whole_by_hand(on_both(module.batches), adaptive, accumulate)
        worst = max(float((p - q).abs().max()) for p, q in zip(whole, by_hand, strict=True))
        assert worst < 1e-6, (adaptive, accumulate, worst)
        without = whole_by_hand(on_both(module.batches), adaptive, accumulate, rho=1e-9)
        assert max(float((p - q).abs().max()) for p, q in zip(whole, without, strict=True)) > 1e-3


def whole_by_hand(pieces: Any, adaptive: bool, accumulate: int, rho: float = RHO) -> list[Tensor]:
    """The reference on whole weights: the samples of both ranks are one batch."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(NUM_FEATURES, 16), nn.ReLU(), nn.Identity(), nn.Linear(16, NUM_CLASSES))
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    for number, ((x0, y0), (x1, y1)) in enumerate(zip(*pieces, strict=True)):
        x, y = torch.cat([x0, x1]), torch.cat([y0, y1])

        def loss(x: Tensor = x, y: Tensor = y) -> Tensor:
            return nn.functional.cross_entropy(net(x), y) / accumulate

        gradients = torch.autograd.grad(loss(), parameters)
        t = [p.detach().abs() + 0.01 if adaptive and p.ndim > 1 else torch.ones_like(p) for p in parameters]
        norm = torch.cat([(a * g).flatten() for a, g in zip(t, gradients, strict=True)]).norm()
        home = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, a, g in zip(parameters, t, gradients, strict=True):
                p += rho * a * a * g / norm
        loss().backward()
        with torch.no_grad():
            for p, w in zip(parameters, home, strict=True):
                p.copy_(w)
        if (number + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in parameters]
