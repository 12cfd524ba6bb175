"""Models of no library: a head is found whatever its name, features are kept, uncertain cases are refused."""

from __future__ import annotations

import logging

import pytest
import torch
import torchvision
from torch import nn

from lightning_hp import Backbone
from tests.nn.backbone.models import IN_DOUBT, WITH_HEAD, WITHOUT_HEAD, Cnn, Functional, LastToken, mlp, named


def batch_for(backbone, size=4):
    args, _ = backbone._spec.make(size, "cpu")
    return [torch.randint_like(x, 50) if x.dtype == torch.long else torch.randn_like(x) for x in args]


@pytest.mark.parametrize("case", WITH_HEAD)
def test_the_features_are_the_input_of_the_head(case):
    make, paths, width = WITH_HEAD[case]
    model = make().eval()
    backbone = Backbone(model)
    assert [line.partition(":")[0] for line in backbone.removed] == list(paths)
    assert backbone.feature_dim == width

    # The features by another way: the inputs of the heads in the model of the user.
    batch, got = batch_for(backbone), []
    linear = [part for part in map(model.get_submodule, paths) if isinstance(part, (nn.Linear, nn.Conv2d))]
    handles = [part.register_forward_pre_hook(lambda _, args: got.append(args[0])) for part in linear]
    model(*batch)
    for handle in handles:
        handle.remove()
    features = backbone(*batch)
    assert features.shape == (4, width)
    tail = {
        "one by one": lambda x: model[3:](x),
        "one by one, then relu, with a number of classes": lambda x: model.net[3:](x),
    }
    wanted = torch.stack([tail.get(case, lambda x: x)(x) for x in got]).mean(0)  # several: heads or views are averaged
    torch.testing.assert_close(features, wanted)


@pytest.mark.parametrize("case", ["cnn", "mlp", "last token", "residual", "attention", "named classifier"])
def test_the_old_head_on_the_features_equals_the_old_model(case):
    make, (path,), _ = WITH_HEAD[case]
    model = make().eval()
    backbone = Backbone(model)
    batch = batch_for(backbone)
    assert torch.equal(model.get_submodule(path)(backbone(*batch)), model(*batch))


@pytest.mark.parametrize("case", WITHOUT_HEAD)
def test_a_model_without_a_head_is_kept(case):
    make, width = WITHOUT_HEAD[case]
    model = make().eval()
    backbone = Backbone(model)
    assert backbone.removed == ()
    assert backbone.feature_dim == width
    batch = batch_for(backbone)
    output = model(*batch)
    assert torch.equal(backbone(*batch), output if output.ndim == 2 else output.mean((2, 3)))


@pytest.mark.parametrize("case", IN_DOUBT)
def test_uncertain_cases_are_refused(case):
    make, reason = IN_DOUBT[case]
    model = make()
    before = str(model)
    with pytest.raises(ValueError, match=rf"head can be told from its features, but .*{reason}.* Pass head=None"):
        Backbone(model)
    assert str(model) == before


def test_the_user_decides_in_uncertain_cases():
    model = named("projection").eval()
    x = torch.randn(3, 6)
    kept = Backbone(model, head=None)
    assert kept.removed == ()
    assert torch.equal(kept(x), model(x))
    headless = Backbone(model, head="projection")
    assert headless.removed == ("projection: Linear(in_features=8, out_features=5, bias=True)",)
    assert torch.equal(headless(x), model.trunk(x))
    assert Backbone(Functional(), head=None).feature_dim == 5


def test_a_head_of_several_layers_can_be_named():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    assert Backbone(model).feature_dim == 16
    backbone = Backbone(model, head="2")
    assert backbone.feature_dim == 8
    assert backbone.removed == ("2: Sequential of 4 parts",)


def test_a_backbone_of_a_headless_model_removes_nothing():
    first = Backbone(mlp())
    second = Backbone(first.model)
    assert second.removed == ()
    assert second.feature_dim == first.feature_dim == 8


