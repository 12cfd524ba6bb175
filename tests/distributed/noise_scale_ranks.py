"""The gradient noise scale on two processes: each scenario is run in both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_hp import SAM, GradientNoiseScale
from lightning_hp.functional import NoiseScaleEstimator, gradient_and_noise
from tests.callbacks.contract import loader
from tests.callbacks.sam_by_hand import Wrapped, make_net
from tests.distributed.two_ranks import Sharded
from tests.training import assert_same_training, train


class Noted(Wrapped):
    """Notes the weights of each batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        weights = [p.detach().clone() for p in self.parameters()]
        self.weights: list[list[Tensor]] = [*getattr(self, "weights", []), weights]
        return super().training_step(batch, batch_idx)


def fit(callbacks: list[Any], strategy: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    ddp = DDPStrategy(process_group_backend="gloo", **(strategy or {}))
    module = Noted(make_net(norm=False, dropout=0.0))
    return train(module, callbacks, loader(shuffle=True), strategy=ddp, devices=2, max_epochs=3, **kwargs)


def on_both(value: Any) -> list[Any]:
    values: list[Any] = [None, None]
    dist.all_gather_object(values, value)
    return values


def gradients(module: Any) -> list[Tensor]:
    """The gradient of each batch of this process, at the weights that it had then."""
    net, found = make_net(norm=False, dropout=0.0), []
    for weights, (x, y) in zip(module.weights, module.batches, strict=True):
        with torch.no_grad():
            for p, w in zip(net.parameters(), weights, strict=True):
                p.copy_(w)
        loss = nn.functional.cross_entropy(net(x), y)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    return found


def averages(parts: list[list[Tensor]], batch: int) -> dict[str, float]:
    estimator = NoiseScaleEstimator(0.98)
    for step in parts:
        small = float(torch.stack([g.square().sum() for g in step]).mean())
        large = float(torch.stack(step).mean(0).square().sum())
        estimator.update(*gradient_and_noise(small, large, batch, batch * len(step)))
    return estimator.state_dict()


def ddp() -> None:
    """The processes alone, and with micro-batches: those of a loop over the batches of both. No bit changes."""
    rows: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
        (1, {}, {}),
        (3, {"gradient_as_bucket_view": True}, {"gradient_clip_val": 0.01}),
        (1, {"find_unused_parameters": True}, {}),
        (1, {"static_graph": True}, {}),
    ]
    for accumulate, strategy, options in rows:
        noise = GradientNoiseScale()
        run = fit([noise], strategy, accumulate_grad_batches=accumulate, **options)
        assert_same_training(run, fit([], strategy, accumulate_grad_batches=accumulate, **options))
        both = list(zip(*on_both(gradients(run.module)), strict=True))
        steps = [both[i : i + accumulate] for i in range(0, len(both), accumulate)]
        result = noise.result
        assert result is not None
        assert result.source == ("processes" if accumulate == 1 else "accumulation")
        assert result.batch_size == 32 * accumulate
        expected = averages([[g for pair in step for g in pair] for step in steps], 16)
        assert noise.state_dict()["estimator"] == pytest.approx(expected, rel=1e-3)
        states = on_both(noise.state_dict())
        assert str(states[0]) == str(states[1])


def with_sam() -> None:
    """Each process compares its own micro-batches, at w; the averages are those of both. Without them it rehearses."""
    noise = GradientNoiseScale()
    run = fit([SAM(rho=0.3), noise], accumulate_grad_batches=3)
    assert_same_training(run, fit([SAM(rho=0.3)], accumulate_grad_batches=3))
    both = on_both(gradients(run.module))
    estimator = NoiseScaleEstimator(0.98)
    for i in range(0, len(both[0]), 3):
        found = []
        for own in both:
            step = torch.stack(own[i : i + 3])
            small, large = step.square().sum(1).mean(), step.mean(0).square().sum()
            found.append(gradient_and_noise(float(small), float(large), 16, 48))
        estimator.update(*(sum(pair) / 2 for pair in zip(*found, strict=True)))
    assert noise.result is not None
    assert noise.state_dict()["estimator"] == pytest.approx(estimator.state_dict(), rel=1e-3)
    assert noise.result.batch_size == 96
    rehearsing = GradientNoiseScale(milestones=(1,), num_micro_batches=2)
    run = fit([SAM(rho=0.3), rehearsing])
    assert_same_training(run, fit([SAM(rho=0.3)]))
    assert rehearsing.result is not None
    assert (rehearsing.result.source, rehearsing.result.steps) == ("rehearsal", (3,))
    states = on_both(rehearsing.state_dict())
    assert str(states[0]) == str(states[1])


def sharded() -> None:
    """FSDP2 is refused before any step."""
    if not hasattr(torch.cpu.current_stream(), "record_event"):  # this torch has no FSDP2 on the CPU
        return
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    with pytest.raises(MisconfigurationException, match="whole gradients in each process"):
        train(Sharded(), [GradientNoiseScale()], loader(), strategy=strategy, devices=2)
