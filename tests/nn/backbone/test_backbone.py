"""What a backbone leaves behind (nothing), and that it is a module like any other."""

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


class Restless(nn.Module):
    """Everything that a forward pass may leave behind: draws, counters, caches, buffers that move."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("hidden", torch.ones(8), persistent=False)
        self.plain = torch.full((8,), 2.0)
        self.kept = {"cache": torch.full((8,), 3.0)}
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.steps += 1
        self.hidden.mul_(0.5)
        self.seen.append(x.shape)
        self.kept["last"] = x
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        x = torch.relu(self.norm(self.fc1(x))) * self.plain * self.kept["cache"] * noise
        return self.fc2(nn.functional.dropout(x, 0.5, training=True))


def everything(model):
    """All of a model's state, as bytes and plain values."""
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
    """Some parts frozen, as a user may have left them."""
    model.train()
    for index, part in enumerate(model.modules()):
        if index % 3 == 1:
            part.eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    return model


@pytest.mark.parametrize(
    "make", [Restless, Cnn, mlp, LastToken, models.mobilenet_v3_small], ids=lambda make: make.__name__
)
def test_the_model_of_the_user_is_not_touched(make):
    model, recorded = mixed_modes(make()), []
    next(model.modules()).register_forward_hook(lambda *_: recorded.append(1))
    before, drawn = everything(model), streams()
    plain = {name: copy.deepcopy(value) for name, value in vars(model).items() if not name.startswith("_")}
    backbone = Backbone(model)
    assert streams() == drawn
    assert_same(before, everything(model))
    assert recorded == []
    for name, value in plain.items():
        assert repr(getattr(model, name)) == repr(value)
    assert not any(a is b for a in model.parameters() for b in backbone.parameters())


@pytest.mark.parametrize("make", [Restless, Cnn, models.mobilenet_v3_small], ids=lambda make: make.__name__)
@pytest.mark.parametrize("copied", [True, False])
def test_what_stays_is_as_it_was(make, copied):
    """Weights, buffers, modes and switches of gradients of what is left, with and without a copy."""
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
    if isinstance(backbone.model, Restless):
        assert (backbone.model.calls, backbone.model.seen, list(backbone.model.kept)) == (0, [], ["cache"])
    assert (backbone.model is model) is not copied


def test_the_head_is_not_copied_only_to_be_thrown_away():
    """Of VGG nine tenths are not features, and the last layer alone is large."""

    class Loud(nn.Linear):
        def __deepcopy__(self, memo):
            assert id(self.weight) in memo, "the weights of the head were copied"
            return nn.Linear(8, 5, device="meta")

    assert Backbone(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Loud(8, 5))).feature_dim == 8


def test_the_model_of_the_user_can_go():
    model = mlp()
    gone = weakref.ref(model)
    backbone = Backbone(model)
    del model
    gc.collect()
    assert gone() is None
    assert backbone(torch.zeros(1, 6)).shape == (1, 8)


def test_meta_models_need_no_memory_and_lose_nothing():
    with torch.device("meta"):
        model = models.vit_h_14()  # 630 M weights
    backbone = Backbone(model)
    assert backbone.feature_dim == 1280
    assert all(parameter.is_meta for parameter in backbone.parameters())
    with pytest.raises(ValueError, match="with weights, but got one on the meta device"):
        backbone.inference_speed()


class Chooses(nn.Module):
    """Looks at numbers to decide what to compute, so that a run without numbers fails."""

    def __init__(self, side=8):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.fc1, self.fc2 = nn.Linear(6, side), nn.Linear(side, 3)

    def forward(self, x):
        x = self.fc1(self.norm(x))
        return self.fc2(torch.relu(x) if x.sum().item() > -1e9 else x)


def test_a_model_that_looks_at_numbers_is_run_for_real_on_a_copy():
    model = mixed_modes(Chooses())
    before, drawn = everything(model), streams()
    backbone = Backbone(model)
    assert backbone.feature_dim == 8
    assert streams() == drawn
    assert_same(before, everything(model))
    assert int(backbone.model.norm.num_batches_tracked) == 0


