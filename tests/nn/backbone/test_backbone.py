"""Building a backbone changes nothing else, and a backbone works like any other module."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from lightning_hp import Backbone, ClassifierHead
from tests.nn.backbone.models import Cnn, LastToken, mlp


class Stateful(nn.Module):
    """Everything that a forward pass may change: random state, counters, caches, buffers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("hidden", torch.ones(8), persistent=False)
        self.attribute = torch.full((8,), 2.0)
        self.kept = {"cache": torch.full((8,), 3.0)}
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.steps += 1
        self.hidden.mul_(0.5)
        self.seen.append(x.shape)
        self.kept["last"] = x
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        x = torch.relu(self.norm(self.fc1(x))) * self.attribute * self.kept["cache"] * noise
        return self.fc2(nn.functional.dropout(x, 0.5, training=True))


def everything(model):
    """The whole state of a model."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "tensors": {
            name: (value.detach().clone(), value.data_ptr(), value.requires_grad) for name, value in tensors.items()
        },
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "modes": {name: part.training for name, part in model.named_modules()},
        "modules": {name: id(part) for name, part in model.named_modules()},
        "hooks": {
            name: (list(part._forward_hooks), list(part._forward_pre_hooks)) for name, part in model.named_modules()
        },
    }


def assert_same(before, after):
    for name, (value, place, needs_grad) in before.pop("tensors").items():
        other, there, needs = after["tensors"][name]
        assert torch.equal(value, other), name
        assert (place, needs_grad) == (there, needs), name
    after.pop("tensors")
    assert before == after


def streams():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
    )


def mixed_modes(model):
    """The model with some parts frozen."""
    model.train()
    for index, part in enumerate(model.modules()):
        if index % 3 == 1:
            part.eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    return model


@pytest.mark.parametrize(
    "make", [Stateful, Cnn, mlp, LastToken, models.mobilenet_v3_small], ids=lambda make: make.__name__
)
def test_the_model_of_the_user_does_not_change(make):
    model, recorded = mixed_modes(make()), []
    next(model.modules()).register_forward_hook(lambda *_: recorded.append(1))
    before, drawn = everything(model), streams()
    attributes = {name: copy.deepcopy(value) for name, value in vars(model).items() if not name.startswith("_")}
    backbone = Backbone(model)
    assert streams() == drawn
    assert_same(before, everything(model))
    assert recorded == []
    for name, value in attributes.items():
        assert repr(getattr(model, name)) == repr(value)
    assert not any(a is b for a in model.parameters() for b in backbone.parameters())


@pytest.mark.parametrize("make", [Stateful, Cnn, models.mobilenet_v3_small], ids=lambda make: make.__name__)
@pytest.mark.parametrize("copied", [True, False])
def test_the_rest_of_the_model_does_not_change(make, copied):
    """Weights, buffers, modes and `requires_grad` of the rest, with and without a copy."""
    model = mixed_modes(make())
    reference = copy.deepcopy(model)
    states, modes = reference.state_dict(), {name: part.training for name, part in reference.named_modules()}
    backbone = Backbone(model, copy=copied)
    removed = tuple(line.partition(":")[0] for line in backbone.removed)
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, states[name])
    assert states.keys() - backbone.model.state_dict().keys() == {f"{removed[0]}.{x}" for x in ("weight", "bias")}
    for name, part in backbone.model.named_modules():
        assert part.training == modes[name]
    for name, parameter in backbone.model.named_parameters():
        assert parameter.requires_grad == reference.get_parameter(name).requires_grad
    if isinstance(backbone.model, Stateful):
        assert (backbone.model.calls, backbone.model.seen, list(backbone.model.kept)) == (0, [], ["cache"])
    assert (backbone.model is model) is not copied


def test_the_head_is_not_copied():
    """It may be large: in VGG nine tenths of the weights are in the classifier."""

    class Loud(nn.Linear):
        def __deepcopy__(self, memo):
            assert id(self.weight) in memo, "the weights of the head were copied"
            return nn.Linear(8, 5, device="meta")

    assert Backbone(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Loud(8, 5))).feature_dim == 8


def test_the_backbone_holds_no_reference_to_the_model():
    model = mlp()
    gone = weakref.ref(model)
    backbone = Backbone(model)
    del model
    gc.collect()
    assert gone() is None
    assert backbone(torch.zeros(1, 6)).shape == (1, 8)


def test_models_on_the_meta_device():
    with torch.device("meta"):
        model = models.vit_h_14()  # 630 M weights
    backbone = Backbone(model)
    assert backbone.feature_dim == 1280
    assert all(parameter.is_meta for parameter in backbone.parameters())
    with pytest.raises(ValueError, match="with weights, but got one on the meta device"):
        backbone.inference_speed()


class Branches(nn.Module):
    """Reads values to decide what to compute, so a run on the meta device fails."""

    def __init__(self, side=8):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.fc1, self.fc2 = nn.Linear(6, side), nn.Linear(side, 3)

    def forward(self, x):
        x = self.fc1(self.norm(x))
        return self.fc2(torch.relu(x) if x.sum().item() > -1e9 else x)


def test_a_model_that_reads_values_is_run_on_a_real_copy():
    model = mixed_modes(Branches())
    before, drawn = everything(model), streams()
    backbone = Backbone(model)
    assert backbone.feature_dim == 8
    assert streams() == drawn
    assert_same(before, everything(model))
    assert int(backbone.model.norm.num_batches_tracked) == 0


class CreatesTensor(nn.Module):
    """Creates a tensor without a device."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)) @ torch.eye(8))


