"""BatchSizeScaler as a user meets it. That every state is restored and its value is used is in the contract suite."""

from __future__ import annotations

import copy
import enum
import itertools
import math
import pickle
import re
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.utils.rnn import pack_sequence
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, default_collate

from lightning_hp import BatchSizeResult, BatchSizeScaler, ClassBalancedBatchSampler, LRFinder
from lightning_hp.functional import coverage_probability
from lightning_hp.tuning.batch_size import BatchSizeLimits, ClassOptions
from tests.training import NUM_CLASSES, MemoryLogger, Net, Run, Samples, assert_identical, assert_same_training, train

PAGES: dict[int, list[int]] = {}
NEXT_PAGE = itertools.count()


def scaler(**kwargs: Any) -> BatchSizeScaler:
    """Few optimizer steps of any size are enough here, since the data is small; the two groups are given flat."""
    kwargs = {"round_to": 1, **kwargs}
    limits: dict[str, Any] = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 1e-9}
    limits |= {name: kwargs.pop(name) for name in BatchSizeLimits.__annotations__ if name in kwargs}
    options = {name: kwargs.pop(name) for name in ClassOptions.__annotations__ if name in kwargs}
    return BatchSizeScaler(**kwargs, class_options=options, limits=limits)


def largest(**kwargs: Any) -> BatchSizeScaler:
    """The largest size that fits: what other finders look for."""
    return scaler(**{"objective": "memory", "min_per_class": 0, **kwargs})


def net(module_class: type[pl.LightningModule] = Net, **kwargs: Any) -> Any:
    torch.manual_seed(5)
    return module_class(**kwargs)


def loader(num_samples: int = 1280, batch_size: int = 32, **kwargs: Any) -> DataLoader:
    return DataLoader(Samples(num_samples), batch_size=batch_size, **{"shuffle": True, **kwargs})


def fit(callbacks: list[pl.Callback], module: Any = None, data: Any = None, **kwargs: Any) -> Run:
    return train(module or net(), callbacks, loader() if data is None else data, **{"max_epochs": 1, **kwargs})


VALIDATION = DataLoader(Samples(32), batch_size=16)


class OutOfMemory(Net):
    """Runs out of memory above ``cap`` samples in training, above ``val_cap`` in validation; notes what it is given."""

    def __init__(
        self, cap: float = math.inf, val_cap: float = math.inf, error: Exception | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cap, self.val_cap = cap, val_cap
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes = Sizes()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.sizes.note(len(batch[0]))
        if len(batch[0]) > self.cap:
            raise self.error
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if len(batch[0]) > self.val_cap:
            raise self.error
        super().validation_step(batch, batch_idx)


class Colour(enum.Enum):
    RED = 1


class Sizes:
    """A record outside of the module, which no snapshot restores."""

    def __init__(self) -> None:
        self.page = next(NEXT_PAGE)  # not `id(self)`, which a later object may have too

    def note(self, size: int) -> None:
        PAGES.setdefault(self.page, []).append(size)

    @property
    def all(self) -> list[int]:
        return PAGES.get(self.page, [])


# arguments


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"min_per_class": -1}, ValueError, "`min_per_class` to be an int >= 0, but got -1"),
        (
            {"class_options": {"coverage": 1.0}},
            ValueError,
            "`coverage` to be a number > 0 and < 1, or None, but got 1.0",
        ),
        ({"class_options": {"num_classes": 0}}, ValueError, "`num_classes` to be an int >= 1, or None"),
        (
            {"class_options": {"classes": 3}},
            ValueError,
            "`class_options` to be a dict of options with keys from num_classes",
        ),
        ({"limits": 3}, TypeError, "`limits` to be a dict of options with keys from min_steps_per_epoch"),
        ({"effective_batch_size": 0}, ValueError, "`effective_batch_size` to be an int >= 1, or None"),
        ({"base_batch_size": 32.0}, TypeError, "`base_batch_size` to be an int >= 1, or None, but got 32.0"),
        (
            {"lr_scaling": "cubic"},
            ValueError,
            "`lr_scaling` to be one of 'linear', 'sqrt', 'auto', or None, but got 'cubic'",
        ),
        ({"warmup": 0.5}, TypeError, "`warmup` to be an int >= 1, or True or False, but got 0.5"),
        ({"objective": "accuracy"}, ValueError, "`objective` to be one of 'throughput', 'memory'"),
        ({"init_val": 0}, ValueError, "`init_val` to be an int >= 1"),
        ({"max_val": True}, TypeError, "`max_val` to be an int >= 1, but got True"),
        (
            {"round_to": "odd"},
            ValueError,
            "`round_to` to be one of 'power', 'half_power', or an int >= 1, or None, but got 'odd'",
        ),
        ({"limits": {"min_steps_per_epoch": 0}}, ValueError, "`min_steps_per_epoch` to be an int >= 1"),
        ({"limits": {"min_training_steps": 0}}, ValueError, "`min_training_steps` to be an int >= 1"),
        ({"limits": {"within": 0}}, ValueError, "`within` to be a number > 0 and < 1, but got 0"),
        ({"steps_per_trial": 1}, ValueError, "`steps_per_trial` to be an int from 2 to 1000"),
        ({"limits": {"memory_share": 0.0}}, ValueError, "`memory_share` to be a number > 0 and <= 1"),
        ({"margin": 1.0}, ValueError, "`margin` to be a number >= 0 and < 1"),
        ({"update_attr": "no"}, TypeError, "`update_attr` to be True or False"),
        ({"batch_arg_name": None}, TypeError, "`batch_arg_name` to be a name"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        BatchSizeScaler(**kwargs)


# where the batch size lives


class OwnLoader(OutOfMemory):
    """Builds its loader from a hyperparameter, under any name."""

    def __init__(self, name: str = "batch_size", size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.save_hyperparameters({**self.hparams, name: size})

    def train_dataloader(self) -> DataLoader:
        return loader(batch_size=self.hparams[self.name])


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return loader(batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Samples(256), batch_size=self.batch_size)


def test_a_hyperparameter_of_the_model_is_its_home() -> None:
    module = net(OwnLoader, cap=100)
    run = train(module, [largest()], max_epochs=1)
    assert (
        module.hparams.batch_size == module.hparams_initial["batch_size"] == run.trainer.callbacks[0].optimal_batch_size
    )
    assert 95 <= module.hparams.batch_size <= 100
    assert set(module.sizes.all[-5:-1]) == {module.hparams.batch_size}  # what `fit` then trains with


def test_an_attribute_of_the_datamodule_is_its_home_and_the_validation_follows() -> None:
    module, data, callback = net(OutOfMemory, cap=100, val_cap=60), Data(), largest()
    train(module, [callback], datamodule=data, max_epochs=1)
    assert data.batch_size == callback.optimal_batch_size
    assert 58 <= data.batch_size <= 60  # a larger one trains, and then runs out of memory in the validation


def test_another_name_can_be_given() -> None:
    module, callback = net(OwnLoader, name="train_size", cap=100), largest(batch_arg_name="train_size")
    train(module, [callback], max_epochs=1)
    assert module.hparams.train_size == callback.optimal_batch_size


def test_a_name_that_is_nothing_is_refused_before_any_step() -> None:
    module = net(OwnLoader)
    with pytest.raises(MisconfigurationException, match=r"`batch_arg_name` 'rows' to name an int >= 1 .* no such attr"):
        train(module, [scaler(batch_arg_name="rows")])
    assert module.sizes.all == []


def test_a_name_that_the_loaders_do_not_follow_is_refused() -> None:
    """The peer changes the attribute, trains with other batches, and says nothing."""

    class Ignores(OwnLoader):
        def train_dataloader(self) -> DataLoader:
            return loader(batch_size=16)

    module = net(Ignores)
    with pytest.raises(MisconfigurationException, match=r"Expected the loaders to follow `model.hparams.batch_size`"):
        train(module, [scaler(batch_arg_name="batch_size")])
    callback = largest(max_val=100)
    train(net(Ignores), [callback], max_epochs=1)  # unnamed: the loaders themselves are resized
    assert callback.optimal_batch_size == 100


def test_loaders_given_to_fit_are_copied_and_not_touched() -> None:
    """The peer refuses them."""
    given = loader(num_workers=0, drop_last=True, generator=torch.Generator().manual_seed(3))
    held = dict(vars(given))
    callback = largest(max_val=96)
    run = fit([callback], data=given)
    assert vars(given) == held
    used = run.trainer.train_dataloader
    assert used.batch_size == used.batch_sampler.batch_size == callback.optimal_batch_size == 96
    for name in ("dataset", "sampler", "collate_fn", "generator", "drop_last", "num_workers"):
        assert getattr(used, name) is getattr(given, name)
    fit([], data=given)
    assert given.batch_size == 32


def test_an_attribute_that_only_repeats_the_loaders_size_goes_with_it() -> None:
    class Remembers(Net):
        def __init__(self, batch_size: int = 32) -> None:
            super().__init__()
            self.batch_size = batch_size

    module = net(Remembers)
    fit([largest(max_val=100)], module)
    assert module.batch_size == 100


def test_a_batch_sampler_is_kept_with_its_class_and_its_state() -> None:
    class Mine(BatchSampler):
        """With state of its own."""

        mark = "mine"

    data = Samples(1280)
    given = DataLoader(data, batch_sampler=Mine(RandomSampler(data), 32, drop_last=False))
    callback = largest(max_val=64)
    run = fit([callback], data=given)
    assert type(run.trainer.train_dataloader.batch_sampler) is Mine
    assert given.batch_sampler.batch_size == 32
    assert callback.optimal_batch_size == 64


def test_a_loader_without_batches_of_its_own_is_refused() -> None:
    given = DataLoader([Samples(96)[i : i + 8] for i in range(0, 96, 8)], batch_size=None)
    with pytest.raises(
        MisconfigurationException, match="whose batches can be resized, got DataLoader with batch_size=None"
    ):
        fit([scaler()], data=given)


def test_a_batch_sampler_that_is_given_as_sampler_is_resized_and_bounds_the_size() -> None:
    class Batches(Samples):
        def __getitem__(self, index: Any) -> Any:
            return self.features[index], self.labels[index], torch.tensor(index)

    def given(size: int) -> DataLoader:
        data = Batches(540)
        return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), size, False))

    callback = largest()
    with_callback = fit([callback], data=given(8), num_sanity_val_steps=0)
    assert callback.optimal_batch_size == 540
    assert callback.result.decided_by == "data"
    by_hand = fit([], net(lr=with_callback.module.lr), given(540), num_sanity_val_steps=0)
    assert_same_training(with_callback, by_hand)


