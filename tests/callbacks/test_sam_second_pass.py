"""What a training step does besides computing its loss is done once under SAM, in whatever way it is written."""

from __future__ import annotations

import abc
import copy
import gc
import itertools
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAUROC

import lightning_hp.functional as hpf
from lightning_hp import SAM
from tests.callbacks.contract import loader
from tests.callbacks.sam_by_hand import make_net
from tests.training import NUM_CLASSES, NUM_FEATURES, assert_identical, train

RHO = 0.3


class Base(pl.LightningModule):
    """A net that is not trained (``lr=0``) by default: what a step writes is then the same with and without SAM."""

    def __init__(self, lr: float = 0.0) -> None:
        super().__init__()
        self.lr = lr
        self.net = make_net(norm=False, dropout=0.0)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)


def fit(module: Any, *callbacks: Any, **kwargs: Any) -> Any:
    kwargs = {"max_epochs": 1, "limit_val_batches": 0, **kwargs}
    train(module, list(callbacks), kwargs.pop("loader", None) or loader(), **kwargs)
    return module


# Gradients.


class Attacks(Base):
    """FGSM: computes the gradient of the input, and leaves gradients on the weights, which Lightning clears."""

    clones = True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = (batch[0].clone() if self.clones else batch[0]).requires_grad_(True)
        nn.functional.cross_entropy(self.net(x), batch[1]).backward()
        return self.loss(((x + 0.05 * x.grad.sign()).detach(), batch[1]))  # type: ignore[union-attr]


@pytest.mark.parametrize("clones", [True, False])
def test_a_step_with_a_backward_pass_of_its_own_equals_the_reference_loop(clones: bool) -> None:
    module = Attacks(lr=0.1)
    module.clones = clones
    fit(module, SAM(rho=3.0))
    net = make_net(norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sam = hpf.Perturbation(net.parameters(), rho=3.0)

    def attacked(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), x)
        return nn.functional.cross_entropy(net((x + 0.05 * gradient.sign()).detach()), y)

    for x, y, _ in loader():
        attacked(x, y).backward()
        with sam.ascended():
            attacked(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_identical(dict(module.net.state_dict()), dict(net.state_dict()), "weights")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_outside_the_optimizer_are_counted_once(accumulate: int) -> None:
    class Half(Base):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[4].parameters(), lr=0.0)

        def on_after_backward(self) -> None:
            self.norms.append(float(self.net[0].weight.grad.norm()))

    norms = []
    for callbacks in ([], [SAM(rho=1e-9)]):
        module = Half()
        module.norms = []
        norms.append(fit(module, *callbacks, accumulate_grad_batches=accumulate).norms)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert len(norms[0]) == 6


class BreaksGoingBack(torch.autograd.Function):
    """The loss is finite, and the gradient of one backward pass is not."""

    passes, bad = 0, -1

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        BreaksGoingBack.passes += 1
        return gradient * float("nan") if BreaksGoingBack.passes == BreaksGoingBack.bad else gradient


