"""SAM equals the reference loop, without tolerance, in every kind of training; SAM of radius 0 changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from lightning_hp import SAM
from tests.callbacks.contract import loader, mixed_fp16
from tests.callbacks.sam_by_hand import OPTIMIZERS, Wrapped, make_net, sam_by_hand
from tests.devices import on_each_device, torch_device
from tests.training import Run, Samples, assert_identical, assert_same_training, train, worst_difference

RHO = 0.3


def clip_norm(parameters: Any) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)


def clip_value(parameters: Any) -> None:
    torch.nn.utils.clip_grad_value_(parameters, 0.01)


ROWS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {},
    "adamw": {"optimizer": "adamw"},
    "groups": {"optimizer": "groups"},
    "no_norm_no_dropout": {"net": {"norm": False, "dropout": 0.0}},
    "cumulative_batch_norm": {"net": {"momentum": None}},
    "fp64": {"trainer": {"precision": "64-true"}, "dtype": torch.float64},
    "bf16_mixed": {"trainer": {"precision": "bf16-mixed"}, "hand": {"autocast": torch.bfloat16}},
    "fp16_scaler": {"fp16": True},
    "accumulate_2": {"trainer": {"accumulate_grad_batches": 2}, "hand": {"accumulate": 2}},
    "accumulate_4": {"trainer": {"accumulate_grad_batches": 4}, "hand": {"accumulate": 4}},
    "clip_norm": {"trainer": {"gradient_clip_val": 0.1}, "hand": {"before_step": clip_norm}},
    "clip_value": {
        "trainer": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        "hand": {"before_step": clip_value},
    },
    "accumulate_clip_fp16": {
        "fp16": True,
        "trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        "hand": {"accumulate": 2, "before_step": clip_norm},
    },
    "adaptive": {"sam": {"adaptive": True, "rho": 1.0}, "hand": {"rho": 1.0, "eta": 0.01}},
    "adaptive_eta": {"sam": {"adaptive": True, "eta": 0.2}, "hand": {"eta": 0.2}},
    "norm_only": {"sam": {"params": "norm"}, "hand": {"moves": lambda name: name.startswith("1.")}},
    "filter": {"sam": {"params": lambda name, p: p.ndim > 1}, "hand": {"moves": lambda name: name in PLANES}},
    "radii": {"optimizer": "radii", "hand": {"shares": lambda name: SHARES[name[0]]}},
    "radii_adaptive_warmup": {
        "optimizer": "radii",
        "sam": {"adaptive": True, "warmup": 0.5},
        "hand": {
            "shares": lambda name: SHARES[name[0]],
            "eta": 0.01,
            "rho": lambda step: RHO * min(1.0, (step + 1) / 6),
        },
    },
    "interval_3": {"sam": {"interval": 3}, "hand": {"rho": lambda step: RHO if step % 3 == 0 else 0.0}},
    "late": {"sam": {"start": 0.5}, "hand": {"rho": lambda step: RHO if step >= 6 else 0.0}},
    "warmup": {"sam": {"warmup": 0.5}, "hand": {"rho": lambda step: RHO * min(1.0, (step + 1) / 6)}},
    "warmup_accumulated": {
        "sam": {"start": 0.25, "warmup": 0.5},
        "trainer": {"accumulate_grad_batches": 3},
        "hand": {"accumulate": 3, "rho": lambda step: [0.0, RHO * 0.5, RHO, RHO][step]},
    },
}
SHARES = {"0": 0.1 / RHO, "1": 0.0, "4": 1.0}
PLANES = ("0.weight", "4.weight")


def run_sam(sam: SAM | None, row: dict[str, Any], **kwargs: Any) -> Run:
    module = Wrapped(make_net(**row.get("net", {})), row.get("optimizer", "momentum"))
    precision = mixed_fp16(kwargs.get("accelerator", "cpu")) if row.get("fp16") else {}
    trainer = {**row.get("trainer", {}), **precision, **kwargs}
    return train(module, [] if sam is None else [sam], loader(shuffle=True), **trainer)


@pytest.mark.parametrize("name", ROWS)
@on_each_device
def test_equals_the_reference_loop(device: str, name: str, record_property: Callable[[str, object], None]) -> None:
    row = ROWS[name]
    run = run_sam(SAM(**{"rho": RHO, **row.get("sam", {})}), row, accelerator=device)
    net = make_net(**row.get("net", {})).to(torch_device(device), row.get("dtype", torch.float32))
    optimizer = OPTIMIZERS[row.get("optimizer", "momentum")](net)
    hand = {"rho": RHO, **row.get("hand", {})}
    if row.get("fp16"):
        hand |= {"scaler": mixed_fp16(device)["plugins"][0].scaler, "autocast": torch.float16}
    module: Any = run.module
    assert len(module.batches) == 12
    losses = sam_by_hand(net, optimizer, module.batches, module.random_states, **hand)
    found = {n[4:]: t for n, t in run.weights.items()}
    record_property("difference", worst_difference(found, dict(net.state_dict())))
    assert_identical(found, dict(net.state_dict()), "weights and statistics")
    assert_identical(run.optimizer[0]["state"], optimizer.state_dict()["state"], "optimizer")
    logged = [values["train_loss_step"] for _, values in run.metrics if "train_loss_step" in values]
    assert logged == pytest.approx(losses[:: len(losses) // len(logged)] if len(logged) == 12 else logged, rel=1e-6)
    if row.get("fp16"):
        scaler = hand["scaler"]
        assert run.precision == scaler.state_dict()
        assert scaler.get_scale() < 2.0**18, "no step was skipped: the row checks nothing"
    # The random states are those of a training without SAM.
    assert_identical(module.random_states, run_sam(None, row, accelerator=device).module.random_states, "random states")


@pytest.mark.parametrize("name", ["momentum", "fp16_scaler", "accumulate_clip_fp16", "adamw"])
def test_radius_0_is_the_base_optimizer(name: str) -> None:
    """In common implementations SAM of radius 0 updates BatchNorm twice and draws new masks."""
    assert_same_training(run_sam(SAM(rho=0.0), ROWS[name]), run_sam(None, ROWS[name]))


def test_metrics_logs_hooks_and_statistics_are_counted_once() -> None:
    row = ROWS["accumulate_2"]
    with_sam, without = run_sam(SAM(rho=RHO), row), run_sam(None, row)
    assert with_sam.module.hooks == without.module.hooks
    assert with_sam.global_step == without.global_step == 6
    assert int(with_sam.weights["net.1.num_batches_tracked"]) == 12
    for runs in (with_sam, without):
        assert [sorted(v) for _, v in runs.metrics if v] == [sorted(v) for _, v in without.metrics if v]
    first = [
        next(v["train_loss_step"] for _, v in runs.metrics if "train_loss_step" in v) for runs in (with_sam, without)
    ]
    assert first[0] == first[1], "the first loss is L(w)"


def test_the_accuracy_of_an_epoch_is_computed_at_w() -> None:
    """The mean over both passes is another number."""
    run = run_sam(SAM(rho=2.0), {"net": {"dropout": 0.0}}, max_epochs=1)
    net = make_net(dropout=0.0)
    hits = []

    class Watch(nn.Module):
        def forward(self, x: Any) -> Any:
            return net(x)

        def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
            return net.named_buffers(*args, **kwargs)

    optimizer = OPTIMIZERS["momentum"](net)
    module: Any = run.module
    for position, (x, y) in enumerate(module.batches):
        with torch.no_grad():
            kept = copy.deepcopy(net.state_dict())
            hits.append((net(x).argmax(1) == y, y))
            net.load_state_dict(kept)
        sam_by_hand(net, optimizer, [(x, y)], [module.random_states[position]], rho=2.0, batches_per_epoch=1)
    right, labels = torch.cat([h for h, _ in hits]), torch.cat([y for _, y in hits])
    recalls = [float(right[labels == c].float().mean()) for c in range(3)]
    logged = next(v["train_acc"] for _, v in run.metrics if "train_acc" in v)
    assert logged == pytest.approx(sum(recalls) / 3, abs=1e-6)


def test_schedulers_and_averaged_weights_are_those_of_the_reference_loop() -> None:
    class Ema(WeightAveraging):
        def __init__(self) -> None:
            super().__init__(avg_fn=lambda averaged, current, count: 0.8 * averaged + 0.2 * current, use_buffers=False)

    module = Wrapped(make_net(), scheduler=True)
    run = train(module, [Ema(), SAM(rho=RHO)], loader(shuffle=True))
    net = make_net()
    optimizer = OPTIMIZERS["momentum"](net)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    averaged = [p.detach().clone() for p in net.parameters()]
    count = [0]

    def after_step() -> None:
        scheduler.step()
        for a, p in zip(averaged, net.parameters(), strict=True):
            a.copy_(p.detach() if count[0] == 0 else 0.8 * a + 0.2 * p.detach())
        count[0] += 1

    sam_by_hand(net, optimizer, module.batches, module.random_states, rho=RHO, after_step=after_step)
    # At the end of a fit the averaged weights are the module's.
    assert_identical([p.detach() for p in run.module.net.parameters()], averaged, "averaged weights")
    assert run.schedulers[0]["last_epoch"] == 12


def test_sparse_gradients() -> None:
    class Tokens(Wrapped):
        def __init__(self) -> None:
            torch.manual_seed(5)
            super().__init__(nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(32, 3)), "sgd")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.random_states.append(torch.get_rng_state())
            tokens = (batch[0].abs() * 2).long().clamp(max=4)
            self.batches.append((tokens, batch[1]))
            return nn.functional.cross_entropy(self.net(tokens), batch[1])

    module = Tokens()
    net = copy.deepcopy(module.net)
    train(module, [SAM(rho=RHO)], loader(), limit_val_batches=0)
    for name, p in net.named_parameters():
        assert name != "0.weight" or p.shape == (5, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for tokens, y in module.batches:  # dense arithmetic on the same numbers
        home = copy.deepcopy(net.state_dict())
        nn.functional.cross_entropy(net(tokens), y).backward()
        gradients = [p.grad.to_dense() for p in net.parameters()]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p += RHO / norm * g
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(tokens), y).backward()
        net.load_state_dict(home)
        optimizer.step()
        optimizer.zero_grad()
    for p, q in zip(module.net.parameters(), net.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)  # rounding: rows are added up in another order


class OnlyInOnePass(Wrapped):
    """Which layer is used depends on the weights: at w one, at w + e another."""

    def __init__(self) -> None:
        net = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)])
        super().__init__(net, "momentum")
        self.used: list[int] = []
        self.start = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        # Not the sum over classes: that of a gradient is zero.
        weight = float(self.net[0].weight.detach()[0].sum())
        at_home = weight == self.start
        return nn.functional.cross_entropy(self.net[0](batch[0]) + self.net[1 if at_home else 2](batch[0]), batch[1])


def test_a_gradient_in_one_pass_only() -> None:
    """Implementations that keep only the weights with a gradient in the first pass fail here."""
    torch.manual_seed(5)
    module = OnlyInOnePass()
    module.start = float(module.net[0].weight.detach()[0].sum())
    before = copy.deepcopy(module.net)
    train(module, [SAM(rho=RHO)], loader(dataset=Samples(16)), max_epochs=1, limit_val_batches=0)
    assert_identical(dict(module.net[1].state_dict()), dict(before[1].state_dict()), "used at w only")
    assert not torch.equal(module.net[2].weight, before[2].weight), "used at w + e: this is the gradient that counts"