class Stream(IterableDataset):
    """Samples one by one, 1280 of them or for ever."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length

    def __iter__(self) -> Any:
        sample = Samples(1)[0]
        return iter(sample for _ in (itertools.count() if self.length is None else range(self.length)))


class Container:
    """A batch of a class that nothing knows."""

    def __init__(self, samples: list[Any]) -> None:
        self.name = f"{len(samples)} samples"
        self.samples = {"rows": default_collate(samples)}

    def to(self, device: Any) -> Container:
        return self


class Hidden(Container):
    """Its tensors are made when they are asked for."""

    def __init__(self, samples: list[Any]) -> None:
        self.given = [(features.tolist(), int(label), index) for features, label, index in samples]

    @property
    def samples(self) -> Any:
        return {"rows": default_collate([(torch.tensor(x), label, index) for x, label, index in self.given])}


class Graphs:
    """As a batch of graphs: five nodes each, the nodes first."""

    def __init__(self, samples: list[Any]) -> None:
        self.nodes = torch.zeros(5 * len(samples), 2)
        self.samples = {"rows": default_collate(samples)}

    to = Container.to


def packed(samples: list[Any]) -> Any:
    features, *others = default_collate(samples)
    return pack_sequence([row[:, None] for row in features]), features, *others


COLLATED: dict[str, tuple[Any, Any]] = {
    "graphs": (Graphs, lambda batch: batch.samples["rows"]),
    "container": (Container, lambda batch: batch.samples["rows"]),
    "hidden": (Hidden, lambda batch: batch.samples["rows"]),
    "lists": (lambda s: ([row[0] for row in s], default_collate(s)), lambda batch: batch[1]),
    "time_first": (lambda s: (torch.zeros(7, len(s), 2), default_collate(s)), lambda batch: batch[1]),
    "packed": (packed, lambda batch: batch[1:]),
}


class Reads(OutOfMemory):
    """Finds the samples in a batch of another form."""

    read: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(self.read(batch), batch_idx)


@pytest.mark.parametrize("length", [None, 1280])
@pytest.mark.parametrize("form", COLLATED)
def test_a_batch_of_any_form_has_the_samples_that_torch_puts_into_it(form: str, length: int | None) -> None:
    collate, read = COLLATED[form]
    module, callback = net(Reads), largest(max_val=300)
    module.read = read
    data = DataLoader(Stream(length), batch_size=8, collate_fn=collate)
    fit([callback], module, data, limit_train_batches=2)
    assert callback.optimal_batch_size == 300
    assert module.sizes.all[-2:] == [300, 300]


class OwnBatches:
    """A loader that does not say how large its batches are, but how many there are."""

    def __init__(self, size: int, collate: Any) -> None:
        self.rows = DataLoader(Samples(1280), batch_size=size, collate_fn=collate)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class KeptLoaders(Data):
    """Gives ``batch_size`` to its loader when it is built, or whenever it is asked for it."""

    def __init__(self, collate: Any, follows: bool) -> None:
        super().__init__(8)
        self.collate, self.follows = collate, follows
        self.loader = OwnBatches(self.batch_size, collate)

    def train_dataloader(self) -> Any:
        return OwnBatches(self.batch_size, self.collate) if self.follows else self.loader


@pytest.mark.parametrize("form", ["container", "hidden", "graphs"])
def test_an_attribute_that_nobody_reads_is_refused_and_no_rate_is_scaled_for_it(form: str) -> None:
    module = net(Reads)
    collate, module.read = COLLATED[form]
    data = KeptLoaders(collate, follows=False)
    with pytest.raises(MisconfigurationException, match="Expected"):
        train(module, [largest(init_val=32)], datamodule=data, max_epochs=1, num_sanity_val_steps=0)
    assert (data.batch_size, module.lr) == (8, 0.05)
    module, data, callback = net(Reads), KeptLoaders(collate, follows=True), largest(init_val=32, max_val=128)
    module.read = COLLATED[form][1]
    train(module, [callback], datamodule=data, max_epochs=1, num_sanity_val_steps=0)
    assert data.batch_size == callback.optimal_batch_size == 128
    assert module.sizes.all[-10:] == [128] * 10


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning")
def test_a_stream_of_batches_is_not_a_stream_of_samples() -> None:
    """Its length is a number of batches."""

    class Batches(IterableDataset):
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return 320 // self.size

        def __iter__(self) -> Any:
            rows = Samples(320)
            return (
                default_collate([rows[i] for i in range(start, start + self.size)])
                for start in range(0, 320 - self.size + 1, self.size)
            )

    class Module(OutOfMemory):
        batch_size = 8

        def train_dataloader(self) -> DataLoader:
            return DataLoader(Batches(self.batch_size), batch_size=None)

    callback = largest()
    train(net(Module), [callback], max_epochs=1)
    assert callback.optimal_batch_size == 320
    assert callback.result.decided_by == "data"


def test_several_loaders_keep_their_proportion() -> None:
    both = {"a": loader(batch_size=32), "b": loader(batch_size=8)}
    callback = largest(max_val=64)
    run = fit([callback], data=both)
    sizes = [one.batch_size for one in run.trainer.train_dataloader.values()]
    assert sizes == [64, 16]
    assert callback.result.batch_size_before == 32


def test_a_stream_has_no_end_but_max_val() -> None:
    """The peer returns 8192, which it has not run."""

    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            sample = Samples(1)[0]
            while True:
                yield sample

    module, callback = net(OutOfMemory), largest(max_val=300)
    fit([callback], module, DataLoader(Endless(), batch_size=8), limit_train_batches=4)
    assert callback.optimal_batch_size == 300
    assert 300 in module.sizes.all


def test_a_stream_that_ends_before_a_batch_is_full_says_so() -> None:
    class Short(IterableDataset):
        def __iter__(self) -> Any:
            return (Samples(40)[i] for i in range(40))

    with pytest.raises(MisconfigurationException, match=r"Expected batches of .* got one of 40.* set `max_val`"):
        fit([largest(init_val=16)], data=DataLoader(Short(), batch_size=8))


# memory, by an injected error


@pytest.mark.parametrize("cap", [2, 3, 7, 31, 64, 100, 333, 1000])
def test_the_largest_that_fits_is_found_and_was_run(cap: int) -> None:
    module, callback = net(OutOfMemory, cap=cap), largest()
    fit([callback], module)
    found = callback.optimal_batch_size
    assert 0.95 * cap <= found <= cap
    assert found in module.sizes.all
    assert callback.result.decided_by == "memory"


def test_no_margin_is_taken_where_nothing_ran_out() -> None:
    """The peer takes 5 % off its default of 8192 though nothing failed."""
    callback = largest(max_val=1000)
    fit([callback])
    assert callback.optimal_batch_size == 1000


def test_never_more_than_the_dataset() -> None:
    """The peer returns 2048 for 1280 samples."""
    callback = largest()
    fit([callback])
    assert callback.optimal_batch_size == 1280
    assert callback.result.decided_by == "data"


def test_with_drop_last_the_training_still_has_steps() -> None:
    """The peer returns 1024 for 1000 samples, and `fit` then trains nothing."""
    callback = largest()
    run = fit([callback], data=loader(1000, drop_last=True))
    assert callback.optimal_batch_size <= 1000
    assert run.global_step == 1


def test_a_size_that_ran_out_of_memory_is_not_returned_when_the_data_is_small() -> None:
    """The peer returns 256 for 150 samples of which 140 do not fit, and `fit` then runs out of memory."""
    module, callback = net(OutOfMemory, cap=139), largest()
    run = fit([callback], module, loader(150))
    assert 133 <= callback.optimal_batch_size <= 139
    assert run.global_step == 2


@pytest.mark.parametrize("cap", [50, 64, 100])
def test_the_size_that_just_failed_is_not_returned_when_it_is_as_large_as_the_data(cap: int) -> None:
    """The peer returns 128 for 100 samples of which 64 fit, and loops for ever in its other mode."""
    callback = largest()
    fit([callback], net(OutOfMemory, cap=cap), loader(100))
    assert 0.95 * cap <= callback.optimal_batch_size <= cap


def test_the_users_own_size_may_be_far_too_large() -> None:
    """The peer runs it first, and ends at 1."""
    module, callback = net(OutOfMemory, cap=300), largest()
    fit([callback], module, loader(1280, batch_size=512))
    assert 285 <= callback.optimal_batch_size <= 300


def test_the_first_size_that_is_tried_is_the_one_that_is_meant() -> None:
    """The peer's first trial runs the user's own size under another label."""
    module, callback = net(OutOfMemory), largest(init_val=4, max_val=64, steps_per_trial=2)
    fit([callback], module)
    tried = [trial.batch_size for trial in callback.result.trials]
    rehearsed = module.sizes.all[: callback.result.num_steps]
    assert [size for size, _ in itertools.groupby(rehearsed)] == [size for size, _ in itertools.groupby(tried)]
    assert tried[0] == 4


def test_where_nothing_fits_it_says_so_and_changes_nothing() -> None:
    """The peer returns 1, or sets a batch size of 0."""
    module = net(OwnLoader, cap=1)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match=r"a batch of 2 samples to fit, .* CUDA out of memory.*smaller"):
        train(module, [scaler()])
    assert module.hparams.batch_size == 32
    assert_identical(dict(module.state_dict()), dict(before), "weights")


def test_validation_that_runs_out_of_memory_lowers_the_size() -> None:
    """The peer raises KeyError('limit_eval_batches')."""
    data, callback = Data(), largest()
    train(net(OutOfMemory, val_cap=40), [callback], datamodule=data, max_epochs=1)
    assert 38 <= data.batch_size <= 40


def test_a_bug_in_the_validation_is_raised_as_it_is() -> None:
    """The peer hides it behind a KeyError."""
    data = Data()
    with pytest.raises(ValueError, match="a bug of the user"):
        train(net(OutOfMemory, val_cap=10, error=ValueError("a bug of the user")), [scaler()], datamodule=data)
    assert data.batch_size == 32


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)"),
        RuntimeError("XPU out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DataLoader worker (pid 164244) is killed by signal: Killed. "),
        RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("f8")),
    ],
    ids=lambda error: str(error)[:20] or "MemoryError",
)
def test_every_backend_may_run_out(error: Exception) -> None:
    """The peer backs off for CUDA alone, and crashes for all of these."""
    callback = largest()
    fit([callback], net(OutOfMemory, cap=64, error=error))
    assert 61 <= callback.optimal_batch_size <= 64


def test_batch_norm_that_needs_two_samples_is_not_taken_for_memory() -> None:
    callback = largest(max_val=64)
    fit([callback], net(batch_norm=True))
    assert callback.optimal_batch_size == 64
    with pytest.raises(MisconfigurationException, match=r"two samples or more, .* max_val allows 1. Raise it"):
        fit([largest(init_val=1, max_val=1)], net(batch_norm=True))


@pytest.mark.parametrize(
    ("samples", "kwargs", "found"),
    [
        (4033, {"max_val": 64}, 62),  # 64 and 63 leave one sample
        (4033, {"max_val": 128, "round_to": "power"}, 128),  # so do all powers below
        (4033, {"max_val": 60, "round_to": 8}, 40),  # 56 and 48 too
        (2001, {"effective_batch_size": 96}, 96),  # 80, 48, 40 leave one
        (65, {"max_val": 64}, 63),  # its second batch in a trial would have one sample
    ],
)
def test_a_last_batch_of_one_is_avoided(samples: int, kwargs: dict[str, Any], found: int) -> None:
    """Plain ``fit`` trains with the user's size; batch normalisation would end it at the last batch of an epoch."""
    callback = largest(**kwargs)
    module = net(OutOfMemory, batch_norm=True)
    fit([callback], module, loader(samples, batch_size=10))
    assert callback.optimal_batch_size == found
    assert samples % found != 1
    assert 1 not in module.sizes.all[2:]  # one step with one sample shows that it raises


