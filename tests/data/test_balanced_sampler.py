"""Batches are counted by hand: guarantee, epoch, ranks, resuming, and what similar samplers do not guarantee."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, SequentialSampler, Subset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_hp import ClassBalancedBatchSampler
from lightning_hp.data.balanced_epoch import draw_in_turn, draws_per_class
from tests.callbacks.contract import Rehearse
from tests.data.wrong_values import WRONG_IDS, WRONG_VALUES


def random_case(seed):
    """Classes of very different sizes in random order, and a batch size with some room for other samples."""
    rng = np.random.default_rng(seed)
    classes, least = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    sizes = np.maximum(1, rng.geometric(0.03, size=classes) if seed % 2 else rng.integers(1, 60, size=classes))
    labels = rng.permutation(np.repeat(np.arange(classes), sizes))
    batch_size = least * classes + int(rng.integers(0, 12))
    return labels, sizes, batch_size, least


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


# --- the guarantee


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_every_batch_is_full_and_holds_every_class(seed, drop_last):
    labels, sizes, batch_size, least = random_case(seed)
    sampler = ClassBalancedBatchSampler(labels, batch_size, least, drop_last=drop_last, seed=seed)
    num_batches = len(labels) // batch_size if drop_last else math.ceil(len(labels) / batch_size)
    if not num_batches:
        with pytest.raises(ValueError, match="no batch is left"):
            list(sampler)
        return
    batches = [batch for epoch in range(3) for batch in epoch_of(sampler, epoch)]
    assert len(sampler) == num_batches
    assert len(batches) == 3 * num_batches
    for batch in batches:
        assert len(batch) == batch_size
        held = Counter(labels[batch].tolist())
        assert all(held[label] >= least for label in range(len(sizes)))
        # The same sample twice only where a batch holds more of the class than there are.
        for label, times in held.items():
            distinct = {index for index in batch if labels[index] == label}
            assert len(distinct) == min(times, sizes[label])


def test_real_digits_by_the_rule_of_three():
    labels = load_digits().target
    sampler = ClassBalancedBatchSampler(labels, batch_size=30, min_per_class=3)
    for batch in sampler:
        assert sorted(labels[batch]) == sorted(list(range(10)) * 3)


def test_names_rows_and_datasets_are_labels_too():
    codes = torch.arange(60) % 3
    names = ["abc"[code] for code in codes]
    rows = torch.nn.functional.one_hot(codes, 4)  # and a class that no sample has
    dataset = TensorDataset(torch.zeros(60, 2), codes)
    pairs = [(float(code), int(code)) for code in codes]
    expected = list(ClassBalancedBatchSampler(codes, 6))
    for labels in (names, rows, dataset, pairs, Subset(dataset, range(60)), codes.tolist(), codes.double()):
        assert list(ClassBalancedBatchSampler(labels, 6)) == expected
    assert ClassBalancedBatchSampler(names, 6).classes == ("a", "b", "c")
    assert ClassBalancedBatchSampler(rows, 6).classes == (0, 1, 2)


def test_labels_need_not_be_dense_nor_start_at_zero():
    labels = np.repeat([7, 10**9], [30, 10])
    for batch in ClassBalancedBatchSampler(labels, 8):
        assert (labels[batch] == 10**9).sum() >= 2


# --- the epoch


def test_balanced_classes_are_an_ordinary_shuffled_epoch():
    """Each sample comes exactly once."""
    sampler = ClassBalancedBatchSampler(np.arange(120) % 4, batch_size=12, min_per_class=2)
    for epoch in range(3):
        drawn = flat(epoch_of(sampler, epoch))
        assert sorted(drawn) == list(range(120))
        assert drawn != sorted(drawn)


def test_a_mild_imbalance_is_an_ordinary_shuffled_epoch_too():
    labels = np.repeat(np.arange(3), [200, 60, 40])
    sampler = ClassBalancedBatchSampler(labels, batch_size=20, min_per_class=2)
    assert sorted(flat(sampler)) == list(range(300))


def test_what_fills_a_batch_is_random():
    """The pool is drawn without replacement: in each batch the mean and variance are hypergeometric."""
    labels = np.repeat(np.arange(3), [200, 60, 40])
    sampler = ClassBalancedBatchSampler(labels, batch_size=20, min_per_class=2)
    counts = np.array([[(labels[batch] == 0).sum() for batch in epoch_of(sampler, epoch)] for epoch in range(400)])
    pool, common, filled = 300 - 15 * 6, 200 - 15 * 2, 14
    mean, share = 2 + filled * common / pool, common / pool
    variance = filled * share * (1 - share) * (pool - filled) / (pool - 1)
    assert counts.mean(0) == pytest.approx(np.full(15, mean), abs=5 * (variance / 400) ** 0.5)
    assert counts.var(0) == pytest.approx(np.full(15, variance), rel=0.4)


def test_a_class_has_no_place_of_its_own_in_a_batch():
    """Parts of a batch by position (for accumulation or several devices) have mixed classes."""
    batches = np.array(list(ClassBalancedBatchSampler(np.arange(3000) % 3, batch_size=6)))
    for place in range(6):
        assert np.bincount(batches[:, place] % 3, minlength=3) / 500 == pytest.approx(np.full(3, 1 / 3), abs=0.11)


@pytest.mark.parametrize("seed", range(40))
def test_over_the_epochs_every_sample_of_a_class_comes_equally_often(seed):
    labels, sizes, batch_size, least = random_case(seed)
    sampler = ClassBalancedBatchSampler(labels, batch_size, least, seed=seed)
    seen = Counter()
    for epoch in range(7):
        this = Counter(index for batch in epoch_of(sampler, epoch) for index in batch)
        seen.update(this)
        for times in (this, seen):
            for label in range(len(sizes)):
                own = [times[index] for index in np.flatnonzero(labels == label)]
                assert max(own) - min(own) <= 1


def test_rare_classes_are_repeated_and_common_ones_make_room():
    labels = np.repeat(np.arange(3), [970, 20, 10])
    sampler = ClassBalancedBatchSampler(labels, batch_size=50, min_per_class=3)
    drawn = Counter(labels[flat(sampler)].tolist())
    assert drawn == {0: 1000 - 2 * 60, 1: 60, 2: 60}  # 20 batches


@pytest.mark.parametrize("seed", range(40))
def test_shares_against_a_search_for_the_rate(seed):
    """The rate in max(minimum, rate * samples) is found here by bisection in floats."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 200, size=rng.integers(1, 12))
    least = int(rng.integers(1, 20))
    total = least * len(counts) + int(rng.integers(0, 500))
    low, high = 0.0, total / counts.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(least, middle * counts).sum() < total else (low, middle)
    found = draws_per_class(total, counts, least)
    assert found.sum() == total
    assert found.min() >= least
    assert np.abs(found - np.maximum(least, high * counts)).max() < 1 + 1e-6


