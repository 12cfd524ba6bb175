"""ClassifierHead against loops written by hand, closed forms of its initial outputs, and the article's dictionary."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lightning_hp import ClassifierHead
from lightning_hp.nn.activations import gain, new_activation

LOG2 = math.log(2)


def by_hand(head, features, activation):
    """The forward pass as a loop over what the state dict holds."""
    weights = [(name, value) for name, value in head.state_dict().items() if name.endswith("weight")]
    signal = features
    for index, (name, weight) in enumerate(weights):
        signal = signal @ weight.T + head.state_dict()[name.replace("weight", "bias")]
        if index < len(weights) - 1:
            signal = activation(signal)
    return signal


# --- what is built


@pytest.mark.parametrize("value", [64, 128, 256, 512, 1024])
def test_the_dictionary_of_the_article(value):
    nn_options_dict_step = {
        "n_hidden_layers": 1,
        "n_hidden_units": value,
        "use_dropout": False,
        "dropout_val": 0.2,
        "use_activation_fn": True,
        "activation_fn": nn.ReLU(),
    }
    head = ClassifierHead(48, 10, **nn_options_dict_step)
    assert sum(p.numel() for p in head.parameters()) == 48 * value + value + value * 10 + 10
    assert head(torch.rand(3, 48)).shape == (3, 10)
    assert [type(part) for part in head.hidden] == [nn.Linear, nn.ReLU]


def test_the_defaults_are_those_of_the_article():
    torch.manual_seed(1)
    default = ClassifierHead(8, 3)
    torch.manual_seed(1)
    explicit = ClassifierHead(8, 3, 1, 256, False, 0.2, True, nn.ReLU())
    assert repr(default) == repr(explicit)
    assert all(torch.equal(a, b) for a, b in zip(default.parameters(), explicit.parameters(), strict=True))


@pytest.mark.parametrize(("layers", "units"), [(0, 256), (1, 7), (3, 7), (3, [9, 8, 7]), (2, (5, 6)), (0, [])])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh, "gelu"])
def test_forward_equals_a_loop_by_hand(layers, units, activation):
    head = ClassifierHead(6, 4, layers, units, activation_fn=activation).double()
    features = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(head(features), by_hand(head, features, new_activation(activation)))


def test_without_an_activation_it_is_one_linear_map():
    head = ClassifierHead(6, 4, 3, 16, use_activation_fn=False).double()
    a, b = torch.randn(2, 5, 6, dtype=torch.float64)
    zero = head(torch.zeros_like(a))
    torch.testing.assert_close(head(a + b) - zero, head(a) - zero + head(b) - zero)


@pytest.mark.parametrize("layers", [0, 1, 4])
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_each_hidden_layer_has_its_parts_and_the_last_has_none(layers, norm):
    head = ClassifierHead(6, 4, layers, 16, use_dropout=True, dropout_val=0.5, norm=norm)
    kinds = [nn.Linear, *({"batch": [nn.BatchNorm1d], "layer": [nn.LayerNorm]}.get(norm, [])), nn.ReLU, nn.Dropout]
    assert [type(part) for part in head.hidden] == kinds * layers
    assert type(head.output) is nn.Linear
    assert [name for name, _ in head.named_children()] == ["hidden", "output"]


def test_a_linear_probe_has_no_dropout():
    """torchvision's MLP has a dropout after its last layer; here the logits of a probe are the same in training."""
    head = ClassifierHead(6, 4, 0, use_dropout=True, dropout_val=0.9).train()
    features = torch.randn(32, 6)
    assert torch.equal(head(features), head(features))
    assert not any(isinstance(part, nn.Dropout) for part in head.modules())


def test_dropout_acts_only_on_hidden_layers():
    head = ClassifierHead(6, 4, 1, 64, use_dropout=True, dropout_val=0.9).train()
    nn.init.constant_(head.output.bias, 3.0)
    nn.init.zeros_(head.output.weight)
    assert torch.equal(head(torch.randn(9, 6)), torch.full((9, 4), 3.0))