def test_accumulated_batches_are_two_in_a_trial() -> None:
    """The peer runs all eight of each step: 180 training steps instead of 32."""
    module, callback = net(OutOfMemory), scaler()
    fit([callback], module, accumulate_grad_batches=8)
    rehearsed = module.sizes.all[: len(module.sizes.all) - math.ceil(1280 / callback.optimal_batch_size)]
    assert len(rehearsed) == 2 * callback.result.num_steps


def test_the_validation_is_rehearsed_with_one_batch() -> None:
    class Watches(OutOfMemory):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.sizes.note(-len(batch[0]))
            super().validation_step(batch, batch_idx)

    module, callback = net(Watches), scaler()
    fit([callback], module, num_sanity_val_steps=0)
    assert [size for size in module.sizes.all if size < 0] == 3 * [-16]  # one rehearsed, two of 32 samples in `fit`


# the classes


def test_three_of_each_class_on_average() -> None:
    callback = scaler(max_val=500, min_per_class=100, within=0.99)
    fit([callback])
    assert callback.optimal_batch_size == 100 * NUM_CLASSES
    assert callback.result.decided_by == "classes"


def test_with_a_probability_every_class_is_there() -> None:
    callback = scaler(max_val=500, min_per_class=20, coverage=0.99, within=0.99)
    fit([callback])
    counts = torch.bincount(Samples(1280).labels).numpy()
    found = callback.optimal_batch_size
    assert coverage_probability(found, counts, 20, replacement=False) >= 0.99
    assert coverage_probability(found - 1, counts, 20, replacement=False) < 0.99
    assert callback.result.class_probability == coverage_probability(found, counts, 20, replacement=False)


