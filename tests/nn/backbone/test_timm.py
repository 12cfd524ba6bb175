"""One model of every family of timm, on the meta device."""

from __future__ import annotations

import pytest
import torch

from lightning_hp import Backbone

timm = pytest.importorskip("timm")

_SMALL = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxt",
    "xxs",
    "_xt",
    "xs",
    "tiny",
    "_t",
    "mini",
    "small",
    "_s",
    "0",
    "18",
    "26",
)


def smallest(module):
    """A small model of a family: by words for small sizes, then by the shortest name."""
    names = timm.list_models(module=module)
    rank = {name: next((i for i, word in enumerate(_SMALL) if word in name), 99) for name in names}
    return min(names, key=lambda name: (rank[name], len(name), name)) if names else None


FAMILIES = {module: name for module in timm.list_modules() if (name := smallest(module))}

#: Special cases: several heads, a width that is not `num_features`, distillation, unusual pooling.
SPECIAL = [
    "deit_tiny_distilled_patch16_224", "levit_128s", "crossvit_tiny_240", "volo_d1_224", "repvit_m0_9", "vgg11",
    "mobilenetv3_small_050", "ghostnet_050", "efficientvit_b0", "tinynet_e", "hardcorenas_a", "lcnet_035",
    "inception_next_atto", "cait_xxs24_224",
]  # fmt: skip

#: Models that run quickly with real weights, and a sufficient side of the image.
REAL = {
    "resnet10t": 32, "mobilenetv3_small_050": 32, "vit_tiny_patch16_224": 224, "deit_tiny_distilled_patch16_224": 224,
    "lcnet_035": 32, "ghostnet_050": 32, "convnext_atto": 32, "efficientvit_b0": 32, "levit_128s": 224,
    "repvit_m0_9": 32, "crossvit_tiny_240": 240, "mixer_s32_224": 224, "tinynet_e": 32,
}  # fmt: skip


def build(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def test_there_are_many_families():
    assert len(FAMILIES) > 80


def some_families():
    """The special ones and every fourth of the others; the rest only with ``-m exhaustive``."""
    others = sorted(set(FAMILIES.values()) - set(SPECIAL))
    rare = set(others) - set(others[::4])
    return [pytest.param(name, marks=[pytest.mark.exhaustive] if name in rare else []) for name in [*SPECIAL, *others]]


@pytest.mark.slow
@pytest.mark.parametrize("name", some_families())
def test_every_family(name):
    model = build(name)
    head = model.get_classifier()
    has_head = any(True for _ in head.parameters()) if isinstance(head, torch.nn.Module) else bool(head)
    backbone = Backbone(model, copy=False)
    # timm's own attribute for the width after pooling; `num_features` differs from it in one model of seven.
    assert backbone.feature_dim == model.head_hidden_size
    assert bool(backbone.removed) is has_head
    assert backbone.pooling is None


def test_num_features_is_not_the_width():
    for name in ("mobilenetv3_small_050", "ghostnet_050", "vgg11"):
        model = build(name)
        assert Backbone(model, copy=False).feature_dim != model.num_features


@pytest.mark.parametrize("name", sorted(REAL))
def test_features_are_the_input_of_the_head_of_timm(name):
    model = timm.create_model(name).eval()
    head = model.get_classifier()
    heads = list(head) if isinstance(head, (tuple, list, torch.nn.ModuleList)) else [head]
    got = []
    for part in heads:
        part.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    backbone = Backbone(model)
    x = torch.randn(2, 3, REAL[name], REAL[name])
    with torch.no_grad():
        model(x)
        features = backbone(x)
    assert features.shape == (2, backbone.feature_dim)
    wanted = torch.stack(got).mean(0) if len({part.shape for part in got}) == 1 else torch.cat(got, 1)
    torch.testing.assert_close(features, wanted)


def test_the_model_of_the_user_keeps_its_head():
    model = timm.create_model("resnet10t", num_classes=7)
    backbone = Backbone(model)
    assert model.fc.out_features == 7
    assert backbone.removed == ("fc: Linear(in_features=512, out_features=7, bias=True)",)
    assert not any(a is b for a in model.parameters() for b in backbone.parameters())


def test_modes_are_kept():
    model = timm.create_model("resnet10t").eval()
    assert not any(part.training for part in Backbone(model).modules())


@pytest.mark.parametrize("options", [{"in_chans": 1}, {"num_classes": 0}, {"global_pool": "max"}])
def test_options_of_timm_are_kept(options):
    backbone = Backbone(build("resnet10t", **options), copy=False)
    assert backbone.feature_dim == 512
    assert backbone._spec.inputs[0][1][0] == options.get("in_chans", 3)


def test_another_image_size():
    backbone = Backbone(build("vit_tiny_patch16_224", img_size=96), copy=False)
    assert backbone._spec.inputs[0][1] == (3, 96, 96)


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet10t", 512), ("swin_tiny_patch4_window7_224", 768)],
    ids=["channels first", "channels last"],
)
def test_a_map_is_averaged_in_both_memory_layouts(name, width):
    model = timm.create_model(name, num_classes=0, global_pool="").eval()
    backbone = Backbone(model)
    assert (backbone.feature_dim, backbone.pooling) == (width, "mean")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        pooled = timm.create_model(name, num_classes=0).eval()
        pooled.load_state_dict(model.state_dict())
        torch.testing.assert_close(backbone(x), pooled(x))


def test_by_name_without_weights():
    backbone = Backbone("timm:resnet10t", pretrained=False)
    assert (backbone.feature_dim, backbone.name, backbone.training) == (512, "timm:resnet10t", True)
    with pytest.raises(ValueError, match=r"a model of timm, such as .*resnet10t.*, but got 'resnet10'"):
        Backbone("timm:resnet10", pretrained=False)