def test_no_module_is_shared_between_layers_or_with_the_caller():
    mine = nn.PReLU(init=0.5)
    heads = [ClassifierHead(6, 4, 3, 16, activation_fn=mine) for _ in range(2)]
    seen = [part for head in heads for part in head.modules() if isinstance(part, nn.PReLU)]
    assert len({id(part) for part in [*seen, mine]}) == 7
    assert len({part.weight.data_ptr() for part in [*seen, mine]}) == 7
    assert all(part.weight.item() == 0.5 for part in seen)


@pytest.mark.parametrize(
    "given", [nn.LeakyReLU(0.3), nn.SiLU, "LeakyReLU", "leaky_relu", "nn.GELU", "RELU", "hardswish"]
)
def test_an_activation_by_instance_class_or_name(given):
    wanted = {"leaky_relu": "LeakyReLU", "nn.GELU": "GELU", "RELU": "ReLU", "hardswish": "Hardswish"}
    made = ClassifierHead(6, 4, activation_fn=given).hidden[1]
    name = given if isinstance(given, str) else given.__name__ if isinstance(given, type) else type(given).__name__
    assert type(made).__name__ == wanted.get(name, name)
    assert getattr(made, "negative_slope", None) == {"LeakyReLU": 0.01}.get(
        type(made).__name__ if isinstance(given, str) else "", 0.3 if isinstance(given, nn.LeakyReLU) else None
    )


# --- initial weights


@pytest.mark.parametrize(
    ("activation", "closed"),
    [
        (nn.Identity(), 1.0),
        (nn.ReLU(), math.sqrt(2)),
        (nn.LeakyReLU(0.2), math.sqrt(2 / (1 + 0.2**2))),
        (nn.LeakyReLU(1.0), 1.0),
        (nn.Hardtanh(-math.inf, math.inf), 1.0),
        (nn.SELU(), 1.0),  # defined to keep mean 0 and variance 1
    ],
)
def test_gain_has_a_closed_form(activation, closed):
    assert gain(activation) == pytest.approx(closed, rel=1e-4)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.PReLU()])
def test_gain_by_another_quadrature(activation):
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    with torch.no_grad():
        values = activation.double()(torch.from_numpy(nodes)).numpy() ** 2
    assert gain(activation) == pytest.approx((values @ weights / math.sqrt(2 * math.pi)) ** -0.5, rel=1e-3)


def test_gain_changes_neither_the_random_state_nor_the_activation():
    activation = nn.RReLU().train()
    before = torch.get_rng_state()
    gain(activation)
    assert torch.equal(torch.get_rng_state(), before)
    assert activation.training


def test_an_activation_that_is_zero_has_a_gain():
    assert gain(nn.Threshold(1e9, 0.0)) == 1.0


def variances(head, features):
    """The variance of the input of each activation."""
    found = []
    with torch.no_grad():
        for part in head.hidden:
            features = part(features)
            if isinstance(part, nn.Linear):
                found.append(features.square().mean().item())
    return found


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "leaky_relu", "selu", "softplus", nn.Identity])
def test_the_signal_keeps_its_variance(activation):
    """In six layers it keeps the variance of the features; with the weights of `nn.Linear` it does not."""
    head = ClassifierHead(512, 10, 6, 512, activation_fn=activation)
    features = torch.randn(256, 512)
    assert variances(head, features) == pytest.approx([1.0] * 6, rel=0.3)
    for part in head.hidden:
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    assert variances(head, features)[-1] < 0.6


def test_zero_init_starts_at_the_entropy_of_equal_classes():
    head = ClassifierHead(16, 7, zero_init=True)
    loss = nn.functional.cross_entropy(head(torch.randn(5, 16)), torch.arange(5))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)
    loss.backward()
    assert head.output.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "prior", [[80, 15, 5], [0.8, 0.15, 0.05], torch.tensor([1600, 300, 100]), np.array([16, 3, 1])]
)
def test_a_prior_starts_the_softmax_at_the_frequencies(prior):
    head = ClassifierHead(16, 3, zero_init=True, class_prior=prior)
    p = torch.tensor([0.8, 0.15, 0.05])
    torch.testing.assert_close(head(torch.randn(4, 16)).softmax(1), p.expand(4, 3))
    labels = torch.tensor([0] * 16 + [1] * 3 + [2])
    loss = nn.functional.cross_entropy(head(torch.randn(20, 16)), labels)
    assert loss.item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)