def test_accumulated_batches_of_a_step_count_for_the_classes() -> None:
    callback = scaler(max_val=500, min_per_class=100, within=0.99)
    run = fit([callback], accumulate_grad_batches=4)
    assert callback.optimal_batch_size == 75
    assert run.trainer.accumulate_grad_batches == 4


def test_batches_are_accumulated_where_memory_keeps_the_classes_apart() -> None:
    callback = scaler(min_per_class=100)
    run = fit([callback], net(OutOfMemory, cap=60, batch_norm=True))
    result = callback.result
    assert result.batch_size <= 60
    assert result.effective_batch_size >= 300
    assert run.trainer.accumulate_grad_batches == result.accumulate_grad_batches == math.ceil(300 / result.batch_size)
    assert f"Batch normalisation sees the micro-batch of {result.batch_size}" in str(result)
    assert result.lr_scaled == pytest.approx(0.05 * result.effective_batch_size / 32)


def test_labels_that_are_not_found_are_said_and_can_be_read() -> None:
    class Bare(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.inner = [Samples(1280)[i] for i in range(1280)]

        def __len__(self) -> int:
            return 1280

        def __getitem__(self, index: int) -> Any:
            return self.inner[index]

    def data() -> DataLoader:
        return DataLoader(Bare(), batch_size=32, shuffle=True)

    unknown, read, told = (
        scaler(min_per_class=100, within=0.99, **kwargs) for kwargs in ({}, {"read_labels": True}, {"num_classes": 3})
    )
    for callback in (unknown, read, told):
        fit([callback], data=data())
    assert "not known" in next(bound.detail for bound in unknown.result.bounds if bound.name == "classes")
    assert unknown.result.class_probability is None
    assert read.optimal_batch_size == told.optimal_batch_size == 300
    assert read.result.class_probability is not None


def test_a_balanced_batch_sampler_holds_every_class_for_certain() -> None:
    data = Samples(1280)
    given = DataLoader(data, batch_sampler=ClassBalancedBatchSampler(data.labels, 30, min_per_class=5))
    callback = scaler(min_per_class=5, init_val=2)
    fit([callback], data=given)
    assert callback.optimal_batch_size >= 15
    assert min(trial.batch_size for trial in callback.result.trials) >= 15
    assert callback.result.class_probability == 1


# the learning rate


def test_k_times_the_batch_is_k_times_the_rate() -> None:
    """The peer never touches it."""
    module, callback = net(lr=0.01), largest(max_val=128)
    fit([callback], module)
    assert module.lr == module.hparams.lr == pytest.approx(0.04)
    assert callback.result.lr_before == 0.01
    assert callback.result.lr_used == callback.result.lr_scaled == module.lr


@pytest.mark.parametrize(
    ("optimizer", "lr_scaling", "factor"),
    [("sgd", "sqrt", 2), ("sgd", "auto", 4), ("adamw", "auto", 2), ("adamw", "linear", 4), ("sgd", None, 1)],
)
def test_rules(optimizer: str, lr_scaling: Any, factor: float) -> None:
    module = net(lr=0.01, optimizer=optimizer)
    fit([largest(max_val=128, lr_scaling=lr_scaling)], module)
    assert module.lr == pytest.approx(0.01 * factor)


def test_the_base_may_be_another_than_the_present_size() -> None:
    module, callback = net(lr=0.01), largest(max_val=128, base_batch_size=256)
    fit([callback], module, accumulate_grad_batches=4)
    assert module.lr == pytest.approx(0.01 * 128 * 4 / 256)
    assert callback.result.k == 2


def test_without_a_home_the_rates_are_scaled_in_the_optimizer() -> None:
    class NoHome(Net):
        def configure_optimizers(self) -> Any:
            groups = [{"params": self.body.parameters(), "lr": 0.002}, {"params": self.head.parameters(), "lr": 0.02}]
            return torch.optim.SGD(groups)

    run = fit([largest(max_val=128)], net(NoHome))
    assert [group["lr"] for group in run.trainer.optimizers[0].param_groups] == pytest.approx([0.008, 0.08])


def test_a_finder_behind_it_searches_at_the_size_found_from_the_rate_scaled() -> None:
    size, rate = largest(max_val=128), LRFinder(1e-4, 10.0, num_training_steps=70, num_repeats=1, zoom=False)
    module = net(OutOfMemory)
    fit([size, rate], module)
    assert rate.result.lr_before == size.result.lr_scaled
    assert set(module.sizes.all[-80:]) == {128}
    assert module.lr == rate.optimal_lr


def test_a_finder_before_it_is_refused_before_any_step() -> None:
    """With the peer, the rate is found for one size and then the size is changed."""
    module = net(OutOfMemory)
    with pytest.raises(MisconfigurationException, match="Expected BatchSizeScaler before LRFinder, but got it after"):
        fit([LRFinder(), scaler()], module)
    assert module.sizes.all == []


def test_an_optimizer_that_finds_its_own_rate_is_left_alone() -> None:
    class Prodigy(torch.optim.SGD):
        pass

    class Free(Net):
        def configure_optimizers(self) -> Any:
            return Prodigy(self.parameters(), lr=1.0)

    callback = largest(max_val=128)
    run = fit([callback], net(Free))
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 1.0
    assert callback.result.lr_scaled is None


def test_few_steps_and_a_large_factor_are_said() -> None:
    callback = largest(max_val=640)
    fit([callback], data=loader(batch_size=32))
    assert "The training has only 2 optimizer steps" in str(callback.result)
    assert "20 times the one the learning rate was chosen for" in str(callback.result)
    assert "needs a warm-up" in str(callback.result)


class Rates(pl.Callback):
    """What the optimizer really steps with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.optimizers[0].register_step_pre_hook(lambda opt, *args: self.rates.append(opt.param_groups[0]["lr"]))


def test_the_warm_up_is_that_of_goyal_et_al() -> None:
    """A straight line from the base rate to the scaled one; what the optimizer and its schedule keep is as without."""
    callback, rates = largest(max_val=256, warmup=5), Rates()
    run = fit([callback, rates], net(lr=0.01), loader(batch_size=32), max_epochs=2)
    assert callback.result.warmup_steps == 5
    line = [0.01 + (0.08 - 0.01) * step / 5 for step in range(5)]
    assert rates.rates[:5] == pytest.approx(line)
    assert rates.rates[5:] == pytest.approx([0.08] * 5)
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.08)


def test_a_warm_up_by_hand_is_the_same_training() -> None:
    class ByHand(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            rate = optimizer.param_groups[0]["lr"]
            step = self.trainer.global_step
            optimizer.param_groups[0]["lr"] = rate * (0.125 + 0.875 * step / 5) if step < 5 else rate
            optimizer.step(closure=closure)
            optimizer.param_groups[0]["lr"] = rate

    with_callback = fit([largest(max_val=256, warmup=5)], net(lr=0.01, scheduler="cosine"), max_epochs=2)
    by_hand = fit([], net(ByHand, lr=0.08, scheduler="cosine"), loader(batch_size=256), max_epochs=2)
    for name, weight in with_callback.weights.items():
        torch.testing.assert_close(weight, by_hand.weights[name], rtol=1e-5, atol=1e-7)


def test_the_warm_up_that_is_advised() -> None:
    long, none = largest(max_val=256, warmup=True), largest(max_val=128, warmup=True)
    fit([long], data=loader(batch_size=32), max_epochs=20)
    fit([none], data=loader(batch_size=32), max_epochs=20)
    assert (long.result.k, long.result.warmup_steps) == (8, 10)  # a tenth of 20 epochs of 5 steps
    assert (none.result.k, none.result.warmup_steps) == (4, 0)


# a fixed effective batch


def test_micro_batches_that_fit_are_accumulated_to_an_effective_batch() -> None:
    module, callback = net(OutOfMemory, cap=100), scaler(effective_batch_size=256, objective="memory")
    run = fit([callback], module)
    assert (callback.optimal_batch_size, run.trainer.accumulate_grad_batches) == (64, 4)
    assert callback.result.effective_batch_size == 256
    assert module.lr == 0.05  # a recipe stays a recipe
    assert run.global_step == 5


def test_an_effective_batch_is_the_training_with_its_numbers_typed() -> None:
    with_callback = fit([scaler(effective_batch_size=256, max_val=64, objective="memory")], net(scheduler="one_cycle"))
    by_hand = fit([], net(scheduler="one_cycle"), loader(batch_size=64), accumulate_grad_batches=4)
    assert_same_training(with_callback, by_hand)


def test_an_effective_batch_and_a_scheduler_of_the_accumulation_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="got a GradientAccumulationScheduler that sets it too"):
        fit([GradientAccumulationScheduler({0: 2}), scaler(effective_batch_size=256)])


# Trainer.validate, test and predict


class Evaluates(OutOfMemory):
    """Counts in every loop what a batch holds; keeps a metric and dropout to see whether they are left alone."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.sizes.note(len(batch[0]))
        super().validation_step(batch, batch_idx)
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_epoch=True)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.sizes.note(len(batch[0]))
        if len(batch[0]) > self.val_cap:
            raise self.error
        return self(batch[0])


