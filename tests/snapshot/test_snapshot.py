"""Every kind of state on a user's objects, changed and restored."""

from __future__ import annotations

import abc
import copy
import io
import logging
import os
import random
import re
import threading
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from lightning_hp.second_pass.reachable import Reachable
from lightning_hp.snapshot import RandomState, Snapshot, attributes_of, host_memory, slots_of
from lightning_hp.snapshot.snapshot import MAX_DESCEND
from tests.devices import on_each_device, torch_device
from tests.training import assert_identical


class Average:
    """A user's own helper object."""

    def __init__(self) -> None:
        self.total, self.history = 0.0, [1.0]
        self.shadow = torch.ones(2)


class Slotted:
    __slots__ = ("count", "values")

    def __init__(self) -> None:
        self.count, self.values = 0, [0]


@dataclass
class Options:
    names: list[str] = field(default_factory=lambda: ["a"])


def model() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    net.register_buffer("scale", torch.ones(3), persistent=False)
    net.extra = SimpleNamespace(step=3)
    net.average, net.slotted, net.options = Average(), Slotted(), Options()
    net.nest = {"list": [1, [2, {3}]], "deque": deque([1, 2], maxlen=5), "default": defaultdict(list, {"a": [1]})}
    net.counter, net.ordered = Counter("aab"), OrderedDict(b=1, a=2)
    net.rngs = (random.Random(1), np.random.default_rng(1), np.random.RandomState(1), torch.Generator().manual_seed(1))
    net.array = np.arange(3.0)
    net.lock, net.trainer_like = threading.Lock(), lambda: 0
    net.itself = [net]
    return net


def disturb(net: Any) -> None:
    net(torch.randn(4, 3)).sum().backward()
    with torch.no_grad():
        net[0].weight.mul_(2)
        net[0].bias.data = torch.zeros(3)
        net.scale.add_(1)
    net[0].weight.requires_grad_(False)
    net.eval()
    net.extra.step += 1
    net.average.total, net.average.shadow = 5.0, torch.zeros(3)
    net.average.history.append(2.0)
    net.slotted.count += 1
    net.slotted.values.append(1)
    net.options.names.clear()
    net.nest["list"][1][1].add(4)
    net.nest["deque"].popleft()
    net.nest["default"]["b"].append(1)
    net.nest["new"] = 1
    net.counter.update("ccc")
    net.ordered.move_to_end("b")
    net.new_attribute = 3
    net.array[0], net.array = 7, np.zeros(1)
    net.add_module("another", nn.Linear(1, 1))
    for rng in net.rngs[:1]:
        rng.random()
    net.rngs[1].normal()
    net.rngs[2].normal()
    torch.rand(1, generator=net.rngs[3])


def view(net: Any) -> dict[str, Any]:
    """The state, read without the snapshot's code."""
    return {
        "tensors": {name: value.clone() for name, value in [*net.named_parameters(), *net.named_buffers()]},
        "gradients": [parameter.grad for parameter in net.parameters()],
        "flags": [(module.training, *(p.requires_grad for p in module.parameters())) for module in net.modules()],
        "attributes": [net.extra.step, net.average.total, list(net.average.history), net.average.shadow.clone()],
        "slots": [net.slotted.count, list(net.slotted.values), list(net.options.names)],
        "nest": [repr(net.nest), net.nest["deque"].maxlen, dict(net.counter), list(net.ordered), sorted(vars(net))],
        "array": np.array(net.array),
        "rngs": [
            net.rngs[0].getstate(), repr(net.rngs[1].bit_generator.state), net.rngs[2].get_state()[1],
            net.rngs[3].get_state(),
        ],
    }  # fmt: skip


def test_everything_is_restored_any_number_of_times() -> None:
    net = model()
    objects = [id(net.average), id(net.nest["list"][1]), id(net[0].weight), id(net.average.shadow), id(net.array)]
    before = view(net)
    snapshot = Snapshot(net)
    for _ in range(2):
        disturb(net)
        assert repr(view(net)) != repr(before)
        snapshot.restore()
        assert_identical(view(net), before, "module")
    assert objects == [
        id(net.average), id(net.nest["list"][1]), id(net[0].weight), id(net.average.shadow), id(net.array)
    ]  # fmt: skip


class OwnDict(dict): ...  # type: ignore[type-arg]


class OwnOrdered(OrderedDict): ...  # type: ignore[type-arg]


class OwnDefault(defaultdict): ...  # type: ignore[type-arg]


class OwnList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(())


class OwnSet(set):  # type: ignore[type-arg]
    __slots__ = ("seen", "total")


class OwnDeque(deque): ...  # type: ignore[type-arg]


class OwnTuple(tuple): ...


class OwnUserDict(UserDict): ...  # type: ignore[type-arg]


class OwnArray(np.ndarray): ...


class OwnTensor(torch.Tensor): ...