def test_a_prior_of_labels_and_of_the_positive_class():
    labels = ClassifierHead(16, 3, task="multilabel", zero_init=True, class_prior=[0.5, 0.01, 0.9])
    torch.testing.assert_close(labels(torch.randn(2, 16)).sigmoid()[1], torch.tensor([0.5, 0.01, 0.9]))
    binary = ClassifierHead(16, 2, task="binary", zero_init=True, class_prior=0.01)
    logits = binary(torch.randn(100, 16))
    assert logits.shape == (100, 1)
    truth = torch.tensor([1.0] + [0.0] * 99)[:, None]
    entropy = -0.01 * math.log(0.01) - 0.99 * math.log(0.99)
    assert nn.functional.binary_cross_entropy_with_logits(logits, truth).item() == pytest.approx(entropy, rel=1e-5)


def test_the_default_starts_near_equal_probabilities():
    losses = [
        nn.functional.cross_entropy(ClassifierHead(512, 10)(torch.randn(256, 512)), torch.arange(256) % 10).item()
        for _ in range(5)
    ]
    assert np.mean(losses) == pytest.approx(math.log(10), rel=0.15)


# --- training, copies and shapes


def test_it_learns():
    torch.manual_seed(3)
    points = torch.rand(512, 2) * 2 - 1
    labels = (points.prod(1) > 0).long()
    head = ClassifierHead(2, 2, n_hidden_units=32)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(points), labels).backward()
        optimizer.step()
    assert (head(points).argmax(1) == labels).float().mean() > 0.95


def test_copies_pickles_and_states_are_the_same_head():
    head = ClassifierHead(6, 4, 2, [8, 5], use_dropout=True, norm="layer", activation_fn=nn.PReLU()).eval()
    features = torch.randn(3, 6)
    again = ClassifierHead(6, 4, 2, [8, 5], use_dropout=True, norm="layer", activation_fn=nn.PReLU()).eval()
    again.load_state_dict(head.state_dict())
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), again):
        assert torch.equal(other(features), head(features))


def test_more_axes_before_the_last():
    head = ClassifierHead(6, 4, norm="layer")
    features = torch.randn(2, 3, 6)
    torch.testing.assert_close(head(features)[1, 2], head(features[1, 2]))


def test_a_batch_of_one_and_the_norms():
    ClassifierHead(6, 4, norm="layer").train()(torch.randn(1, 6))
    ClassifierHead(6, 4, norm="batch").eval()(torch.randn(1, 6))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ClassifierHead(6, 4, norm="batch").train()(torch.randn(1, 6))