def evaluate(
    function: str, callbacks: list[pl.Callback], module: Any, data: Any, **kwargs: Any
) -> tuple[Any, pl.Trainer]:
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=callbacks, logger=MemoryLogger(), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **kwargs,
    )  # fmt: skip
    return getattr(trainer, function)(module, data), trainer


@pytest.mark.parametrize("function", ["validate", "test", "predict"])
def test_the_batches_of_other_loops_are_found_too(function: str) -> None:
    """And what the loop computes is what it computes without."""
    given, module, callback = loader(640, shuffle=False), net(Evaluates, val_cap=200, dropout=0.5), largest()
    found, _ = evaluate(function, [callback], module, given)
    size = callback.optimal_batch_size
    assert 190 <= size <= 200
    assert module.sizes.all[-math.ceil(640 / size) :][0] == size
    assert given.batch_size == 32
    plain, _ = evaluate(function, [], net(Evaluates, dropout=0.5), loader(640, batch_size=size, shuffle=False))
    assert_identical(found, plain, function)


def test_another_loop_of_a_datamodule_uses_its_attribute() -> None:
    data, callback = Data(), largest(batch_arg_name="batch_size", max_val=100)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False)
    module = net(Evaluates)
    trainer.validate(module, datamodule=data)
    assert module.sizes.all[-3:] == [100, 100, 56]
    assert data.batch_size == 32  # the training shares it, and has not asked
    assert callback.result.lr_scaled is None