@pytest.mark.parametrize("walk", ["snapshot", "second pass"])
@pytest.mark.parametrize(
    "make",
    [
        OwnDict, OwnOrdered, OwnDefault, OwnList, OwnSet, OwnDeque, OwnTuple, OwnUserDict, OrderedDict, UserDict,
        lambda: np.zeros(2).view(OwnArray), lambda: torch.zeros(2).as_subclass(OwnTensor), lambda: torch.zeros(2),
        lambda: np.ma.masked_array([1.0, 2.0]),
    ],
)  # fmt: skip
def test_attributes_of_containers_arrays_and_tensors_are_restored(make: Any, walk: str) -> None:
    thing, net = make(), nn.Module()
    net.thing = [thing]
    thing.seen, thing.total = [1], 0
    if isinstance(thing, list):
        list.extend(thing, [1, 2])
    items = list.__len__(thing) if isinstance(thing, list) else 0
    before = Snapshot(net) if walk == "snapshot" else Reachable()
    if isinstance(before, Reachable):
        before.visit([net.thing])
    thing.seen.append(2)
    thing.total += 1
    if not isinstance(thing, set):
        thing.added = 1
    if isinstance(thing, list):
        thing.append(3)
    before.restore()
    assert (thing.seen, thing.total, hasattr(thing, "added")) == ([1], 0, False)
    assert not isinstance(thing, list) or list.__len__(thing) == items


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LBFGS", "Adadelta", "NAdam"])
def test_optimizer_state_that_appears_is_removed_and_present_state_is_restored(name: str) -> None:
    net = nn.Linear(3, 2)
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1)
    if name == "SGD":
        optimizer.param_groups[0]["momentum"] = 0.9

    def step() -> None:
        optimizer.zero_grad()

        def closure() -> torch.Tensor:
            loss = net(torch.ones(1, 3)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    for _ in range(2):  # first without state, then with it
        before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
        snapshot = Snapshot(net, optimizer)
        step()
        optimizer.param_groups[0]["lr"] = 9.0
        snapshot.restore()
        assert_identical((optimizer.state_dict(), dict(net.state_dict())), (before[0], dict(before[1])), name)
        step()


def test_a_scaler_without_a_step_yet() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    snapshot = Snapshot(scaler, optimizer, [weight])
    scaler.scale((weight * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    snapshot.restore()
    assert scaler.get_scale() == 8.0
    assert scaler._scale is None
    assert weight.grad is None


def test_the_samples_of_a_dataset_are_not_copied_but_its_counters_are() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(300_000, 2))
    data.visits, data.small = 0, torch.zeros(3)
    snapshot = Snapshot(data=[data])
    data.visits += 1
    data.small += 1
    data.tensors[0][0] = 1
    snapshot.restore()
    assert (data.visits, float(data.small.sum()), float(data.tensors[0][0, 0])) == (0, 0.0, 1.0)


def test_the_items_of_a_long_list_and_their_order_are_restored() -> None:
    owner = SimpleNamespace(files=[(f"{i}.png", i) for i in range(MAX_DESCEND * 3)])
    expected = list(owner.files)
    snapshot = Snapshot(owner)
    random.Random(0).shuffle(owner.files)
    owner.files.pop()
    snapshot.restore()
    assert owner.files == expected


def test_what_cannot_be_restored_is_named() -> None:
    reader, writer = map(io.FileIO, os.pipe())
    with reader, writer:
        owner = SimpleNamespace(a=(i for i in range(3)), b=iter([1]), pipe=reader, text=io.StringIO("abc"))
        names = Snapshot(data=[owner]).unrestorable
    assert [name.split(" ")[0] for name in names] == ["SimpleNamespace.a", "SimpleNamespace.b", "SimpleNamespace.pipe"]


def test_the_position_of_a_file_is_restored() -> None:
    owner = SimpleNamespace(text=io.StringIO("abcdef"))
    owner.text.read(1)
    snapshot = Snapshot(data=[owner])
    owner.text.read(3)
    snapshot.restore()
    assert owner.text.read() == "bcdef"


def test_tensors_that_cannot_be_written_are_not_restored() -> None:
    with torch.inference_mode():
        inference = torch.ones(2)
    owner = SimpleNamespace(inference=inference, expanded=torch.ones(1).expand(3), meta=torch.ones(2, device="meta"))
    kept = dict(vars(owner))
    snapshot = Snapshot(owner)
    owner.inference = owner.expanded = owner.meta = None
    snapshot.restore()
    assert all(getattr(owner, name) is value for name, value in kept.items())


def test_nothing_is_written_that_did_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(dict):
        writes = 0

        def __setitem__(self, key: Any, value: Any) -> None:
            Watched.writes += 1
            super().__setitem__(key, value)

        def clear(self) -> None:
            Watched.writes += 1

    monkeypatch.setattr("lightning_hp.snapshot.restore._kind_of", type)
    owner = SimpleNamespace(watched=Watched(a=1, b=[2]))
    snapshot = Snapshot(owner)
    snapshot.restore()
    assert Watched.writes == 0
    owner.watched["a"] = 2
    snapshot.restore()
    assert Watched.writes == 2


def test_containers_of_a_class_that_refuses_writes() -> None:
    class Refuses(OrderedDict):  # type: ignore[type-arg]
        def update(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError

        pop = clear = update  # type: ignore[assignment]

    class Short(list):  # type: ignore[type-arg]
        def clear(self) -> None:
            raise RuntimeError

    owner = SimpleNamespace(ordered=Refuses(a=1, b=2), short=Short([1, 2]))
    snapshot = Snapshot(owner)
    owner.ordered.move_to_end("a")
    owner.ordered["c"] = 3
    owner.short.append(3)
    snapshot.restore()
    assert list(owner.ordered.items()) == [("a", 1), ("b", 2)]
    assert owner.short == [1, 2]


def test_an_object_of_a_class_made_at_run_time() -> None:
    """Its module is that of the code that made it, here ``abc`` of the standard library."""

    class Base:
        def __init__(self) -> None:
            self.values, self.count = torch.zeros(2), 0

    made, bare = abc.ABCMeta("Made", (Base,), {})(), abc.ABCMeta("Bare", (), {})()
    bare.values, bare.count = torch.zeros(2), 0
    snapshot = Snapshot([made, bare])
    for each in (made, bare):
        assert type(each).__module__ == "abc"
        each.values += 1
        each.count += 1
    snapshot.restore()
    assert [(each.values.tolist(), each.count) for each in (made, bare)] == [([0, 0], 0), ([0, 0], 0)]


@pytest.mark.parametrize(
    "thing",
    [
        threading.Thread(),
        MagicMock(),
        logging.getLogger("x"),
        io.StringIO(),
        re.compile("x"),
        print,
        abc,
        partial(print),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_objects_of_the_standard_library_are_not_opened(thing: Any) -> None:
    assert attributes_of(thing) is None
    assert slots_of(thing) == {}


class Labelled(torch.Tensor):
    """A tensor with an attribute of its own, without which no operation on it works."""

    label: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, cls):
            result.label = args[0].label
        return result


def test_a_tensor_of_a_subclass_and_its_attributes() -> None:
    tensor: Any = torch.zeros(2).as_subclass(Labelled)
    snapshot = Snapshot([tensor])  # it has no label yet
    tensor.label = "a"
    tensor += 1
    snapshot.restore()
    assert torch.equal(tensor.as_subclass(torch.Tensor), torch.zeros(2))
    tensor.label = ["a"]
    snapshot = Snapshot([tensor])
    tensor.label.append("b")
    tensor.other = 1
    snapshot.restore()
    assert tensor.label == ["a"]
    assert not hasattr(tensor, "other")


def test_the_global_random_state() -> None:
    random_state = RandomState()
    first = random.random(), np.random.rand(), torch.rand(1)
    random_state.restore()
    assert first == (random.random(), np.random.rand(), torch.rand(1))


@on_each_device
def test_the_copies_are_in_host_memory(device: str) -> None:
    there = torch_device(device)
    net = nn.Linear(1000, 1000, device=there)
    before = net.weight.detach().cpu().clone()
    allocated = torch.cuda.memory_allocated() if device == "gpu" else 0
    snapshot, random_state = Snapshot(net), RandomState(there)
    assert (torch.cuda.memory_allocated() if device == "gpu" else 0) == allocated
    nn.init.zeros_(net.weight)
    drawn = torch.rand(2, device=there)
    snapshot.restore()
    random_state.restore()
    assert torch.equal(net.weight.detach().cpu(), before)
    assert torch.equal(torch.rand(2, device=there), drawn)


class LateMemory(torch.Tensor):
    """Page-locked memory as a device writes it: the values arrive when somebody waits."""

    late: ClassVar[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        plain = self.as_subclass(torch.Tensor)
        self.late.append((plain, source.clone()))
        return plain

    @classmethod
    def arrive(cls, *args: object) -> None:
        for target, source in cls.late:
            target.copy_(source)
        cls.late.clear()


@pytest.mark.parametrize("given", ["locked memory", "no locked memory"])
def test_large_tensors_are_copied_to_locked_memory_and_waited_for(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 0)
        cpu = torch.Tensor.clone

    asked: list[int] = []

    def locked(tensor: torch.Tensor) -> torch.Tensor | None:
        asked.append(tensor.numel())
        return torch.zeros(tensor.shape).as_subclass(LateMemory) if given == "locked memory" else None

    stream = SimpleNamespace(synchronize=LateMemory.arrive)
    monkeypatch.setattr(host_memory, "_locked_memory_like", locked)
    monkeypatch.setattr(host_memory, "MAX_LOCKED_BYTES", 3 << 20)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda which: stream)
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self)
    host = host_memory.HostCopies()
    sizes = [10, 1 << 18, 1 << 18, 1 << 19]
    values = [torch.rand(size) for size in sizes]
    copies = [host.copy(value.as_subclass(OnDevice)) for value in values]
    host.wait()
    for copy_, value in zip(copies, values, strict=True):
        assert torch.equal(copy_.as_subclass(torch.Tensor), value)
    # The first is small; the last one would be more than may be locked, unless nothing was locked before it.
    assert asked == sizes[1:3] if given == "locked memory" else sizes[1:]
