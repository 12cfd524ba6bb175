"""Losses against their formulas, metrics against torchmetrics on all predictions, and the forms of a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional import classification as tmf

from lightning_hp import Classifier
from lightning_hp.module.batches import split_batch
from lightning_hp.module.losses import class_weights_tensor, classification_loss
from lightning_hp.module.metrics import build_metrics, probabilities, update_metrics
from tests.devices import no_waiting, on_each_device, torch_device


def test_multiclass_loss_is_the_log_of_the_probability_of_the_label():
    logits, labels = torch.randn(9, 4), torch.randint(4, (9,))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    total = weight = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_p = row[label] - math.log(sum(math.exp(logit) for logit in row))
        total -= weights[label].item() * log_p
        weight += weights[label].item()
    assert classification_loss("multiclass", logits, labels, weights).item() == pytest.approx(total / weight, rel=1e-5)


def test_multiclass_loss_takes_probabilities_as_mixup_makes_them():
    logits, labels = torch.randn(6, 4), torch.randint(4, (6,))
    other = labels.flip(0)
    mixed = 0.3 * nn.functional.one_hot(labels, 4).float() + 0.7 * nn.functional.one_hot(other, 4).float()
    expected = 0.3 * classification_loss("multiclass", logits, labels)
    expected += 0.7 * classification_loss("multiclass", logits, other)
    torch.testing.assert_close(classification_loss("multiclass", logits, mixed), expected)


@pytest.mark.parametrize("shape", [(7, 1), (7,)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_binary_loss_by_hand(shape, dtype):
    logits, labels = torch.randn(shape), torch.randint(2, (7,))
    total = 0.0
    for logit, label in zip(logits.flatten().tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        smooth = label * 0.9 + 0.05
        total -= 3 * smooth * math.log(p) + (1 - smooth) * math.log(1 - p)
    loss = classification_loss("binary", logits, labels.to(dtype), torch.tensor([3.0]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(total / 7, rel=1e-5)


def test_multilabel_loss_is_the_mean_of_binary_ones():
    logits, labels = torch.randn(7, 3), torch.randint(2, (7, 3))
    each = [classification_loss("binary", logits[:, i], labels[:, i]) for i in range(3)]
    torch.testing.assert_close(classification_loss("multilabel", logits, labels), torch.stack(each).mean())


@pytest.mark.parametrize(
    ("task", "logits", "labels"),
    [
        ("multiclass", (4, 3), torch.zeros(4, 1, dtype=torch.long)),
        ("multiclass", (4, 3), torch.zeros(4)),
        ("multiclass", (4, 3), torch.zeros(5, dtype=torch.long)),
        ("multiclass", (4, 3, 2), torch.zeros(4, 2, dtype=torch.long)),
        ("binary", (4, 2), torch.zeros(4)),
        ("binary", (4, 1), torch.zeros(4, 2)),
        ("multilabel", (4, 3), torch.zeros(4)),
    ],
)
def test_labels_that_do_not_fit_are_refused(task, logits, labels):
    with pytest.raises(ValueError, match=f"task '{task}', but got logits of shape"):
        classification_loss(task, torch.zeros(logits), labels)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0], [1.0, 1e300, 1.0], 2.0])
def test_class_weights_are_checked(weights):
    with pytest.raises(ValueError, match=r"Expected `class_weights` to be 3 finite number\(s\)"):
        class_weights_tensor("multiclass", 3, weights)


def test_class_weights_of_every_kind():
    for weights in (
        [1, 2, 3],
        np.array([1.0, 2.0, 3.0]),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2, 3]).bfloat16(),
    ):
        assert class_weights_tensor("multiclass", 3, weights).tolist() == [1.0, 2.0, 3.0]
    for weights in ("balanced", [True] * 3, ["a"] * 3, {0: 1.0}):
        with pytest.raises(TypeError, match=r"Expected `class_weights` to be 3 finite number\(s\)"):
            class_weights_tensor("multiclass", 3, weights)


def _functional(task, logits, labels, num_classes):
    """From all predictions at once, with hard predictions made by hand, since torchmetrics guesses about logits."""
    if task == "multiclass":
        hard = torch.tensor([max(range(num_classes), key=row.__getitem__) for row in logits.tolist()])
        return {
            "accuracy": tmf.multiclass_accuracy(hard, labels, num_classes, average="micro"),
            "f1": tmf.multiclass_f1_score(hard, labels, num_classes, average="macro"),
            "accuracy_top2": sum(
                label in sorted(range(num_classes), key=row.__getitem__)[-2:]
                for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
            )
            / len(labels),
        }
    hard = (torch.sigmoid(logits.double()) > 0.5).long()
    if task == "binary":
        hard = hard.flatten()
        return {"accuracy": tmf.binary_accuracy(hard, labels), "f1": tmf.binary_f1_score(hard, labels)}
    return {
        "accuracy": tmf.multilabel_accuracy(hard, labels, num_classes),
        "f1": tmf.multilabel_f1_score(hard, labels, num_classes),
    }


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
@pytest.mark.parametrize("scale", [1.0, 0.01, 50.0])
def test_metrics_over_batches_are_those_of_all_predictions(task, scale):
    num_classes = {"multiclass": 5, "binary": 2, "multilabel": 3}[task]
    width = 1 if task == "binary" else num_classes
    metrics = build_metrics(task, num_classes, top_k=2)
    # All between 0 and 1 at the smallest scale: torchmetrics would take these logits for probabilities.
    logits = [(torch.rand(size, width) if scale < 1 else torch.randn(size, width)) * scale for size in (16, 16, 7)]
    shape = {"multiclass": lambda n: (n,), "binary": lambda n: (n,), "multilabel": lambda n: (n, 3)}[task]
    # The last class never comes: it must not count in an average as if it were missed.
    labels = [torch.randint(num_classes - (task == "multiclass"), shape(size)) % 4 for size in (16, 16, 7)]
    labels = labels if task == "multiclass" else [label % 2 for label in labels]
    for some, others in zip(logits, labels, strict=True):
        update_metrics(metrics, task, some, others)
    expected = _functional(task, torch.cat(logits), torch.cat(labels), num_classes)
    assert list(metrics) == list(expected)
    for name, value in expected.items():
        assert float(metrics[name].compute()) == pytest.approx(float(value), abs=1e-6), name


def test_top_k_is_left_out_where_it_says_nothing():
    assert list(build_metrics("multiclass", 5, top_k=5)) == ["accuracy", "f1"]
    assert list(build_metrics("multiclass", 6, top_k=5)) == ["accuracy", "f1", "accuracy_top5"]
    assert list(build_metrics("multiclass", 6, top_k=None)) == ["accuracy", "f1"]


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
@on_each_device
def test_loss_and_metrics_bring_no_number_to_the_host(device, task):
    there = torch_device(device)
    metrics = build_metrics(task, 7 if task == "multiclass" else 2, top_k=5).to(there)
    width = {"multiclass": 7, "binary": 1, "multilabel": 2}[task]
    logits = torch.randn(8, width, device=there, requires_grad=True)
    labels = torch.randint(2, (8, 2) if task == "multilabel" else (8,), device=there)
    classification_loss(task, logits, labels, label_smoothing=0.1).backward()
    update_metrics(metrics, task, logits, labels)
    with no_waiting(device):
        classification_loss(task, logits, labels, label_smoothing=0.1).backward()
        update_metrics(metrics, task, logits, labels)
        with pytest.raises((AssertionError, RuntimeError), match=r"_local_scalar_dense|synchroniz"):
            logits.sum().item()


def test_probabilities_by_hand():
    logits = torch.randn(5, 4)
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    expected = torch.tensor([[value / sum(row) for value in row] for row in rows])
    torch.testing.assert_close(probabilities("multiclass", logits), expected)
    torch.testing.assert_close(probabilities("multiclass", logits).sum(1), torch.ones(5))
    for task, few in (("binary", logits[:, :1]), ("multilabel", logits)):
        expected = torch.tensor([1 / (1 + math.exp(-value)) for value in few.flatten().tolist()])
        torch.testing.assert_close(probabilities(task, few).flatten(), expected)
    assert probabilities("binary", logits[:, :1]).shape == (5,)


def test_batches_of_every_form():
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    assert split_batch((x, y)) == (x, y)
    assert split_batch([x, y]) == (x, y)
    assert split_batch({"image": x, "label": y}) == (x, y)
    inputs, labels = split_batch({"input_ids": x, "attention_mask": y, "labels": y})
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert labels is y
    assert split_batch({"pixel_values": x, "labels": y})[0] == {"pixel_values": x}
    for batch in (x, (x,), {"x": x}):
        assert split_batch(batch, has_labels=False) == (x, None)
    assert split_batch((x, y), has_labels=False)[0] is x


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ((1, 2, 3), "a tuple of 3"),
        (torch.zeros(2), "a Tensor"),
        ({"input_ids": 1}, "a mapping with 'input_ids'"),
        ({"labels": 1}, "a mapping with 'labels'"),
        ({}, "a mapping with nothing"),
    ],
)
def test_batches_of_another_form_are_refused(batch, got):
    with pytest.raises(TypeError, match=rf"but got {got}\. Override `split_batch`"):
        split_batch(batch)


@pytest.mark.parametrize(
    ("task", "num_classes", "labels", "message"),
    [
        ("binary", 2, torch.tensor([1, 2, 1, 2]), "labels from 0 to 1 for task 'binary' .* from 1 to 2"),
        ("binary", 2, torch.tensor([-1, 1, -1, 1]), "from -1 to 1"),
        ("multilabel", 3, torch.full((4, 3), 5.0), "labels from 0 to 1 for task 'multilabel'"),
        ("multiclass", 3, torch.full((4, 3), 5.0), "labels from 0 to 1 for task 'multiclass'"),
        ("multiclass", 3, torch.tensor([1, 2, 3, 1]), "classes from 0 to 2 for task 'multiclass' .* from 1 to 3"),
        ("multiclass", 3, torch.tensor([1, 2, 3, 1]), "Number the classes from 0 .subtract 1 if they start at 1"),
        ("multiclass", 3, torch.tensor([0.0, 1.0, 2.0, 1.0]), r"Expected integer labels .* got torch.float32 .*long"),
        ("multiclass", 3, torch.tensor([-1, 2, 0, 1]), "from -1 to 2. Leave out samples without a label"),
    ],
)
def test_labels_of_another_kind_are_refused_with_the_first_batch(task, num_classes, labels, message):
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    model = Classifier(net, num_classes, task=task, top_k=None)
    with pytest.raises(ValueError, match=message):
        model.training_step((torch.randn(4, 2), labels), 0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no Trainer
@pytest.mark.parametrize("wrong", [3, -1, -100])
def test_a_wrong_label_in_a_later_batch_is_the_same_sentence_on_the_cpu(wrong):
    model = Classifier(torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)), 3)
    x, labels = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    model.training_step((x, labels), 0)
    with pytest.raises(ValueError, match=f"Expected classes from 0 to 2 for task 'multiclass' .*{wrong}"):
        model.training_step((x, torch.tensor([0, 1, wrong, 0])), 1)


@pytest.mark.parametrize("labels", [["a", "b"], [0, 1], None, torch.zeros(2, dtype=torch.complex64)])
def test_labels_that_are_no_tensor_of_numbers_are_refused(labels):
    model = Classifier(torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)), 3)
    for use in (
        lambda: model.training_step((torch.randn(2, 2), labels), 0),
        lambda: classification_loss("multiclass", torch.zeros(2, 3), labels),
    ):
        with pytest.raises(TypeError, match="Expected the labels of a batch to be a tensor of numbers, but got a "):
            use()