def test_a_reported_size_of_another_loop_leaves_everything() -> None:
    module, callback = net(Evaluates), largest(max_val=100, update_attr=False)
    before = copy.deepcopy(module.state_dict())
    plain = net(Evaluates)
    torch.manual_seed(2)
    evaluate("test", [], plain, loader(640, shuffle=False))
    without = torch.rand(3)
    torch.manual_seed(2)
    _, trainer = evaluate("test", [callback], module, loader(640, shuffle=False))
    assert torch.equal(torch.rand(3), without)
    assert callback.result.batch_size_used == 32
    assert module.sizes.all[-20:] == [32] * 20
    assert_identical(dict(module.state_dict()), dict(before), "weights")
    assert trainer.callbacks == [callback]


# a good citizen


class Quiet(OutOfMemory):
    """Without dice of its own, which no checkpoint holds."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.noise.manual_seed(batch_idx)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_resumed_run_does_not_search_and_is_the_uninterrupted_one(tmp_path: Path) -> None:
    def run(callbacks: list[Any], module: Any, **kwargs: Any) -> Run:
        return fit(callbacks, module, loader(shuffle=False), max_epochs=2, **kwargs)

    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = run([largest(max_val=128), save], net(Quiet, scheduler="one_cycle"), enable_checkpointing=True)
    module, again = net(Quiet, scheduler="one_cycle"), largest(max_val=128)
    resumed = run([again], module, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.sizes.all == [128] * 10
    assert again.optimal_batch_size == 128
    assert again.result.lr_scaled == module.lr == pytest.approx(0.2)
    assert_identical(resumed.weights, whole.weights, "weights")
    assert_identical(resumed.optimizer, whole.optimizer, "optimizer")
    assert_identical(resumed.schedulers, whole.schedulers, "schedulers")


def test_a_resumed_run_accumulates_and_keeps_a_datamodule_too(tmp_path: Path) -> None:
    data = Data()
    kwargs: dict[str, Any] = {"effective_batch_size": 256, "max_val": 64, "objective": "memory"}
    first = train(net(), [scaler(**kwargs)], datamodule=data, max_epochs=1)
    first.trainer.save_checkpoint(tmp_path / "last.ckpt")
    later = Data()
    run = train(net(), [scaler(**kwargs)], datamodule=later, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert later.batch_size == 64
    assert run.trainer.accumulate_grad_batches == 4
    assert run.global_step == 10


def test_a_second_fit_goes_on_with_what_was_found() -> None:
    module, callback = net(OutOfMemory), largest(max_val=128)
    run = fit([callback], module)
    seen = len(module.sizes.all)
    run.trainer.fit_loop.max_epochs = 2
    run.trainer.fit(module, loader(), VALIDATION)
    assert module.sizes.all[seen:] == [128] * 10
    assert module.lr == pytest.approx(0.2)


def test_a_second_fit_of_another_model_searches_again() -> None:
    """The Trainer counts its epochs on; what was found is of the first model."""
    callback = largest(max_val=128)
    run = fit([callback], net(OutOfMemory))
    first, other = callback.result, net(OutOfMemory, lr=0.3)
    run.trainer.fit_loop.max_epochs = 2
    run.trainer.fit(other, loader(batch_size=64), VALIDATION)
    assert callback.result is not first
    assert (callback.result.batch_size_before, callback.result.batch_size) == (64, 128)
    assert other.lr == pytest.approx(0.6)


def test_a_later_fit_of_another_loader_is_not_resized_behind_the_users_back() -> None:
    run = fit([largest(max_val=128)])
    plain = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    plain.fit(run.module, loader(), VALIDATION)
    assert plain.num_training_batches == 40
    assert "dataloader" not in vars(run.trainer.fit_loop._data_source)


def test_find_reports_and_leaves_everything() -> None:
    module, callback, data = net(), largest(max_val=128), Data()
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
    )
    before = copy.deepcopy(module.state_dict())
    result = callback.find(trainer, module, datamodule=data)
    assert (result.batch_size, result.lr_scaled) == (128, pytest.approx(0.2))
    assert (result.batch_size_used, result.lr_used) == (32, 0.05)
    assert module.lr == 0.05
    assert_identical(dict(module.state_dict()), dict(before), "weights")
    assert data.batch_size == 32
    trainer.fit(module, datamodule=data)
    assert trainer.num_training_batches == 40


def test_what_was_logged_is_what_was_found() -> None:
    module, callback = net(), largest(max_val=128)
    run = fit([callback], module)
    logger: MemoryLogger = run.trainer.logger
    scalars = {
        name: value for _, values in logger.metrics for name, value in values.items() if "batch_size_scaler" in name
    }
    assert scalars["batch_size_scaler/found"] == scalars["batch_size_scaler/used"] == 128
    assert scalars["batch_size_scaler/lr_scaled"] == pytest.approx(0.2)
    assert logger.hparams["batch_size"] == 128


def test_tensorboard_shows_figure_tables_and_scalars(tmp_path: Path) -> None:
    fit([largest(max_val=128)], logger=TensorBoardLogger(tmp_path, name="run"))
    events = EventAccumulator(str(tmp_path / "run" / "version_0")).Reload()
    assert "batch_size_scaler/search" in events.Tags()["images"]
    assert {"batch_size_scaler/summary/text_summary", "batch_size_scaler/trials/text_summary"} <= set(
        events.Tags()["tensors"]
    )
    assert events.Scalars("batch_size_scaler/found")[0].value == 128


def test_no_file_is_written_and_hyperparameters_need_not_be_picklable() -> None:
    """The peer writes a checkpoint and cannot read it back with these in it."""

    class Odd(Net):
        def __init__(self, colour: Colour = Colour.RED, path: Path = Path(), **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.save_hyperparameters()

    fit([largest(max_val=64)], net(Odd))  # that no file is left is checked for every test


def test_other_callbacks_do_not_hear_of_it() -> None:
    class Counts(pl.Callback):
        changes_gradients = False
        batches = 0

        def on_train_batch_start(self, *args: Any) -> None:
            self.batches += 1

    counts = Counts()
    fit([largest(max_val=128), counts])
    assert counts.batches == 10


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()], ids=["bug", "ctrl_c"])
def test_an_error_in_a_trial_restores_everything(error: Any) -> None:
    module = net(OwnLoader, cap=40, error=error)
    before = copy.deepcopy(module.state_dict())
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", callbacks=[scaler()],
    )  # fmt: skip
    callbacks, loop = list(trainer.callbacks), trainer.fit_loop
    with pytest.raises((RuntimeError, SystemExit)):
        trainer.fit(module, val_dataloaders=VALIDATION)
    assert_identical(dict(module.state_dict()), dict(before), "weights")
    assert module.hparams.batch_size == 32
    assert trainer.callbacks == callbacks
    assert trainer.fit_loop is loop


def test_it_copies_pickles_and_remembers() -> None:
    callback = largest(max_val=64)
    fit([callback])
    state = pickle.loads(pickle.dumps(callback.state_dict()))
    other = scaler()
    other.load_state_dict(state)
    assert other.result == callback.result
    assert other.optimal_batch_size == 64
    assert isinstance(other.result, BatchSizeResult)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(callback)))
    assert copied.result == callback.result


def test_it_works_in_the_other_namespace() -> None:
    class Model(lightning.pytorch.LightningModule):
        def __init__(self, lr: float = 0.01) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    module, callback = Model(), largest(max_val=128)
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, loader())
    assert trainer.num_training_batches == 10
    assert module.hparams.lr == pytest.approx(0.04)


def test_lightning_cli_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train"])
    config = tmp_path / "config.yaml"
    config.write_text(
        "seed_everything: 1\ntrainer:\n"
        "  max_epochs: 1\n  accelerator: cpu\n  logger: false\n  enable_checkpointing: false\n"
        "  enable_progress_bar: false\n  enable_model_summary: false\n"
        "  callbacks:\n"
        "    - class_path: lightning_hp.BatchSizeScaler\n"
        "      init_args: {max_val: 64, round_to: power, lr_scaling: sqrt, warmup: 3, objective: memory,\n"
        "                  limits: {min_training_steps: 1, min_steps_per_epoch: 1}}\n"
    )
    cli = LightningCLI(Net, Data, args=["fit", f"--config={config}"], save_config_callback=None)
    assert cli.datamodule.batch_size == 64
    assert cli.model.lr == pytest.approx(0.05 * math.sqrt(2))


def test_it_is_skipped_where_there_is_no_training() -> None:
    callback = scaler()
    fit([callback], fast_dev_run=True)
    assert callback.result is None


# what counts batches and steps


class Validations(pl.Callback):
    """The number of batches before each validation of the training."""

    changes_gradients = False

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.after.append(trainer.global_step)


def test_a_validation_that_counts_batches_across_epochs_still_comes() -> None:
    """It went from three validations to none, and a checkpoint that monitors its loss saved nothing."""
    callback, validations = largest(), Validations()
    fit(
        [callback, validations], data=loader(batch_size=4), max_epochs=3, val_check_interval=300,
        check_val_every_n_epoch=None,
    )  # fmt: skip
    enough = [size for size in range(1, 1281) if 3 * math.ceil(1280 / size) >= 300]
    assert callback.optimal_batch_size == max(enough)
    assert validations.after == [300]
    assert "validation with val_check_interval=300 acts 1 instead of 3 times" in str(callback.result)


def test_a_checkpoint_that_counts_steps_still_comes(tmp_path: Path) -> None:
    callback, save = largest(), ModelCheckpoint(tmp_path, every_n_train_steps=50, save_top_k=-1)
    fit([callback, save], data=loader(batch_size=4), max_epochs=2, enable_checkpointing=True)
    enough = [size for size in range(1, 1281) if 2 * math.ceil(1280 / size) >= 50]
    assert callback.optimal_batch_size == max(enough)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=1-step=50.ckpt"]
    assert "ModelCheckpoint with every_n_train_steps=50 acts 1 instead of 12 times" in str(callback.result)


def test_a_limit_of_steps_or_a_count_that_never_came_bounds_nothing(tmp_path: Path) -> None:
    for name, kwargs in (("a", {"max_epochs": -1, "max_steps": 60}), ("b", {"max_epochs": 1})):
        callback, save = largest(max_val=500), ModelCheckpoint(tmp_path / name, every_n_train_steps=50, save_top_k=-1)
        fit([callback, save], enable_checkpointing=True, **kwargs)
        assert callback.optimal_batch_size == 500


class Schedules(Net):
    """A schedule whose length is computed where ``where`` says."""

    def __init__(self, kind: str, where: str) -> None:
        super().__init__()
        self.kind, self.where, self.steps = kind, where, 0

    def setup(self, stage: str) -> None:
        if self.where == "setup":
            self.steps = int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> Any:
        steps = self.steps or int(self.trainer.estimated_stepping_batches)
        if self.where == "cached":
            self.steps = steps
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        scheduler: Any
        if self.kind == "one_cycle":
            scheduler = OneCycleLR(optimizer, self.lr, total_steps=steps)
        elif self.kind == "lambda":
            scheduler = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        else:
            parts = [LinearLR(optimizer, total_iters=5), CosineAnnealingLR(optimizer, T_max=steps - 5)]
            scheduler = SequentialLR(optimizer, parts, milestones=[5])
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.mark.parametrize("kind", ["one_cycle", "lambda", "sequential"])
@pytest.mark.parametrize("where", ["setup", "cached"])
def test_a_schedule_that_keeps_the_old_length_is_refused(kind: str, where: str) -> None:
    """A training from 8 to 64 samples ended at an eighth of its OneCycle, at the highest rate."""
    module = net(Schedules, kind=kind, where=where)
    with pytest.raises(MisconfigurationException, match=r"has 80 steps at any, .*`effective_batch_size=32`"):
        fit([largest()], module, max_epochs=2, num_sanity_val_steps=0)
    assert module.lr == 0.05
    callback = scaler(effective_batch_size=32)
    run = fit([callback], net(Schedules, kind=kind, where=where), max_epochs=2, num_sanity_val_steps=0)
    assert run.global_step == 80


@pytest.mark.parametrize("kind", ["one_cycle", "lambda", "sequential"])
def test_a_schedule_that_follows_the_steps_is_not(kind: str) -> None:
    callback = largest(max_val=128)
    run = fit([callback], net(Schedules, kind=kind, where="hook"), max_epochs=2, num_sanity_val_steps=0)
    assert callback.optimal_batch_size == 128
    assert run.global_step == 20
    assert "do not follow" not in str(callback.result)


def test_a_length_that_was_typed_is_named() -> None:
    callback = largest(max_val=128)
    fit([callback], net(scheduler="cosine"), max_epochs=2)
    words = "20 optimizer steps instead of 80: the rates of CosineAnnealingLR do not follow the number of steps"
    assert words in str(callback.result)


STEP_SCHEDULES = {
    "decay past the end": lambda optimizer: LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 120)),
    "warm-up": lambda optimizer: LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40)),
    "MultiStepLR": lambda optimizer: MultiStepLR(optimizer, [60, 90]),
    "StepLR": lambda optimizer: StepLR(optimizer, 40),
    "restarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 40),
    "ExponentialLR": lambda optimizer: ExponentialLR(optimizer, 0.97),
}
OTHER_SCHEDULES = {
    "half": lambda optimizer: LambdaLR(optimizer, lambda _: 0.5),
    "constant": lambda optimizer: StepLR(optimizer, 200),
    "as long as the training": lambda optimizer: LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 80)),
}


class Typed(Net):
    """A schedule of the steps whose numbers are typed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        scheduler = {**STEP_SCHEDULES, **OTHER_SCHEDULES}[self.kind](optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.mark.parametrize("kind", STEP_SCHEDULES)
def test_a_schedule_that_does_not_follow_the_steps_is_named(kind: str) -> None:
    """The training ended in the middle of it, and the result did not say so."""
    callback = largest(max_val=128)
    run = fit([callback], net(Typed, kind=kind), max_epochs=2)
    assert run.global_step == 20
    words = r"20 optimizer steps instead of 80: the rates of (\w+) do not follow the number of steps\."
    assert re.search(words, str(callback.result))


@pytest.mark.parametrize("kind", ["half", "constant"])
def test_a_constant_rate_is_not_named(kind: str) -> None:
    callback = largest(max_val=128)
    fit([callback], net(Typed, kind=kind), max_epochs=2)
    assert "do not follow" not in str(callback.result)


def test_a_schedule_with_the_length_of_the_training_as_a_constant_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="LambdaLR has 80 steps at any"):
        fit([largest(max_val=128)], net(Typed, kind="as long as the training"), max_epochs=2)