@pytest.mark.parametrize("bad", [5, 6])
def test_a_step_whose_gradient_is_not_finite_in_one_pass_only_is_skipped(bad: int) -> None:
    class Breaks(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.weights.append(self.net[0].weight.detach().clone())
            return nn.functional.cross_entropy(BreaksGoingBack.apply(self.net(batch[0])), batch[1])

    BreaksGoingBack.passes, BreaksGoingBack.bad = 0, bad
    module = Breaks(lr=0.1)
    module.weights = []
    with pytest.warns(UserWarning, match="not finite at step 2, and the optimizer step was skipped"):
        fit(module, SAM(rho=RHO))
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert torch.equal(module.weights[2], module.weights[3])
    assert not torch.equal(module.weights[3], module.weights[4])


# Tensors on the module.


def written(step: Callable[[Any, Any], Any], read: Callable[[Any], Any], start: Callable[[Any], Any]) -> list[Any]:
    """What a step has written in one epoch without SAM and with it."""

    class Writes(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            step(self, batch)
            return self.loss(batch)

    results = []
    for callbacks in ([], [SAM(rho=RHO)]):
        module = Writes()
        start(module)
        results.append(read(fit(module, *callbacks)))
    return results


def teacher(module: Any) -> None:
    module.teacher = copy.deepcopy(module.net).requires_grad_(False)
    module.wide = nn.Parameter(torch.zeros(600, 600), requires_grad=False)
    module.register_buffer("queue", torch.zeros(600_000))
    for p in module.teacher.parameters():
        p.zero_()


def in_place(module: Any, batch: Any) -> None:
    for t, p in zip(module.teacher.parameters(), module.net.parameters(), strict=True):
        t.mul_(0.9).add_(p.detach(), alpha=0.1)
    module.wide.add_(1)
    module.queue[3] += 1


def through_data(module: Any, batch: Any) -> None:
    for t, p in zip(module.teacher.parameters(), module.net.parameters(), strict=True):
        t.data.mul_(0.9).add_(p.data, alpha=0.1)
    module.wide.data.add_(1)
    module.queue.data[3] += 1


def other_data(module: Any, batch: Any) -> None:
    for t, p in zip(module.teacher.parameters(), module.net.parameters(), strict=True):
        t.data = t.data * 0.9 + p.data * 0.1
    module.wide.data = module.wide.data + 1
    module.queue.data = module.queue.data.roll(1) + torch.arange(600_000) % 2


@pytest.mark.parametrize("step", [in_place, through_data, other_data])
def test_a_teacher_and_a_queue_are_written_once_in_every_way(step: Any) -> None:
    without, with_sam = written(step, lambda m: dict(m.state_dict()), teacher)
    assert_identical(with_sam, without, "teacher, queue")
    assert float(without["queue"].sum()) > 0


@pytest.mark.parametrize("where", ["moving", "not_moving", "without_gradient"])
def test_a_parameter_that_is_trained_and_written_by_the_step(where: str) -> None:
    """A codebook that follows by a moving average; a weight that is clamped."""

    def of(module: Any) -> Tensor:
        return {"moving": module.net[0].weight, "not_moving": module.net[4].weight}.get(where, module.codes)

    class Writes(Base):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.ones(3, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                of(self).mul_(0.9)
            return self.loss(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    with_sam = fit(Writes(), SAM(rho=RHO, params=lambda name, p: name != "net.4.weight"))
    assert_identical(with_sam.state_dict(), fit(Writes()).state_dict(), "weights and codes")
    assert not torch.equal(of(with_sam), of(Writes()))


def test_the_weights_are_in_memory_once_more_and_not_twice() -> None:
    counts: list[int] = []

    class Counts(Base):
        def __init__(self) -> None:
            super().__init__(lr=0.1)
            self.net = nn.Sequential(nn.Linear(NUM_FEATURES, 37), nn.ReLU(), nn.Linear(37, NUM_CLASSES))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
            counts.append(len({t.data_ptr() for t in tensors if t.shape == (37, NUM_FEATURES)}))
            return self.loss(batch)

    gc.collect()  # objects of earlier tests
    fit(Counts())
    assert max(counts) == 2  # with the gradient of the last step
    counts.clear()
    gc.collect()
    fit(Counts(), SAM(rho=RHO))
    assert max(counts[::2]) == 3
    assert max(counts[1::2]) == 2  # the copy, when there is no gradient


def test_a_queue_that_is_rolled_through_data_is_detected() -> None:
    def start(module: Any) -> None:
        module.register_buffer("queue", torch.arange(600_000))

    def roll(module: Any, batch: Any) -> None:
        module.queue.data.copy_(module.queue.roll(1))

    without, with_sam = written(roll, lambda m: m.queue, start)
    assert torch.equal(without, with_sam)
    assert without[0] == 600_000 - 6


def test_a_buffer_that_the_first_step_registers() -> None:
    def step(module: Any, batch: Any) -> None:
        if not hasattr(module, "centre"):
            module.register_buffer("centre", torch.zeros(8))
        module.centre.mul_(0.5).add_(batch[0].mean(0))

    without, with_sam = written(step, lambda m: m.centre, lambda m: None)
    assert torch.equal(without, with_sam)


def test_expanded_tensors_are_not_written() -> None:
    def start(module: Any) -> None:
        module.register_buffer("mask", torch.ones(1).expand(8))

    def step(module: Any, batch: Any) -> None:
        module.prior = torch.full((1,), 0.1).expand(10)

    without, with_sam = written(step, lambda m: (m.mask, m.prior), start)
    assert_identical(list(with_sam), list(without), "expanded")


def test_a_metric_that_keeps_predictions_with_their_graph() -> None:
    """Its state is a view without a graph of a tensor with one: a write into it would invalidate the graph."""

    class Rates(Base):
        def __init__(self) -> None:
            super().__init__()
            self.auroc = MulticlassAUROC(NUM_CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[0])
            self.auroc.update(logits.softmax(1), batch[1])
            self.log("auroc", self.auroc, on_step=False, on_epoch=True, batch_size=16)
            return nn.functional.cross_entropy(logits, batch[1])

    without, with_sam = (fit(Rates(), *c).trainer.callback_metrics["auroc"] for c in ([], [SAM(rho=RHO)]))
    assert without == with_sam


class Slots:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


def test_an_object_with_slots() -> None:
    def start(module: Any) -> None:
        module.meter = Slots()

    def step(module: Any, batch: Any) -> None:
        module.meter.count += 1

    assert written(step, lambda m: m.meter.count, start) == [6, 6]


@pytest.mark.parametrize("make", [lambda: iter(range(99)), itertools.count, lambda: iter(loader())])
def test_an_iterator_on_the_module_is_refused_before_the_first_step(make: Any) -> None:
    class Draws(Base):
        def on_train_start(self) -> None:
            self.unlabelled, self.drawn = make(), []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.drawn.append(next(self.unlabelled))
            return self.loss(batch)

    module = Draws()
    with pytest.raises(MisconfigurationException, match="got an iterator on it"):
        fit(module, SAM(rho=RHO, start=0.9))
    assert module.drawn == []


# The batch.


class Fields(UserDict):  # type: ignore[type-arg]
    pass


class Named(dict):  # type: ignore[type-arg]
    pass


@dataclass
class Pair:
    x: Tensor
    y: Tensor


class Bare:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def collate(make: Callable[[Tensor, Tensor], Any]) -> Any:
    def stack(samples: list[Any]) -> Any:
        x, y, _ = torch.utils.data.default_collate(samples)
        return make(x, y)

    return loader(collate_fn=stack)


def pops(module: Any, batch: Any) -> Tensor:
    labels = batch.pop("y")
    batch["x"] = batch["x"] * 2
    return module.loss((batch["x"], labels))


def assigns(module: Any, batch: Any) -> Tensor:
    batch.x = batch.x * 2
    return module.loss((batch.x, batch.y))


class Pickles(Bare):
    def __getstate__(self) -> Any:
        raise RuntimeError("no copy is made by pickling")


class Locked(dict):  # type: ignore[type-arg]
    """A dict that refuses some ways to write it, as the outputs of a library's models do."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError

    clear = update  # type: ignore[assignment]


# As the classes of batches of graphs are; its module is said to be `abc`.
MadeAtRunTime = abc.ABCMeta("MadeAtRunTime", (Bare,), {})


BATCHES: dict[str, tuple[Any, Any]] = {
    "dict": (lambda x, y: {"x": x, "y": y}, pops),
    "user_dict": (lambda x, y: Fields(x=x, y=y), pops),
    "dict_subclass": (lambda x, y: Named(x=x, y=y), pops),
    "dataclass": (Pair, assigns),
    "object": (Bare, assigns),
    "object_of_a_class_made_at_run_time": (MadeAtRunTime, assigns),
    "object_that_cannot_be_pickled": (Pickles, assigns),
    "namespace": (lambda x, y: SimpleNamespace(x=x, y=y), assigns),
    "locked_dict": (lambda x, y: Locked(x=x, y=y), pops),
    "nested": (lambda x, y: [Pair(x, y)], lambda module, batch: assigns(module, batch.pop())),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_step_may_modify_any_container(name: str) -> None:
    make, step = BATCHES[name]

    class Modifies(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return step(self, batch)

    module = fit(Modifies(lr=0.1), SAM(rho=RHO), loader=collate(make))
    same = fit(Base(lr=0.1), SAM(rho=RHO), loader=collate(lambda x, y: (x * 2, y)))
    assert_identical(dict(module.net.state_dict()), dict(same.net.state_dict()), "weights")


def writes_through_data(module: Any, batch: Any) -> Any:
    batch[0].data.mul_(2)
    return batch


def writes_through_numpy(module: Any, batch: Any) -> Any:
    array = batch[0].numpy()
    array *= 2
    return batch


def writes_into_an_object(module: Any, batch: Any) -> Any:
    batch.x.mul_(2)
    return batch.x, batch.y


@pytest.mark.parametrize("start", [0.0, 0.9])
@pytest.mark.parametrize(
    ("write", "make"),
    [
        (writes_through_data, lambda x, y: (x, y)),
        (writes_through_numpy, lambda x, y: (x, y)),
        (writes_into_an_object, Pair),
        (writes_into_an_object, MadeAtRunTime),
        (writes_into_an_object, Pickles),
    ],
)
def test_a_step_that_writes_into_its_batch_is_refused_in_the_first_step(write: Any, make: Any, start: float) -> None:
    class Writes(Base):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.steps += 1
            return self.loss(write(self, batch))

    module = Writes()
    with pytest.raises(MisconfigurationException, match="written in place"):
        fit(module, SAM(rho=RHO, start=start), loader=collate(make))
    assert module.steps == 1


def test_an_iterator_in_the_batch_is_refused_before_the_first_step() -> None:
    module = Base()
    with pytest.raises(MisconfigurationException, match="got an iterator in it"):
        fit(module, SAM(rho=RHO), loader=collate(lambda x, y: (x, y, iter(range(3)))))


class Labelled(Tensor):
    """A tensor with an attribute of its own, which every result of an operation takes over."""

    label: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, cls):
            result.label = args[0].label
        return result


# Logs.


def test_a_log_method_that_was_looked_up_earlier_logs_once() -> None:
    class Logs(Base):
        def __init__(self) -> None:
            super().__init__()
            self.log_method = self.log
            self.between = 0.0

        def on_before_backward(self, loss: Tensor) -> None:
            self.log("between", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")

        def on_after_backward(self) -> None:
            self.log("after", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log_method("looked_up", loss, on_step=False, on_epoch=True, batch_size=16)
            super().log("super", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
            return loss

    without, with_sam = (fit(Logs(), *c, max_epochs=2).trainer.callback_metrics for c in ([], [SAM(rho=RHO)]))
    assert_identical(dict(with_sam), dict(without), "logged")
    assert without["super"] == without["after"] == 6


def test_the_logger_is_still_one_of_its_class(tmp_path: Any) -> None:
    class ReadsLogger(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert isinstance(self.logger, TensorBoardLogger)
            self.logger.hparams["asked"] = True
            return self.loss(batch) * self.logger.hparams.get("scale", 1.0)

    logger = TensorBoardLogger(tmp_path)
    fit(ReadsLogger(), SAM(rho=RHO), logger=logger)
    assert logger.hparams["asked"]


# What the second pass starts from.


class Reads(Base):
    """A module whose loss depends on a state that the step itself writes."""

    def __init__(self, lr: float = 0.0) -> None:
        super().__init__(lr)
        self.gradients: list[Tensor] = []
        torch.manual_seed(0)
        self.start()

    def start(self) -> None: ...

    def on_after_backward(self) -> None:
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.net.parameters()]))


class Queue(Reads):
    """Contrast with keys of earlier batches; those of this batch are enqueued in the step (MoCo)."""

    width, in_place = 64, True

    def start(self) -> None:
        self.register_buffer("queue", torch.randn(NUM_CLASSES, self.width))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        q = self.net(batch[0])
        loss = torch.logsumexp(q @ self.queue.clone(), 1).mean()
        at = (int(self.position) + torch.arange(len(q))) % self.width
        if self.in_place:
            self.queue[:, at] = q.detach().T
        else:
            self.queue.data[:, at] = q.detach().T
        self.position[...] = (self.position + len(q)) % self.width
        return loss


class LargeQueue(Queue):
    width = 100_000


class LargeQueueThroughData(LargeQueue):
    in_place = False


class Teacher(Reads):
    """The teacher follows before the loss is computed (BYOL, mean teacher)."""

    def start(self) -> None:
        self.teacher = make_net(norm=True, dropout=0.0).requires_grad_(False)
        self.student = make_net(norm=True, dropout=0.0)

    def follow(self) -> None:
        for t, p in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.mul_(0.5).add_(torch.randn_like(p), alpha=0.5)

    @torch.no_grad()
    def target(self, batch: Any) -> Tensor:
        self.follow()
        return self.teacher(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), self.target(batch))


class TeacherThroughData(Teacher):
    def follow(self) -> None:
        for t, p in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.data = t.data * 0.5 + p.data * 0.5 + 1


class Counter(Reads):
    """A loss whose weight rises with every step."""

    def start(self) -> None:
        self.counts = {"steps": 0, "seen": [0.0]}
        self.array = np.zeros(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.counts["steps"] += 1
        self.array += 1
        self.counts["seen"].append(len(self.counts["seen"]))
        return self.loss(batch) * (self.counts["steps"] + self.counts["seen"][-1] + self.array.sum())


class Bank(Reads):
    """A memory bank in an attribute, and one of one vector per class in a dict."""

    rows = 100

    def start(self) -> None:
        self.bank = torch.zeros(self.rows, NUM_CLASSES)
        self.centres: dict[int, Tensor] = {label: torch.zeros(NUM_CLASSES) for label in range(NUM_CLASSES)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.net(batch[0])
        with torch.no_grad():
            self.bank[batch[2] % self.rows] = self.bank[batch[2] % self.rows] * 0.5 + features
            for label in range(NUM_CLASSES):
                self.centres[label] = self.centres[label] * 0.9 + features[0] * label
        return (features - self.bank[batch[2] % self.rows]).square().mean() + (features @ self.centres[1]).mean()


class LargeBank(Bank):
    rows = 1 << 17


class LongHistory(Reads):
    """A list of more items than are copied in each step, and a long queue."""

    def start(self) -> None:
        self.history = list(range(20_000))
        self.fifo = deque(range(20_000), maxlen=20_000)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.history.append(self.history[-1] + 1)
        self.fifo.append(self.fifo[-1] + 1)
        return self.loss(batch) * (self.history[-1] - 19_000) * (self.fifo[0] + 1)


class Codes(Reads):
    """A parameter that the optimizer has and the step writes (a codebook), and weights that decay in the step."""

    def start(self) -> None:
        self.codes = nn.Parameter(torch.ones(NUM_CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.codes.data.mul_(0.5)
            self.net[0].weight.mul_(0.5)
        return self.loss(batch) + (self.net(batch[0]) @ self.codes.detach()).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Power(Reads):
    """Power iteration writes its vectors in every pass (spectral normalisation)."""

    def start(self) -> None:
        nn.utils.parametrizations.spectral_norm(self.net[0])


STATEFUL = [Queue, LargeQueue, LargeQueueThroughData, Teacher, TeacherThroughData, Counter, Bank, LargeBank]
STATEFUL += [LongHistory, Codes, Power]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("module_class", STATEFUL, ids=lambda module_class: module_class.__name__)
def test_with_a_vanishing_radius_the_gradient_is_the_plain_one(module_class: Any, accumulate: int) -> None:
    """And what the steps leave is what they leave without SAM."""
    plain, with_sam = (
        fit(module_class(), *callbacks, max_epochs=2, accumulate_grad_batches=accumulate)
        for callbacks in ([], [SAM(rho=1e-9)])
    )
    assert len(plain.gradients) == len(with_sam.gradients) == 12
    for expected, got in zip(plain.gradients, with_sam.gradients, strict=True):
        assert float((got - expected).norm() / expected.norm()) < 1e-5
    assert_identical(dict(with_sam.state_dict()), dict(plain.state_dict()), "weights and buffers")
    for name in ("counts", "bank", "centres", "history", "fifo"):
        if hasattr(plain, name):
            assert_identical({name: getattr(with_sam, name)}, {name: getattr(plain, name)}, name)


def test_a_teacher_that_begins_to_move_later_is_exact_from_its_second_move_on() -> None:
    class Late(Teacher):
        def follow(self) -> None:
            if self.global_step > 2:
                super().follow()

    plain, with_sam = (fit(Late(), *callbacks) for callbacks in ([], [SAM(rho=1e-9)]))
    differences = [
        float((got - expected).norm() / expected.norm())
        for expected, got in zip(plain.gradients, with_sam.gradients, strict=True)
    ]
    assert max(differences[:3] + differences[4:]) < 1e-5
    assert_identical(dict(with_sam.state_dict()), dict(plain.state_dict()), "weights and buffers")


def labelled(x: Tensor) -> Any:
    result = x.as_subclass(Labelled)
    result.label = "x"
    return result


def test_a_tensor_of_a_subclass_in_the_batch_trains_as_a_plain_one() -> None:
    class Plain(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[0].label == "x"
            batch[0].label = "y"
            self.kept = batch[0]
            return self.loss((batch[0].as_subclass(Tensor), batch[1]))

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return labelled(batch[0]), batch[1]

    same = fit(Base(lr=0.1), SAM(rho=RHO), loader=collate(lambda x, y: (x, y)))
    module = fit(Plain(lr=0.1), SAM(rho=RHO), loader=collate(lambda x, y: (x, y)))
    assert module.kept.label == "y"
    assert_identical(dict(module.net.state_dict()), dict(same.net.state_dict()), "weights")


def test_a_write_into_a_tensor_of_a_subclass_is_refused() -> None:
    class Writes(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            batch[0].as_subclass(Tensor).data.mul_(2)
            return self.loss((batch[0].as_subclass(Tensor), batch[1]))

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return labelled(batch[0]), batch[1]

    with pytest.raises(MisconfigurationException, match="written in place"):
        fit(Writes(), SAM(rho=RHO))