@pytest.mark.parametrize(("members", "draws"), [(7, 3), (7, 7), (7, 24), (1, 5), (5, 10)])
def test_turns_repeat_nothing_before_all_have_come(members, draws):
    own, rng = np.arange(100, 100 + members), np.random.default_rng(0)
    seen = Counter()
    for epoch in range(9):
        drawn = draw_in_turn(own, draws, epoch * draws, rng).tolist()
        assert len(drawn) == draws
        for first in range(draws):
            window = drawn[first : first + members]
            assert len(set(window)) == len(window)
        seen.update(drawn)
        assert max(seen.values()) - min(seen[index] for index in own.tolist()) <= 1


# --- some classes, in turn


@pytest.mark.parametrize(("classes", "few", "batch_size"), [(10, 4, 8), (7, 3, 10), (5, 5, 10), (100, 8, 32)])
def test_some_classes_come_in_turn(classes, few, batch_size):
    labels = np.random.default_rng(0).permutation(np.arange(classes * 30) % classes)
    sampler = ClassBalancedBatchSampler(labels, batch_size, 2, classes_per_batch=few)
    turns = []
    for batch in epoch_of(sampler, 0) + epoch_of(sampler, 1):
        held = Counter(labels[batch].tolist())
        assert len(held) == few
        assert min(held.values()) >= 2
        assert max(held.values()) - min(held.values()) <= 1
        assert len(set(batch)) == batch_size
        turns.append(set(held))
    times = Counter(label for turn in turns[: len(sampler)] for label in turn)
    assert max(times.values()) - min(times[label] for label in range(classes)) <= 1
    both = Counter(label for turn in turns for label in turn)
    assert max(both.values()) - min(both[label] for label in range(classes)) <= 1