# a share of the batches


@pytest.mark.parametrize("samples", [64, 100, 256])
def test_a_share_of_the_validation_leaves_a_batch(samples: int) -> None:
    """``fit`` runs with the user's size and ended with "0.1 * 8 < 1" at the size that was found."""

    class Part(Data):
        def val_dataloader(self) -> DataLoader:
            return DataLoader(Samples(samples), batch_size=self.batch_size)

    data, callback = Part(4), largest()
    run = train(net(), [callback], datamodule=data, max_epochs=1, limit_val_batches=0.1)
    enough = [size for size in range(1, samples + 1) if int(math.ceil(samples / size) * 0.1) >= 1]
    assert data.batch_size == max(enough)
    assert run.trainer.num_val_batches == [1]
    assert any("limit_val_batches has to leave a batch" in str(bound) for bound in callback.result.bounds)


@pytest.mark.parametrize("function", ["validate", "test", "predict"])
def test_a_share_of_another_loop_leaves_a_batch_of_each_loader(function: str) -> None:
    given = [loader(640, batch_size=8, shuffle=False), loader(96, batch_size=8, shuffle=False)]
    callback = largest()

    class Two(Evaluates):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.sizes.note(len(batch[0]))

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:
            return self(batch[0])

    evaluate(
        function, [callback], net(Two), given, **{f"limit_{'val' if function == 'validate' else function}_batches": 0.1}
    )
    assert callback.optimal_batch_size == max(size for size in range(1, 97) if int(math.ceil(96 / size) * 0.1) >= 1)