def test_what_was_removed_is_logged_as_a_warning_and_in_the_repr(caplog):
    with caplog.at_level(logging.INFO, logger="lightning_hp.nn"):
        backbone = Backbone(mlp())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "Sequential: removed 2: Linear(in_features=8, out_features=5, bias=True). Features: 8."
    )
    assert "2: Linear(in_features=8" in repr(backbone)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="lightning_hp.nn"):
        Backbone(backbone.model)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "it has no head, nothing was removed" in caplog.text


# --- which input


def test_an_example_input_is_used():
    class Pixels(nn.Module):
        """It takes images of 20 x 12, which its first layer does not show."""

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(240, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            if x.shape[1:] != (1, 20, 12):
                raise RuntimeError("no such image")
            return self.net(x)

    with pytest.raises(ValueError, match=r"fails on every input that was tried \(input \(240,\).*no such image"):
        Backbone(Pixels())
    backbone = Backbone(Pixels(), example_input=torch.zeros(1, 1, 20, 12))
    assert backbone.feature_dim == 8
    assert backbone(torch.zeros(5, 1, 20, 12)).shape == (5, 8)


class Pair(nn.Module):
    """Takes two tensors."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(3, 4), nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, x, ids):
        return self.fc(torch.relu(self.a(x)) * self.b(ids))


def test_several_inputs_by_position_and_by_name():
    x, ids = torch.randn(2, 3), torch.tensor([1, 2])
    model = Pair()
    by_position = Backbone(model, example_input=(x, ids))
    by_name = Backbone(model, example_input={"x": x, "ids": ids})
    wanted = torch.relu(model.a(x)) * model.b(ids)
    for backbone in (by_position, by_name):
        assert backbone.feature_dim == 4
        for features in (
            backbone(x, ids),
            backbone(x=x, ids=ids),
            backbone({"x": x, "ids": ids}),
            backbone(x, ids=ids),
        ):
            assert torch.equal(features, wanted)


@pytest.mark.parametrize("side", [28, 32, 64, 224])
def test_common_image_sizes_are_tried(side):
    assert Backbone(Cnn(1, side)).feature_dim == 4 * (side // 2) ** 2


def test_a_model_in_half_precision():
    """No kernel of the CPU for half precision is needed."""
    backbone = Backbone(mlp().half())
    assert backbone.feature_dim == 8
    assert backbone._spec.inputs[0][2] == torch.float16


# --- widths


def test_the_width_of_the_user_is_checked_if_the_model_runs():
    assert Backbone(mlp(), feature_dim=8).feature_dim == 8
    with pytest.raises(ValueError, match=r"the width that the model returns for input \(6,\), 8, but got 5"):
        Backbone(mlp(), feature_dim=5)


class UnusualInput(nn.Module):
    """Fails on every input that is tried."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x):
        if x.ndim != 3 or x.shape[1] != 77:
            raise RuntimeError("not mine")
        return self.net(x).mean(1)


def test_the_width_of_the_user_is_used_if_the_model_does_not_run():
    backbone = Backbone(UnusualInput(), head=None, feature_dim=3)
    assert backbone(torch.zeros(2, 77, 4)).shape == (2, 3)
    wrong = Backbone(UnusualInput(), head=None, feature_dim=5)
    with pytest.raises(ValueError, match=r"shape \(batch, 5\), but the model gave \(2, 3\)"):
        wrong(torch.zeros(2, 77, 4))
    with pytest.raises(ValueError, match="`example_input`, since the model was never run"):
        backbone.inference_speed()


def test_with_the_width_of_the_user_there_is_no_run_with_real_weights():
    runs = []

    class Counts(UnusualInput):
        def forward(self, x):
            if not x.is_meta:
                runs.append(1)
            return self.net(x + x.sum().item())

    assert Backbone(Counts(), head=None, feature_dim=3).feature_dim == 3
    assert runs == []
    assert Backbone(Counts(), head=None).feature_dim == 3
    assert runs != []


class InTraining(nn.Module):
    """Returns something else in training mode."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), function

    def forward(self, x):
        return self.function(self.net(x)) if self.training else self.net(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x), "one tensor, .* but got tuple"),
        (lambda x: x[:, :4], "one width, but got 4 in training, else 8"),
        (lambda x: x[0], r"shape \(2, width\) for 2 samples"),
    ],
)
def test_a_model_that_gives_something_else_in_training_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        Backbone(InTraining(function))


def test_time_before_batch_is_refused():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(x.transpose(0, 1)[:5, 0])

    with pytest.raises(ValueError, match="first axis has to be the batch"):
        Backbone(TimeFirst(), example_input=torch.zeros(2, 8, 6))


# --- tokens


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
def test_tokens_are_pooled_as_the_user_says(pooling):
    model = nn.Sequential(nn.Embedding(50, 6), nn.LayerNorm(6))
    ids = torch.randint(50, (3, 5))
    backbone = Backbone(model, pooling=pooling)
    states = model(ids)
    wanted = {"mean": states.mean(1), "max": states.amax(1), "cls": states[:, 0], "last": states[:, -1]}
    assert torch.equal(backbone(ids), wanted[pooling])


def test_the_meaning_of_three_axes_is_not_guessed():
    """They may be (batch, tokens, width) or (batch, channels, length)."""
    with pytest.raises(ValueError, match=r"model gives \(2, 8, 6\). If that is \(batch, tokens, width\), say how"):
        Backbone(nn.Sequential(nn.Embedding(50, 6), nn.LayerNorm(6)))


@pytest.mark.parametrize(
    ("make", "pooling", "message"),
    [
        (mlp, "mean", "leaves something to pool for pooling='mean'"),
        (LastToken, "last", "leaves something to pool"),
        (mlp, "pooler", "a tensor `pooler_output`, but it returns none"),
        (WITHOUT_HEAD["a map"][0], "cls", "'mean', 'max' or 'auto' for a map"),
    ],
)
def test_pooling_that_does_not_suit_the_output_is_refused(make, pooling, message):
    with pytest.raises(ValueError, match=message):
        Backbone(make(), pooling=pooling)


class OwnReset(nn.Module):
    """A network with the method of timm, which does nothing."""

    def __init__(self):
        super().__init__()
        self.num_classes = 5
        self.body, self.fc = nn.Linear(4, 8), nn.Linear(8, 5)

    def reset_classifier(self, num_classes):
        """Another meaning of the name."""

    def forward(self, x):
        return self.fc(self.body(x).relu())


def test_a_method_of_timm_that_removes_nothing():
    model, x = OwnReset(), torch.randn(3, 4)
    backbone = Backbone(model)
    assert backbone.feature_dim == 8
    assert torch.equal(model.fc(backbone(x)), model(x))
    model.num_classes = 0  # as timm states that a model has no head
    assert Backbone(model).feature_dim == 5


@pytest.mark.parametrize("key", ["logits", "last_hidden_state"])
def test_a_mapping_with_logits(key):
    class Mapped(OwnReset):
        reset_classifier = None

        def forward(self, x):
            return {key: super().forward(x)}

    model, x = Mapped(), torch.randn(3, 4)
    assert torch.equal(model.fc(Backbone(model)(x)), model(x)[key])


@pytest.mark.parametrize("head", ["layer4", "layer4.1.conv2", "avgpool", "conv1"])
def test_a_head_that_other_layers_follow_is_refused(head):
    """Without them the output would still be the logits, or the run would fail and the input would be blamed."""
    with pytest.raises(ValueError, match=f"but got '{head}': the output comes from `fc`"):
        Backbone(torchvision.models.resnet18(), head=head)


def test_one_of_two_heads_is_refused():
    class TwoHeads(OwnReset):
        reset_classifier = None

        def __init__(self):
            super().__init__()
            self.other = nn.Linear(8, 5)

        def forward(self, x):
            features = self.body(x).relu()
            return (self.fc(features) + self.other(features)) / 2

    with pytest.raises(ValueError, match="but got 'fc': the output comes from `other`"):
        Backbone(TwoHeads(), head="fc")


def test_a_head_that_cannot_be_left_out_is_named():
    class TakesTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Bilinear(8, 8, 3)

        def forward(self, x):
            features = self.body(x)
            return self.head(features, features)

    with pytest.raises(ValueError, match="hands its input on when it is removed, but without 'head' the TakesTwo"):
        Backbone(TakesTwo(), head="head")