def test_some_classes_use_all_samples_of_a_class_over_the_epochs():
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])
    sampler = ClassBalancedBatchSampler(labels, 10, 5, classes_per_batch=2)
    seen = Counter(index for epoch in range(10) for batch in epoch_of(sampler, epoch) for index in batch)
    for label in range(4):
        own = [seen[index] for index in np.flatnonzero(labels == label)]
        assert max(own) - min(own) <= 1


# --- order, epochs, resume


def test_the_order_follows_from_seed_and_epoch():
    labels = load_digits().target
    one, other = (ClassBalancedBatchSampler(labels, 40, seed=3) for _ in range(2))
    torch.manual_seed(99)
    first, second = list(one), list(one)
    assert first != second  # a pass without `set_epoch` is a new epoch
    assert epoch_of(other, 1) == second
    assert epoch_of(other, 0) == first
    assert epoch_of(ClassBalancedBatchSampler(labels, 40, seed=4), 0) != first


def test_no_random_stream_is_drawn_from():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(ClassBalancedBatchSampler(np.arange(40) % 4, 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_an_iterator_that_was_not_asked_leaves_the_epoch():
    sampler = ClassBalancedBatchSampler(np.arange(40) % 4, 8)
    iter(sampler)
    assert sampler.epoch == 0


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_a_batch_size_of_its_own(make_copy):
    sampler = ClassBalancedBatchSampler(np.arange(240) % 4, 8)
    copied = make_copy(sampler)
    assert epoch_of(copied, 2) == epoch_of(sampler, 2)
    copied.batch_size = 24
    assert (len(copied), len(sampler)) == (10, 30)
    assert {len(batch) for batch in copied} == {24}
    assert {len(batch) for batch in sampler} == {8}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_loader_resumes_in_the_middle_of_an_epoch(num_workers):
    dataset = TensorDataset(torch.arange(60), torch.arange(60) % 3)

    def loader():
        sampler = ClassBalancedBatchSampler(dataset, 6)
        sampler.set_epoch(2)
        return StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)

    whole = [batch[0].tolist() for batch in loader()]
    broken, resumed = loader(), loader()
    running = iter(broken)
    assert [next(running)[0].tolist() for _ in range(4)] == whole[:4]
    resumed.load_state_dict(broken.state_dict())
    assert [batch[0].tolist() for batch in resumed] == whole[4:]


# --- ranks


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_ranks_have_equally_many_batches_with_every_class(seed, ranks):
    labels, sizes, batch_size, least = random_case(seed)
    samplers = [
        ClassBalancedBatchSampler(labels, batch_size, least, num_replicas=ranks, rank=rank) for rank in range(ranks)
    ]
    epochs = [epoch_of(sampler, 1) for sampler in samplers]
    assert {len(epoch) for epoch in epochs} == {len(samplers[0])} == {math.ceil(len(labels) / (batch_size * ranks))}
    for step in zip(*epochs, strict=True):
        for batch in step:
            held = Counter(labels[batch].tolist())
            assert all(held[label] >= least for label in range(len(sizes)))
        # A sample is shared only where a step holds more of its class than there are.
        together = Counter(flat(step))
        for label in range(len(sizes)):
            own = {index: times for index, times in together.items() if labels[index] == label}
            assert len(own) == min(sum(own.values()), sizes[label])


def test_ranks_divide_a_balanced_epoch():
    samplers = [ClassBalancedBatchSampler(np.arange(240) % 4, 12, num_replicas=2, rank=rank) for rank in range(2)]
    drawn = [set(flat(sampler)) for sampler in samplers]
    assert drawn[0] | drawn[1] == set(range(240))
    assert not drawn[0] & drawn[1]


def test_ranks_are_asked_of_torch_when_the_epoch_begins(monkeypatch):
    sampler = ClassBalancedBatchSampler(np.arange(240) % 4, 12)
    assert len(sampler) == 20
    on_rank_1 = epoch_of(ClassBalancedBatchSampler(np.arange(240) % 4, 12, num_replicas=2, rank=1), 0)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    assert len(sampler) == 10
    assert list(sampler) == on_rank_1


# --- Lightning


class Records(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch[0].int().flatten().tolist())
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(sampler, dataset, **kwargs):
    module = Records()
    ckpt_path, num_workers = kwargs.pop("ckpt_path", None), kwargs.pop("num_workers", 0)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **kwargs,
    )  # fmt: skip
    trainer.fit(module, DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers), ckpt_path=ckpt_path)
    return module, trainer