# --- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "`in_features` to be an int from 1 to 2147483647, but got 0"),
        ({"in_features": "512"}, TypeError, "`in_features` to be an int from 1 to 2147483647, but got '512'"),
        ({"num_classes": 1}, ValueError, "choose task='binary'"),
        ({"num_classes": 0}, ValueError, "`num_classes`"),
        ({"num_classes": 3, "task": "binary"}, ValueError, r"2 \(or 1\) for task 'binary', but got 3"),
        ({"task": "regression"}, ValueError, "one of 'multiclass', 'binary', 'multilabel', but got 'regression'"),
        ({"n_hidden_layers": -1}, ValueError, "`n_hidden_layers` to be an int from 0 to 1000, but got -1"),
        ({"n_hidden_layers": 1.5}, TypeError, "`n_hidden_layers`"),
        ({"n_hidden_layers": True}, TypeError, "`n_hidden_layers`"),
        ({"n_hidden_units": 0}, ValueError, "`n_hidden_units` to be an int from 1 to 2147483647, but got 0"),
        ({"n_hidden_units": [8, 8]}, ValueError, r"a list of 1 \(`n_hidden_layers`\), but got \[8, 8\]"),
        ({"n_hidden_layers": 2, "n_hidden_units": [8, "8"]}, TypeError, "`n_hidden_units`"),
        ({"n_hidden_units": "256"}, TypeError, "`n_hidden_units` to be an int"),
        ({"use_dropout": 0.5}, TypeError, "`use_dropout` to be True or False, but got 0.5"),
        ({"use_activation_fn": "relu"}, TypeError, "`use_activation_fn`"),
        ({"zero_init": 1}, TypeError, "`zero_init`"),
        ({"dropout_val": 1.0}, ValueError, "`dropout_val` to be a number >= 0 and < 1, but got 1.0"),
        ({"dropout_val": math.nan}, ValueError, "`dropout_val`"),
        ({"dropout_val": None}, TypeError, "`dropout_val`"),
        ({"norm": "group"}, ValueError, "one of 'batch', 'layer', or None, but got 'group'"),
        ({"activation_fn": "rellu"}, ValueError, "such as ReLU.* but got 'rellu'"),
        ({"activation_fn": torch.relu}, TypeError, "a module such as nn.ReLU"),
        ({"activation_fn": None}, TypeError, "but got None"),
        ({"activation_fn": nn.GLU()}, ValueError, "each number by itself.* but got GLU"),
        ({"activation_fn": nn.Softmax}, ValueError, "but got Softmax"),
        ({"activation_fn": "softmax"}, ValueError, "but got 'softmax'"),
        ({"activation_fn": "glu", "n_hidden_layers": 0}, ValueError, "but got 'glu'"),
        ({"class_prior": [1, 2]}, ValueError, "3 counts or probabilities, .* but got"),
        ({"class_prior": [1, 0, 2]}, ValueError, "> 0, one for each class"),
        ({"class_prior": [1, math.inf, 2]}, ValueError, "finite"),
        ({"class_prior": [0.2, 0.5, 1.0], "task": "multilabel"}, ValueError, "3 probabilities > 0 and < 1"),
        ({"n_hidden_units": None}, TypeError, "an int >= 1, or a list with one for each hidden layer, but got None"),
        ({"in_features": 10**400}, ValueError, "`in_features` to be an int from 1 to 2147483647"),
        ({"task": None}, TypeError, "`task` to be one of"),
        ({"norm": 3}, TypeError, "`norm` to be one of 'batch', 'layer', or None"),
        ({"dropout_val": True}, TypeError, "`dropout_val`"),
        ({"activation_fn": nn.Linear(2, 2)}, ValueError, "each number by itself.* but got Linear"),
        ({"activation_fn": nn.Linear}, ValueError, "a class that needs no arguments, .* but got Linear"),
        ({"class_prior": "fair"}, TypeError, "3 counts or probabilities"),
        ({"class_prior": [[1, 2], [3]]}, TypeError, "3 counts or probabilities"),
        ({"class_prior": 1.0, "num_classes": 2, "task": "binary"}, ValueError, "probability of the positive class"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        ClassifierHead(**{"in_features": 6, "num_classes": 3, **options})


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"width 6 \(`in_features`\), but got \(2, 7\)"):
        ClassifierHead(6, 3)(torch.zeros(2, 7))


def test_a_refused_head_does_not_change_the_random_state():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="class_prior"):
        ClassifierHead(6, 3, class_prior=[1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_log_two_for_two_classes_in_both_forms():
    two = ClassifierHead(6, 2, zero_init=True)(torch.randn(4, 6))
    one = ClassifierHead(6, 2, task="binary", zero_init=True)(torch.randn(4, 6))
    assert nn.functional.cross_entropy(two, torch.tensor([0, 1, 1, 0])).item() == pytest.approx(LOG2)
    assert nn.functional.binary_cross_entropy_with_logits(one, torch.ones(4, 1)).item() == pytest.approx(LOG2)


@pytest.mark.parametrize(
    ("written", "kind"),
    [("gelu", nn.GELU), ({"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.3}}, nn.LeakyReLU)],
)
def test_it_is_built_from_yaml(written, kind):
    """As LightningCLI does it."""
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(ClassifierHead, "head")
    options = {
        "in_features": 8,
        "num_classes": 3,
        "n_hidden_units": [4],
        "activation_fn": written,
        "class_prior": [1, 2, 3],
    }
    built = parser.parse_object({"head": {"class_path": "lightning_hp.ClassifierHead", "init_args": options}})
    head = parser.instantiate(built).head
    assert [type(part) for part in head.hidden] == [nn.Linear, kind]