# modules that do a step in their own way


class Adversarial(Net):
    """Two optimizers by hand, and no loss that is returned; each step of the head comes after one of the body."""

    def __init__(self, sizes: Any = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.sizes = Sizes()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.sizes.note(len(batch[0]))
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=self.lr) for part in (self.body, self.head)]


def test_a_module_that_returns_no_loss_needs_none() -> None:
    module, callback = net(Adversarial), largest(max_val=128)
    fit([callback], module, num_sanity_val_steps=0)
    assert callback.optimal_batch_size == 128
    assert module.sizes.all[-10:] == [128] * 10
    assert module.lr == pytest.approx(0.2)


class NoRate(torch.optim.Optimizer):
    """Its step has no learning rate."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight -= 0.01 * weight.grad.sign()
        return loss


def test_an_optimizer_without_a_rate_needs_no_scaling() -> None:
    class Signs(Net):
        def configure_optimizers(self) -> Any:
            return NoRate(self.parameters())

    with pytest.raises(MisconfigurationException, match=r"none in NoRate. Give it one, or use `lr_scaling=None`"):
        fit([largest()], net(Signs))
    callback = largest(max_val=64, lr_scaling=None)
    fit([callback], net(Signs))
    assert callback.optimal_batch_size == 64


def test_a_rate_of_zero_has_nothing_to_scale() -> None:
    """Said before a step, with what the user typed; without scaling the size is found."""

    class Still(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    for module in (net(lr=0.0), net(Still)):
        with pytest.raises(MisconfigurationException, match=r"learning rate > 0.* SGD.*Give it another") as raised:
            fit([largest(max_val=64)], module)
        assert "base_lr" not in str(raised.value)
    callback = largest(max_val=64, lr_scaling=None)
    fit([callback], net(lr=0.0))
    assert callback.optimal_batch_size == 64


class OwnWarmup(Net):
    """A warm-up in ``optimizer_step``, from the attribute ``base`` of the module."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.other = base, 0.05
        self.rates: list[float] = []

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        scale = min(1.0, self.trainer.global_step / 4)
        for group in optimizer.param_groups:
            group["lr"] = scale * getattr(self, self.base)
        self.rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(closure=closure)


def test_a_rate_that_the_step_writes_itself_is_scaled_or_refused() -> None:
    """The scaled rate was undone in the first step, and nothing was said."""
    module = net(OwnWarmup, base="other")
    with pytest.raises(
        MisconfigurationException, match=r"uses 0.0125 in place of 0.1: the step writes a rate of its own"
    ):
        fit([largest(max_val=128)], module)
    assert (module.lr, module.other) == (0.05, 0.05)
    fit([largest(max_val=128, lr_scaling=None)], module)
    follows = net(OwnWarmup, base="lr")
    fit([largest(max_val=128)], follows)
    assert follows.rates[-10:] == pytest.approx([0.2 * min(1, step / 4) for step in range(10)])