def numbered():
    return TensorDataset(torch.arange(60.0)[:, None], torch.arange(60) % 3)


def test_lightning_sets_the_epoch_and_a_resumed_run_goes_on(tmp_path):
    def sampler():
        return ClassBalancedBatchSampler(numbered(), 12)

    whole, _ = fit(sampler(), numbered(), max_epochs=4)
    assert whole.seen == {epoch: epoch_of(sampler(), epoch) for epoch in range(4)}
    _, trainer = fit(sampler(), numbered(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(sampler(), numbered(), max_epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.seen == {epoch: whole.seen[epoch] for epoch in (2, 3)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rehearsal_does_not_change_the_order(num_workers):
    """The batches of a rehearsal before the first epoch (twice 9 steps; an epoch has 5) are not missing from it."""
    sampler = ClassBalancedBatchSampler(numbered(), 12)
    module, _ = fit(sampler, numbered(), num_workers=num_workers, max_epochs=2, callbacks=[Rehearse()])
    expected = ClassBalancedBatchSampler(numbered(), 12)
    assert {epoch: seen[-5:] for epoch, seen in module.seen.items()} == {e: epoch_of(expected, e) for e in range(2)}


def test_a_run_that_overfits_some_batches_works():
    module, _ = fit(ClassBalancedBatchSampler(numbered(), 12), numbered(), max_epochs=1, overfit_batches=2)
    assert len(module.seen[0]) == 2


def test_lightning_that_passes_its_own_sampler_is_told_what_to_do():
    """Lightning re-creates a batch sampler as `type(it)(sampler, batch_size=..., drop_last=...)`."""
    from pytorch_lightning.utilities.data import _update_dataloader

    loader = DataLoader(numbered(), batch_sampler=ClassBalancedBatchSampler(numbered(), 12))
    with pytest.raises(TypeError, match=r"^Expected `labels` or a dataset.*use_distributed_sampler=False"):
        _update_dataloader(loader, torch.utils.data.DistributedSampler(numbered(), num_replicas=2, rank=0))


# --- arguments that similar samplers accept without a word


def test_a_batch_that_cannot_hold_the_classes_is_refused():
    """MPerClassSampler silently uses batch_size / m classes; here `classes_per_batch` has to say so."""
    with pytest.raises(ValueError, match=r"`batch_size` >= 20, 2 samples of each of 10 classes, but got 16.*at most 8"):
        ClassBalancedBatchSampler(np.arange(100) % 10, 16)
    sampler = ClassBalancedBatchSampler(np.arange(100) % 10, 32)
    with pytest.raises(ValueError, match="`batch_size` >= 20"):
        sampler.batch_size = 10
    assert sampler.batch_size == 32


def test_a_batch_need_not_be_a_multiple_of_anything():
    """MPerClassSampler requires a multiple of m."""
    assert all(len(batch) == 23 for batch in ClassBalancedBatchSampler(np.arange(230) % 10, 23))


def test_it_is_a_batch_sampler_of_a_loader():
    dataset = numbered()
    loader = DataLoader(dataset, batch_sampler=ClassBalancedBatchSampler(dataset, 9), num_workers=2)
    assert [torch.bincount(labels).min() >= 2 for _, labels in loader] == [True] * 7 == [True] * len(loader)


def test_an_epoch_without_a_batch_is_refused():
    sampler = ClassBalancedBatchSampler(np.arange(30) % 3, 16, drop_last=True, num_replicas=2, rank=0)
    for use in (len, list):
        with pytest.raises(ValueError, match="batch_size times ranks is 32, and with drop_last=True no batch is left"):
            use(sampler)
    assert len(ClassBalancedBatchSampler(np.arange(30) % 3, 64)) == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"labels": [0, 1, -1, 0]}, ValueError, "1 negative labels"),
        ({"labels": []}, ValueError, "There are no labels"),
        ({"labels": [0.5, 1.0]}, ValueError, "real numbers"),
        ({"labels": [[1, 1], [0, 1]]}, ValueError, "several labels for a sample"),
        ({"labels": np.zeros((4, 3, 3))}, ValueError, "a mask or several targets"),
        ({"labels": TensorDataset(torch.rand(4, 2))}, ValueError, "TensorDataset has no attribute with a label"),
        ({"min_per_class": 0}, ValueError, "`min_per_class` to be an int >= 1"),
        ({"batch_size": 2.5}, TypeError, "`batch_size` to be an int >= 1"),
        ({"seed": -1}, ValueError, "`seed` to be an int >= 0"),
        ({"drop_last": 1}, TypeError, "`drop_last` to be True or False"),
        ({"classes_per_batch": 3}, ValueError, "`classes_per_batch` <= 2 classes"),
        ({"classes_per_batch": 0}, ValueError, "`classes_per_batch` to be an int >= 1, or None"),
        ({"rank": 1}, ValueError, "0 <= `rank` < `num_replicas`, or neither"),
        ({"rank": 2, "num_replicas": 2}, ValueError, "0 <= `rank` < `num_replicas`"),
        ({"rank": 0, "num_replicas": 0}, ValueError, "`num_replicas` to be an int >= 1"),
        ({"rank": 0.0, "num_replicas": 2}, TypeError, "`rank` to be an int >= 0"),
    ],
)
def test_bad_input_gets_one_clear_error(kwargs, error, message):
    with pytest.raises(error, match=message):
        ClassBalancedBatchSampler(**{"labels": [0, 1, 1, 0], "batch_size": 4, **kwargs})
    with pytest.raises(TypeError, match="got a SequentialSampler"):
        ClassBalancedBatchSampler(SequentialSampler([1, 2]), batch_size=4)


