"""The bounds of a batch size against loaders that are really built, and against counting."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_hp.data import ClassBalancedBatchSampler, UnknownClasses
from lightning_hp.functional import batch_size_for_coverage, coverage_probability
from lightning_hp.results import BatchTrial
from lightning_hp.tuning.batch_size import SearchSettings
from lightning_hp.tuning.batch_size.choice import Choice
from lightning_hp.tuning.batch_size.explanation import describe_bounds, notes_on
from lightning_hp.tuning.batch_size.read_bounds import read_bounds
from tests.tuning.batch_size.test_trials import Trainer


def settings(**changes):
    """Each bound is tested alone: no share of the steps is kept, and any size may be taken."""
    others = {"min_training_steps": 1, "min_step_share": 1e-9, "round_to": 1, "within": 0.05, "lr_scaling": "linear"}
    return SearchSettings(**{**others, **changes})


def dataset(samples, classes=5):
    return TensorDataset(torch.zeros(samples, 2), torch.arange(samples) % classes)


class Module(torch.nn.Sequential):
    automatic_optimization = True


def rehearsal(
    *loaders, limit=1.0, accumulate=1, world_size=1, max_epochs=1, callbacks=(), module=None, val_check_interval=1.0
):
    trainer = Trainer(world_size)
    module = module or Module(torch.nn.Linear(2, 2))
    vars(trainer).update(
        callbacks=list(callbacks),
        limit_train_batches=limit,
        limit_val_batches=1.0,
        val_check_interval=val_check_interval,
        check_val_every_n_epoch=1,
        lightning_module=module,
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(max_epochs=max_epochs, max_steps=-1, epoch_loop=SimpleNamespace(max_steps=-1)),
        world_size=1,
    )
    place = SimpleNamespace(trainer=trainer, loaders=list(loaders), planned_steps=None)

    def restart(build, accumulate_grad_batches):
        place.size = build()

    place.restart, place.step = restart, lambda: module(torch.zeros(place.size, 2))
    trainer.world_size = world_size
    return place


def found(loader, value):
    """As much of a batch size as bounds look at."""
    return SimpleNamespace(value=value, first_loader=loader, loaders=lambda size: size)


def read(loader, value=None, **changes):
    of_trainer = {"limit", "accumulate", "world_size", "max_epochs", "callbacks", "module", "val_check_interval"}
    place = rehearsal(loader, **{name: changes.pop(name) for name in of_trainer & changes.keys()})
    return read_bounds(settings(**changes), place, found(loader, value or loader.batch_size))


def chosen(size, limit=None, knee=None):
    return Choice(size, "memory", knee or size, True, limit)


# --- the data


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("samples", [1, 9, 100, 1000, 1279])
def test_the_largest_batch_that_leaves_the_steps_of_an_epoch(samples, drop_last):
    """Lightning answers 1024 of 1000 samples, and with `drop_last` the training then runs no step."""
    for steps, accumulate, value in itertools.product((1, 10), (1, 4), (1, 32)):
        data = dataset(samples)
        bounds = read(
            DataLoader(data, value, shuffle=True, drop_last=drop_last), accumulate=accumulate, min_steps_per_epoch=steps
        )
        enough = [
            size
            for size in range(1, samples + 1)
            if len(DataLoader(data, size, drop_last=True)) >= steps * accumulate or size <= value
        ]
        assert bounds.data_limit == max(enough, default=1)
        assert bounds.highest == min((8192, "max_val"), (bounds.data_limit, "data"))
        assert len(DataLoader(data, bounds.data_limit, drop_last=True)) >= 1


def test_steps_of_the_whole_training():
    """Ten epochs of a thousand samples are ten thousand: a thousand steps want batches of ten."""
    loader = DataLoader(dataset(1000), 4)
    bounds = read(loader, max_epochs=10, min_training_steps=1000)
    assert bounds.data_limit == max(size for size in range(1, 1001) if 10 * 1000 // size >= 1000)
    assert read(loader, max_epochs=None, min_training_steps=1000).data_limit == 100
    assert read(loader, max_epochs=-1, min_training_steps=1000).data_limit == 100
    assert read(loader, max_epochs=10, min_training_steps=10**6).data_limit == 4


@pytest.mark.parametrize("share", [0.5, 0.1, 1.0])
def test_a_divisor_of_the_epoch_holds_a_divisor_of_the_samples(share):
    bounds = read(DataLoader(dataset(1000), 2), limit=share)
    assert bounds.samples == 1000 * share
    assert bounds.data_limit == 100 * share


def test_a_number_of_batches_leaves_the_samples_and_bounds_the_steps():
    bounds = read(DataLoader(dataset(1000), 2), limit=7)
    assert bounds.samples == 1000
    assert [bounds.steps_per_epoch(size, 1) for size in (10, 500, 1000)] == [7, 2, 1]
    assert bounds.steps_per_epoch(10, 4) == 2  # the last batch of an epoch is stepped with in any case


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_process_has_its_divisor_of_the_samples(world_size):
    data = dataset(1000)
    loader = DataLoader(data, 2, sampler=DistributedSampler(data, world_size, rank=0, shuffle=False))
    bounds = read(loader, world_size=world_size)
    assert bounds.samples == math.ceil(1000 / world_size)
    assert bounds.data_limit == math.ceil(1000 / world_size) // 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(100))


class CountedStream(Stream):
    def __len__(self):
        return 100


def test_a_stream_bounds_nothing_unless_it_tells_its_length():
    """Lightning answers 8192, having run 4096."""
    bounds = read(DataLoader(Stream(), 4))
    assert (bounds.samples, bounds.data_limit, bounds.highest) == (None, None, (8192, "max_val"))
    assert isinstance(bounds.classes, UnknownClasses)
    assert read(DataLoader(CountedStream(), 4)).data_limit == 10


def test_the_smallest_of_several_loaders_bounds():
    small, large = DataLoader(dataset(100), 2), DataLoader(dataset(1000), 2)
    assert read_bounds(settings(), rehearsal(large, small), found(large, 2)).samples == 100
    # One whose batches are a quarter as large has its samples counted in batches of the first.
    quarter = DataLoader(dataset(100), 1)
    whole = DataLoader(dataset(1000), 4)
    assert read_bounds(settings(), rehearsal(whole, quarter), found(whole, 4)).samples == 400


def test_the_batch_size_that_the_training_came_with_is_always_allowed():
    for value in (1, 50, 100):
        assert read(DataLoader(dataset(100), value)).data_limit >= value
    assert read(DataLoader(dataset(100), 512)).data_limit == 100  # as far as there is so much data


def test_the_smallest_bound_is_the_highest_size():
    loader = DataLoader(dataset(1000), 2)
    assert read(loader).highest == (100, "data")
    assert read(loader, max_val=60).highest == (60, "max_val")
    assert read(loader, effective_batch_size=60).highest == (60, "effective_batch_size")


def test_a_batch_of_one_is_tried_only_where_the_training_had_one():
    assert read(DataLoader(dataset(1000), 1)).goal.lowest == 1
    assert read(DataLoader(dataset(1000), 2)).goal.lowest == 2
    assert read(DataLoader(dataset(1000), 4), max_val=1).goal.lowest == 1


def test_a_sampler_of_balanced_batches_has_a_smallest_batch():
    labels = torch.arange(1000) % 5
    sampler = ClassBalancedBatchSampler(labels, batch_size=20)
    bounds = read(DataLoader(dataset(1000), batch_sampler=sampler), 20)
    assert bounds.smallest == bounds.goal.lowest == sampler.least_batch_size


# --- the classes


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_the_classes_on_average(world_size, accumulate):
    loader = DataLoader(dataset(10_000, classes=7), 4)
    for least in (0, 1, 3):
        bounds = read(loader, world_size=world_size, accumulate=accumulate, min_per_class=least)
        assert bounds.needed == 7 * least
        micro = bounds.goal.at_least
        assert micro * world_size * accumulate >= 7 * least > (micro - 1) * world_size * accumulate or not least


def test_the_classes_for_sure_enough():
    """The smallest step that is sure enough, by the probability of each."""
    counts = np.array([20, 40, 60, 80])
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    loader = DataLoader(TensorDataset(torch.zeros(200, 1), labels), 4, shuffle=True)
    bounds = read(loader, coverage=0.9, min_per_class=2)
    chances = {size: coverage_probability(size, counts, 2, replacement=False) for size in range(8, 200)}
    assert bounds.needed == next(size for size, chance in chances.items() if chance >= 0.9)
    for step in (8, 30, 50, 200):
        assert bounds.probability(step) == pytest.approx(coverage_probability(step, counts, 2, replacement=False))
    # A step of several epochs draws some samples again.
    assert bounds.probability(500) == pytest.approx(coverage_probability(500, counts, 2, replacement=True))


def test_a_weighted_sampler_draws_with_replacement():
    data = dataset(1000, classes=4)
    loader = DataLoader(data, 4, sampler=WeightedRandomSampler([1.0] * 1000, 1000))
    bounds = read(loader, coverage=0.95)
    assert bounds.needed == batch_size_for_coverage(0.95, 4, 3)
    assert bounds.probability(40) == pytest.approx(coverage_probability(40, 4, 3))


def test_a_coverage_that_cannot_be_had_falls_back_to_the_average():
    labels = torch.tensor([0] * 100 + [1] * 2)  # three of the second cannot be drawn
    loader = DataLoader(TensorDataset(torch.zeros(102, 1), labels), 4, shuffle=True)
    bounds = read(loader, coverage=0.9)
    assert bounds.needed == 6
    assert bounds.probability(50) == 0


def test_batches_that_hold_every_class_need_nothing():
    labels = torch.arange(1000) % 5
    sampler = ClassBalancedBatchSampler(labels, batch_size=20)
    loader = DataLoader(dataset(1000), batch_sampler=sampler)
    bounds = read(loader, 20, min_per_class=1)
    assert (bounds.needed, bounds.probability(20)) == (0, 1.0)
    assert any("contains every class" in str(row) for row in describe_bounds(bounds, chosen(20), trials(20)))


def test_classes_that_are_not_known_bound_nothing_and_say_why():
    data = TensorDataset(torch.rand(100, 2), torch.rand(100))  # a regression
    bounds = read(DataLoader(data, 4))
    assert (bounds.needed, bounds.probability(50)) == (0, None)
    (row,) = [row for row in describe_bounds(bounds, chosen(8), trials(8)) if row.name == "classes"]
    assert row.size is None
    assert row.detail.startswith("not known: ")
    assert read(DataLoader(Stream(), 4), num_classes=9).needed == 27
    assert read(DataLoader(dataset(100), 4), min_per_class=0).probability(50) is None


def test_the_number_of_classes_that_is_given_counts():
    """It was read and ignored where the dataset has labels."""
    loader = DataLoader(dataset(1000, classes=5), 4, shuffle=True)
    bounds = read(loader, num_classes=20)
    assert bounds.needed == 60
    words = "20 classes by `num_classes`, of which 5 occur in TensorDataset.tensors"
    assert words in rows(bounds, chosen(60), trials(60))["classes"].detail
    assert read(loader, num_classes=5).needed == read(loader).needed == 15
    with pytest.raises(ValueError, match=r"0 to num_classes - 1 = 2, but the training set has a label 4. Correct"):
        read(loader, num_classes=3)
    of_those_that_occur = read(loader, coverage=0.9).needed
    assert read(loader, num_classes=20, coverage=0.9).needed == max(60, of_those_that_occur)
    assert read(loader, num_classes=5, coverage=0.9).needed == of_those_that_occur


# --- accumulation


def test_more_batches_where_memory_keeps_the_classes_apart():
    """As few as show the classes, and no more than leave the epoch its steps."""
    for size, world_size, accumulate in itertools.product((2, 7, 16, 100), (1, 2), (1, 3)):
        bounds = read(DataLoader(dataset(10_000, 40), 2), world_size=world_size, accumulate=accumulate)
        batches = bounds.accumulation(chosen(size, limit=size))
        assert batches == max(accumulate, math.ceil(120 / (size * world_size)))
    few = read(DataLoader(dataset(1000, 40), 2))
    assert few.accumulation(chosen(8, limit=8)) == 12  # ten steps of 96 rather than eight of 120
    assert few.accumulation(chosen(200, limit=200)) == 1
    assert read(DataLoader(Stream(), 2), num_classes=40).accumulation(chosen(8, limit=8)) == 15


def test_accumulation_is_left_where_memory_is_not_the_reason():
    bounds = read(DataLoader(dataset(10_000, 40), 2), accumulate=2)
    assert bounds.accumulation(chosen(8)) == 2
    assert bounds.accumulation(chosen(60, limit=60)) == 2


class GradientAccumulationScheduler:
    pass


def test_a_schedule_of_accumulation_is_left_alone():
    bounds = read(DataLoader(dataset(10_000, 40), 2), callbacks=[GradientAccumulationScheduler()])
    assert bounds.accumulation(chosen(8, limit=8)) == 1
    with pytest.raises(MisconfigurationException, match="GradientAccumulationScheduler that sets it too"):
        read(DataLoader(dataset(100), 2), callbacks=[GradientAccumulationScheduler()], effective_batch_size=32)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_effective_batch_is_shared_out_exactly(world_size):
    bounds = read(DataLoader(dataset(1000), 2), world_size=world_size, accumulate=3, effective_batch_size=240)
    assert bounds.share == bounds.goal.divisor_of == 240 // world_size
    assert (bounds.goal.at_least, bounds.goal.round_to) == (0, 1)
    for size in (size for size in range(1, bounds.share + 1) if bounds.share % size == 0):
        assert size * bounds.accumulation(chosen(size)) * world_size == 240


def test_an_effective_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(MisconfigurationException, match="a multiple of the 3 processes, but got 100"):
        read(DataLoader(dataset(1000), 2), world_size=3, effective_batch_size=100)


# --- in words


def trials(*sizes, peaks=(), failed=(), allowed_bytes=math.inf):
    """As much of trials as the rows look at."""
    peaks = dict(peaks)
    done = [BatchTrial(size, True, float(size), peaks.get(size)) for size in sizes]
    done += [BatchTrial(size, False, reason="out of memory") for size in failed]
    return SimpleNamespace(
        trials=done,
        fitted=sorted(sizes),
        speeds={size: [float(size)] for size in sizes},
        peaks=sorted(peaks.items()),
        allowed_bytes=allowed_bytes,
        budget=SimpleNamespace(source="free memory"),
    )


def rows(bounds, choice, run):
    return {row.name: row for row in describe_bounds(bounds, choice, run)}


def test_every_bound_has_a_row():
    bounds = read(DataLoader(dataset(1000), 2), max_val=500)
    table = rows(bounds, chosen(64, limit=90), trials(32, 64, 90, allowed_bytes=2**30))
    assert {name: (row.kind, row.size) for name, row in table.items()} == {
        "memory": ("at most", 90),
        "classes": ("at least", 15),
        "throughput": ("fast from", 64),
        "data": ("at most", 100),
        "max_val": ("at most", 500),
    }
    assert table["memory"].detail == "1024 MiB, free memory"
    assert "max_val" in rows(read(DataLoader(Stream(), 2)), chosen(64), trials(64))
    assert "data" not in rows(read(DataLoader(Stream(), 2)), chosen(64), trials(64))


def test_a_limit_that_was_not_reached_says_what_was():
    bounds = read(DataLoader(dataset(1000), 2))
    run = trials(32, 64, peaks={64: 2**20}, allowed_bytes=2**30)
    assert rows(bounds, chosen(32), run)["memory"].detail == "not reached, 64 takes 1 MiB of 1024 MiB, free memory"
    assert rows(bounds, chosen(32), trials(32))["memory"].detail == "not reached, 32 fits, free memory"


def test_a_limit_that_was_seen_and_not_searched_is_not_called_unreached():
    """Where the throughput is flat below a size that failed, nobody has to know the limit to a sample."""
    bounds = read(DataLoader(dataset(1000), 2))
    detail = rows(bounds, chosen(32), trials(32, 64, failed=[128], allowed_bytes=2**30))["memory"].detail
    assert detail == "between 64 and 128, out of memory"


def test_a_throughput_that_still_rises_says_so():
    bounds = read(DataLoader(dataset(1000), 2))
    rising = Choice(64, "memory", 64, is_flat=False, limit=64)
    assert rows(bounds, rising, trials(32, 64))["throughput"].detail == "still rising at 64, 64 samples/s"
    assert rows(bounds, chosen(32), trials(32, 64))["throughput"].detail == "within 5% of 64 samples/s at 64"


def test_notes():
    bounds = read(DataLoader(dataset(1000, 40), 2))
    assert "need 120 samples in an optimizer step and get 80" in notes_on(bounds, chosen(8), 10)[0]
    assert notes_on(bounds, chosen(64), 2) == ["At this size the training has 8 optimizer steps instead of 500."]
    normalised = read(DataLoader(dataset(1000, 40), 2), module=Module(torch.nn.BatchNorm1d(2)))
    assert "sees the micro-batch of 64, not the 128" in notes_on(normalised, chosen(64), 2)[-1]
    rare = TensorDataset(torch.zeros(1000, 1), (torch.arange(1000) % 100 == 0).long())
    assert "has 0.64 samples of the rarest" in notes_on(read(DataLoader(rare, 2)), chosen(64), 1)[-1]
    shared = read(DataLoader(dataset(1000), 2), effective_batch_size=134, min_per_class=0)
    assert (
        "The largest divisor of 134 that fits is 2; batches up to 64 would"
        in notes_on(shared, chosen(2, knee=64), 67)[-1]
    )
    even = read(DataLoader(dataset(1000), 2), effective_batch_size=256, min_per_class=0)
    assert not any("divisor" in note for note in notes_on(even, chosen(64, limit=97, knee=96), 4))


def test_an_effective_batch_that_no_batch_divides_is_refused_before_any_step():
    """257 is a prime: what is left is a batch of one, which batch normalisation cannot take."""
    with pytest.raises(
        MisconfigurationException, match="257 samples of a process to be a multiple of a batch from 2 to"
    ):
        read(DataLoader(dataset(1000), 2), effective_batch_size=257, max_val=100)


def test_an_effective_batch_of_more_than_an_epoch_is_refused():
    with pytest.raises(MisconfigurationException, match="at most the 1000 samples of an epoch, but got 1024"):
        read(DataLoader(dataset(1000), 2), effective_batch_size=1024)


def test_a_module_that_steps_by_hand_is_not_accumulated_for():
    module = Module(torch.nn.Linear(2, 2))
    module.automatic_optimization = False
    bounds = read(DataLoader(dataset(10_000, 40), 2), module=module)
    assert bounds.accumulation(chosen(8, limit=8)) == 1
    with pytest.raises(MisconfigurationException, match="a module with manual optimization"):
        read(DataLoader(dataset(1000), 2), module=module, effective_batch_size=64)


def test_a_validation_after_so_many_batches_wants_them_in_an_epoch():
    bounds = read(DataLoader(dataset(1000), 2), val_check_interval=200)
    assert bounds.data_limit == 5
    assert "the Trainer validates after 200 batches" in rows(bounds, chosen(4), trials(4))["data"].detail
    assert read(DataLoader(dataset(1000), 2), val_check_interval=0.5).data_limit == 100


def forbidden(loader, **changes):
    """The sizes up to 64 that may not be taken, and those whose epoch has a batch of one by listing its batches."""
    bounds = read(loader, **{"module": Module(torch.nn.BatchNorm1d(2)), **changes})
    sizes = range(2, 65)
    return [size for size in sizes if not bounds.is_allowed(size)]


def of_one(samples, drop_last=False, most=None):
    return [
        size
        for size in range(2, 65)
        if 1 in [len(batch) for batch in BatchSampler(range(samples), size, drop_last)][:most]
    ]


def test_no_last_batch_of_one_where_batch_normalisation_could_not_take_it():
    for samples in (1000, 1001, 2001, 4033):
        assert forbidden(DataLoader(dataset(samples), 2)) == of_one(samples)
    assert of_one(1001)
    assert forbidden(DataLoader(dataset(1001), 2, drop_last=True)) == of_one(1001, drop_last=True) == []
    assert forbidden(DataLoader(dataset(1001), 2), limit=30) == of_one(1001, most=30)
    assert forbidden(DataLoader(dataset(1001), 2), limit=0.5) == []  # the last batch is not drawn
    assert forbidden(DataLoader(dataset(1001), 2), module=Module(torch.nn.Linear(2, 2))) == []


def test_a_normalisation_that_takes_one_sample_takes_a_last_batch_of_one():
    """With several positions per channel one sample is enough."""

    class Positions(torch.nn.Module):
        def forward(self, features):
            return features[:, :, None, None].expand(-1, -1, 3, 3)

    module = Module(Positions(), torch.nn.BatchNorm2d(2))
    assert forbidden(DataLoader(dataset(1001), 2), module=module) == []


def test_each_of_several_loaders_counts():
    module = Module(torch.nn.BatchNorm1d(2))
    first, second = DataLoader(dataset(1000), 4), DataLoader(dataset(81), 2)
    bounds = read_bounds(settings(), rehearsal(first, second, module=module), found(first, 4))
    assert not bounds.is_allowed(20)  # the second one has batches of 10
    assert bounds.batches_before_one(20) == 8
    assert bounds.is_allowed(22)


@pytest.mark.parametrize(
    ("samples", "changes", "words"),
    [
        (2001, {"effective_batch_size": 40}, "from 2 to 40 that divides 40 that leaves no last batch of one sample"),
        (4097, {"round_to": "power"}, "with round_to='power' that leaves no last batch of one sample"),
        (1000, {"max_val": 1}, "batches of two samples or more, .* max_val allows 1"),
    ],
)
def test_what_only_gives_batches_of_one_is_refused(samples, changes, words):
    with pytest.raises(MisconfigurationException, match=words):
        read(DataLoader(dataset(samples), 2), module=Module(torch.nn.BatchNorm1d(2)), **changes)


def test_the_base_is_no_more_than_an_epoch_has():
    assert read(DataLoader(dataset(1000), 1024)).base_batch_size() == 1000
    assert read(DataLoader(dataset(1000), 32), accumulate=4, world_size=2).base_batch_size() == 256
    assert read(DataLoader(dataset(1000), 32), base_batch_size=64).base_batch_size() == 64


def test_a_sampler_that_needs_more_than_is_allowed_is_refused():
    data = dataset(1000)
    given = DataLoader(data, batch_sampler=ClassBalancedBatchSampler(data, 20, min_per_class=2))
    with pytest.raises(MisconfigurationException, match=r"batches of 10 samples or more, .* max_val allows 4"):
        read(given, 20, max_val=4)


# --- steps


def test_steps_of_a_training_as_its_loaders_have_them():
    for samples, size, accumulate in itertools.product((64, 1000), (4, 10, 64), (1, 2)):
        data = dataset(samples)
        bounds = read(DataLoader(data, 2), max_epochs=3)
        steps = math.ceil(len(BatchSampler(SequentialSampler(data), size, drop_last=False)) / accumulate)
        assert bounds.steps_per_epoch(size, accumulate) == steps
        assert bounds.num_training_steps(size, accumulate) == 3 * steps
    assert read(DataLoader(dataset(64), 2), max_epochs=-1).num_training_steps(4, 1) == math.inf
    assert read(DataLoader(Stream(), 2), max_epochs=-1).steps_per_epoch(4, 1) is None


def test_a_sampler_that_draws_another_number_counts():
    data = dataset(1000)
    assert read(DataLoader(data, 2, sampler=RandomSampler(data, True, 300))).samples == 300