def test_a_model_that_creates_tensors():
    with torch.device("meta"):
        Backbone(CreatesTensor())  # it has no real weights
    assert Backbone(CreatesTensor()).feature_dim == 8


def test_a_model_that_cannot_be_copied_is_refused():
    model = mlp()
    model.stream = (number for number in range(3))  # generators cannot be copied
    with pytest.raises(ValueError, match=r"can be deep-copied, but got TypeError: .*generator.* copy=False"):
        Backbone(model)


def test_weights_that_are_computed_from_others():
    """The old weight norm holds a tensor that cannot be deep-copied; without a copy it works."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="copy=False"):
        Backbone(model)
    backbone = Backbone(model, copy=False)
    assert backbone.feature_dim == 8
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    assert Backbone(new).feature_dim == 8


def test_in_inference_mode_too():
    with torch.inference_mode():
        assert Backbone(mlp()).feature_dim == 8
    with torch.no_grad():
        assert Backbone(mlp()).feature_dim == 8


# --- it works like any other module


@pytest.fixture
def backbone():
    return Backbone(Cnn(3, 32)).eval()


def test_copy_pickle_and_state_dict(backbone):
    x = torch.randn(2, 3, 32, 32)
    again = Backbone(Cnn(3, 32)).eval()
    assert again.load_state_dict(backbone.state_dict()).missing_keys == []
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), again):
        assert torch.equal(other(x), backbone(x))
        assert (other.feature_dim, other.removed, other.pooling) == (backbone.feature_dim, backbone.removed, None)


def test_every_weight_gets_a_gradient(backbone):
    backbone.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_its_mode_is_that_of_the_model():
    assert Backbone(mlp().eval()).training is False
    assert Backbone(mlp().train()).training is True


def test_it_compiles_without_a_graph_break(backbone):
    classifier = nn.Sequential(backbone, ClassifierHead(backbone.feature_dim, 4)).eval()
    compiled = torch.compile(classifier, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(compiled(x), classifier(x))


def test_a_batch_of_one_in_evaluation_and_images_of_another_size():
    backbone = Backbone(models.resnet18()).eval()
    assert backbone(torch.randn(1, 3, 40, 56)).shape == (1, 512)


def test_features_of_another_width_are_refused(backbone):
    with pytest.raises(ValueError, match=r"shape \(batch, 1024\), but the model gave \(2, 256\).*`example_input`"):
        backbone(torch.randn(2, 3, 16, 16))


# --- what is refused


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (7, {}, TypeError, "a module, the name of one such as 'resnet50', or weights .* but got 7"),
        (models.resnet18, {}, TypeError, "but got <function resnet18"),
        (mlp, {"pooling": "avg"}, ValueError, "one of 'auto', 'mean', 'max', 'cls', 'last', 'pooler', but got 'avg'"),
        (mlp, {"head": 2}, TypeError, "'auto', a path, or None, but got 2"),
        (mlp, {"head": "fc"}, ValueError, "the path of a module of Sequential, such as .* but got 'fc'"),
        (mlp, {"feature_dim": 0}, ValueError, "`feature_dim` to be an int >= 1, or None, but got 0"),
        (mlp, {"pooling": None}, TypeError, "`pooling` to be one of"),
        (mlp, {"pretrained": 1}, TypeError, "`pretrained` to be True or False, but got 1"),
        (mlp, {"copy": "no"}, TypeError, "`copy` to be True or False"),
        (mlp, {"feature_dim": 8.0}, TypeError, "`feature_dim` to be an int >= 1, or None, but got 8.0"),
        (mlp, {"example_input": {1: torch.zeros(2, 6)}}, TypeError, "a mapping of names to tensors"),
        (models.ResNet18_Weights, {}, TypeError, "or weights of torchvision, but got"),
        (mlp, {"example_input": "x"}, TypeError, "a tensor, or a mapping of names to tensors, but got str"),
        (mlp, {"example_input": {"x": [1]}}, TypeError, "but got list"),
        (mlp, {"example_input": []}, TypeError, "but got nothing"),
        (mlp, {"example_input": torch.tensor(1.0)}, ValueError, "a batch axis first"),
        (lazy, {}, ValueError, "initialized parameters, but got uninitialized lazy ones. Run one batch"),
        (lambda: nn.DataParallel(mlp()), {}, ValueError, "inside a DataParallel. Pass it as it was"),
        (lambda: torch.compile(mlp()), {}, ValueError, "inside a OptimizedModule"),
        (lambda: Backbone(mlp()), {}, ValueError, "whose head is already removed"),
    ],
)
def test_refuses(model, options, error, message):
    made = model() if callable(model) and model not in (models.resnet18, models.ResNet18_Weights) else model
    with pytest.raises(error, match=message):
        Backbone(made, **options)


def test_a_refusal_leaves_the_model_as_it_was_even_without_a_copy():
    model = mlp()
    before = everything(model)
    for options in ({"head": "fc"}, {"example_input": torch.zeros(2, 7)}):
        with pytest.raises(ValueError, match="Expected"):
            Backbone(model, copy=False, **options)
    assert_same(before, everything(model))