@pytest.mark.parametrize("argument", ["batch_size", "min_per_class", "classes_per_batch", "drop_last", "seed"])
@pytest.mark.parametrize("value", WRONG_VALUES, ids=WRONG_IDS)
def test_every_argument_is_checked(argument, value):
    allowed = {"classes_per_batch": None, "drop_last": True, "seed": 10**400}
    if argument in allowed and type(value) is type(allowed[argument]) and value == allowed[argument]:
        return
    with pytest.raises((TypeError, ValueError), match=f"Expected `{argument}` to be"):
        ClassBalancedBatchSampler(**{"labels": [0, 1, 1, 0], "batch_size": 4, argument: value})


@pytest.mark.parametrize("argument", ["rank", "num_replicas"])
@pytest.mark.parametrize("value", WRONG_VALUES, ids=WRONG_IDS)
def test_ranks_are_checked(argument, value):
    with pytest.raises((TypeError, ValueError), match="Expected "):
        ClassBalancedBatchSampler([0, 1, 1, 0], 4, **{"rank": 0, "num_replicas": 1, argument: value})


@pytest.mark.parametrize(
    "value", [*WRONG_VALUES, DataLoader([1, 2]), {1, 2}, list], ids=lambda value: type(value).__name__
)
def test_labels_are_checked(value):
    with pytest.raises((TypeError, ValueError), match="Expected `labels` to be"):
        ClassBalancedBatchSampler(value, 4)


def test_numbers_of_numpy_become_those_of_python():
    sampler = ClassBalancedBatchSampler(
        [0, 1, 1, 0], np.int64(4), np.int32(1), drop_last=np.bool_(True), seed=np.uint8(3)
    )
    kinds = [type(value) for value in (sampler.batch_size, sampler.min_per_class, sampler.drop_last, sampler.seed)]
    assert kinds == [int, int, bool, int]
