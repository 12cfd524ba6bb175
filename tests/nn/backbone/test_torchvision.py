"""All 80 classification models of torchvision, on the meta device."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torchvision import models

from lightning_hp import Backbone

NAMES = models.list_models(module=models)

#: Small models that are quick to build and to run, and a sufficient side of the image.
SMALL = {
    "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 64, "inception_v3": 96,
    "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "regnet_x_400mf": 32, "resnet18": 32,
    "resnet50": 32, "shufflenet_v2_x0_5": 32, "swin_t": 64,
}  # fmt: skip

#: One model for each kind of last layers.
ENDS = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "maxvit_t", "mnasnet0_5",
    "mobilenet_v3_small", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn",
    "vit_b_32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def regnets_on_the_meta_device(monkeypatch):
    """They compute their widths with tensors, which fails on the meta device."""
    from torchvision.models.regnet import BlockParams

    original = BlockParams.from_init_params.__func__

    def from_init_params(cls, *args, **kwargs):
        with torch.device("cpu"):
            return original(cls, *args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(from_init_params))


def build(name, device="meta"):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device(device):
        return models.get_model(name, weights=None, **options)


def last_layer(model):
    """The head by its position in the source: the last linear layer or convolution that is not in an auxiliary head."""
    layers = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv2d)) and not name.lower().startswith("aux")
    ]
    return layers[-1]


def test_there_are_eighty():
    assert len(NAMES) >= 80


def one_of_each_kind():
    """All models; those whose kind has an earlier one only with ``-m exhaustive``."""
    kinds = set()
    for name in NAMES:
        kind = models.get_model_builder(name).__module__
        yield pytest.param(name, marks=[pytest.mark.exhaustive] if kind in kinds else [])
        kinds.add(kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(one_of_each_kind()))
def test_every_model(name):
    model = build(name)
    path, layer = last_layer(model)
    backbone = Backbone(model, copy=False)
    assert backbone.feature_dim == (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
    assert backbone.removed[0] == f"{path}: {layer}"
    assert all(line.lower().startswith("aux") for line in backbone.removed[1:])
    assert backbone.pooling is None


@pytest.mark.parametrize("name", ENDS)
def test_a_model_without_its_head_is_left_as_it_is(name):
    """If a user has set the head to Identity, no other layer may be removed."""
    model = build(name)
    path, layer = last_layer(model)
    model.set_submodule(path, nn.Identity())
    backbone = Backbone(model, copy=False)
    assert [line for line in backbone.removed if not line.lower().startswith("aux")] == []
    assert backbone.feature_dim == (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


@pytest.mark.parametrize("name", SMALL)
def test_the_old_head_on_the_features_equals_the_old_model(name):
    model = build(name, "cpu").eval()
    backbone = Backbone(model)
    x = torch.randn(1, 3, SMALL[name], SMALL[name])
    with torch.no_grad():
        features = backbone(x)
        assert features.shape == (1, backbone.feature_dim)
        assert torch.equal(last_layer(model)[1](features), model(x))


def test_squeezenet_keeps_what_follows_its_head():
    """A ReLU and a mean over the image follow its logits, and so its features."""
    model = build("squeezenet1_1", "cpu").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(Backbone(model)(x), model.features(x).relu().mean((2, 3)))


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_auxiliary_heads_are_removed_too(name, side):
    """In training they make the output a tuple, and get no gradient if only its first part is used."""
    backbone = Backbone(build(name, "cpu")).train()
    features = backbone(torch.randn(2, 3, side, side))
    assert features.shape == (2, backbone.feature_dim)
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not any("aux" in key.lower() for key in backbone.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "googlenet"])
def test_by_name_without_weights(name):
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        backbone = Backbone(name, pretrained=False)
    assert backbone.feature_dim == {"resnet18": 512, "vit_b_16": 768, "googlenet": 1024}[name]
    assert backbone.name == name
    assert backbone.training


def test_the_image_size_is_that_of_the_weights():
    with torch.device("meta"):
        backbone = Backbone("ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1", pretrained=False)
        assert backbone._spec.inputs[0][1] == (3, 224, 224)
        assert Backbone("inception_v3", pretrained=False)._spec.inputs[0][1] == (3, 299, 299)
        assert Backbone(models.EfficientNet_B1_Weights.IMAGENET1K_V2, pretrained=False)._spec.inputs[0][1][1] == 240