class MakesOnCpu(nn.Module):
    """Makes a tensor without saying where."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)) @ torch.eye(8))


def test_a_model_that_makes_tensors_by_itself():
    with torch.device("meta"):
        Backbone(MakesOnCpu())  # it cannot be run for real
    assert Backbone(MakesOnCpu()).feature_dim == 8


def test_a_model_that_cannot_be_copied_is_taken_as_it_is():
    model = mlp()
    model.stream = (number for number in range(3))  # generators cannot be copied
    with pytest.raises(ValueError, match=r"can be deep-copied, but got TypeError: .*generator.* copy=False"):
        Backbone(model)


def test_weights_that_are_computed_from_others():
    """Weight norm of the old kind holds a tensor that cannot be deep-copied once it was run; in place it works."""
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


# --- a module like any other


@pytest.fixture
def backbone():
    return Backbone(Cnn(3, 32)).eval()


def test_copies_pickles_and_states(backbone):
    x = torch.randn(2, 3, 32, 32)
    again = Backbone(Cnn(3, 32)).eval()
    assert again.load_state_dict(backbone.state_dict()).missing_keys == []
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), again):
        assert torch.equal(other(x), backbone(x))
        assert (other.feature_dim, other.removed, other.pooling) == (backbone.feature_dim, backbone.removed, None)


def test_gradients_flow_to_every_weight(backbone):
    backbone.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_its_mode_is_that_of_the_model():
    assert Backbone(mlp().eval()).training is False
    assert Backbone(mlp().train()).training is True


def test_it_compiles_without_a_break(backbone):
    classifier = nn.Sequential(backbone, ClassifierHead(backbone.feature_dim, 4)).eval()
    compiled = torch.compile(classifier, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(compiled(x), classifier(x))


def test_a_batch_of_one_in_evaluation_and_images_of_another_size():
    backbone = Backbone(models.resnet18()).eval()
    assert backbone(torch.randn(1, 3, 40, 56)).shape == (1, 512)


def test_features_of_another_width_are_named(backbone):
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
        (mlp, {"pooling": "avg"}, ValueError, "one of auto, mean, max, cls, last, pooler, but got 'avg'"),
        (mlp, {"head": 2}, TypeError, "'auto', a path or None, but got 2"),
        (mlp, {"head": "fc"}, ValueError, "the path of a module of Sequential, such as .* but got 'fc'"),
        (mlp, {"feature_dim": 0}, ValueError, "`feature_dim` to be an int >= 1, but got 0"),
        (mlp, {"example_input": "x"}, TypeError, "a tensor, or a mapping of names to tensors, but got str"),
        (mlp, {"example_input": {"x": [1]}}, TypeError, "but got list"),
        (mlp, {"example_input": []}, TypeError, "but got nothing"),
        (mlp, {"example_input": torch.tensor(1.0)}, ValueError, "a batch axis first"),
        (lazy, {}, ValueError, "layers with shapes, but got lazy ones. Run the model once"),
        (lambda: nn.DataParallel(mlp()), {}, ValueError, "inside a DataParallel. Pass it as it was"),
        (lambda: torch.compile(mlp()), {}, ValueError, "inside a OptimizedModule"),
        (lambda: Backbone(mlp()), {}, ValueError, "whose head is off already"),
    ],
)
def test_refuses(model, options, error, message):
    made = model() if callable(model) and model is not models.resnet18 else model
    with pytest.raises(error, match=message):
        Backbone(made, **options)


def test_a_refusal_leaves_the_model_as_it_was_even_without_a_copy():
    model = mlp()
    before = everything(model)
    for options in ({"head": "fc"}, {"example_input": torch.zeros(2, 7)}):
        with pytest.raises(ValueError, match="Expected"):
            Backbone(model, copy=False, **options)
    assert_same(before, everything(model))
