"""One answer to "is this a normalisation layer", for the freezer, the weight-decay groups and SAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d

import lightning_hp.functional as hpf
from lightning_hp.functional.norm_layers import has_running_statistics, is_norm_layer, norm_layers
from lightning_hp.module.parameter_groups import parameter_groups
from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule, epochs_by_stages


def layer(name: str, bases: tuple[type, ...] = (nn.Module,), **parameters: tuple[int, ...]) -> nn.Module:
    """A layer of a class of this name with parameters of these shapes."""
    made: nn.Module = type(name, bases, {})()
    for key, shape in parameters.items():
        made.register_parameter(key, nn.Parameter(torch.ones(shape)))
    return made


def subclass(name: str, base: type[nn.Module], *args: Any) -> nn.Module:
    made: nn.Module = type(name, (base,), {})(*args)
    return made


def inplace_abn() -> nn.Module:
    """As in the package inplace_abn: batch norm and activation in one, not a subclass of torch's."""
    made = layer("ABN", weight=(3,), bias=(3,))
    made.register_buffer("running_mean", torch.zeros(3))
    made.register_buffer("running_var", torch.ones(3))
    return made


def block_with_scale() -> nn.Module:
    """A residual block after whose norm comes a scale for each channel: it holds a vector and is no layer."""
    made = layer("BlockPostNorm", gamma=(3,))
    made.mlp, made.norm = nn.Linear(3, 3), nn.LayerNorm(3)
    return made


def spectral_norm() -> nn.Module:
    parametrized = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    return parametrized.parametrizations.weight[0]


def timm_layer(name: str, *args: Any) -> nn.Module:
    layers = pytest.importorskip("timm.layers.grn" if name == "GlobalResponseNorm" else "timm.layers")
    made: nn.Module = getattr(layers, name)(*args)
    return made


def hugging_face_layer(family: str, name: str, *args: Any) -> nn.Module:
    pytest.importorskip("transformers")
    module = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    made: nn.Module = getattr(module, name)(*args)
    return made


#: Layers with parameters, and whether they normalise.
LAYERS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    # of torch, and subclasses whose names say nothing
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), True),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), True),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), True),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(3), True),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), True),
    "GroupNorm": (lambda: nn.GroupNorm(1, 3), True),
    "LayerNorm": (lambda: nn.LayerNorm(3), True),
    "LayerNorm of two axes": (lambda: nn.LayerNorm((3, 4)), True),
    "RMSNorm": (lambda: nn.RMSNorm(3), True),
    "RMSNorm of two axes": (lambda: nn.RMSNorm((3, 4)), True),
    "a LayerNorm named Scale": (lambda: subclass("Scale", nn.LayerNorm, 3), True),
    "a BatchNorm2d named InPlaceABN": (lambda: subclass("InPlaceABN", nn.BatchNorm2d, 3), True),
    # by name
    "LlamaRMSNorm": (lambda: layer("LlamaRMSNorm", weight=(3,)), True),
    "a LlamaRMSNorm named Scale": (lambda: layer("Scale", (type(layer("LlamaRMSNorm")),), weight=(3,)), True),
    "LayerNorm2d": (lambda: layer("LayerNorm2d", weight=(1, 3, 1, 1), bias=(1, 3, 1, 1)), True),
    "RMSNormGated": (lambda: layer("RMSNormGated", weight=(3,)), True),
    "Layernorm": (lambda: layer("Layernorm", weight=(3,)), True),
    "BatchNormalization": (lambda: layer("BatchNormalization", gamma=(3,), beta=(3,)), True),
    # by running statistics
    "ABN": (inplace_abn, True),
    # of timm
    "timm RmsNorm": (lambda: timm_layer("RmsNorm", 3), True),
    "timm RmsNorm2d": (lambda: timm_layer("RmsNorm2d", 3), True),
    "timm RmsNormFp32": (lambda: timm_layer("RmsNormFp32", 3), True),
    "timm SimpleNorm": (lambda: timm_layer("SimpleNorm", 3), True),
    "timm LayerNorm2d": (lambda: timm_layer("LayerNorm2d", 3), True),
    "timm BatchNormAct2d": (lambda: timm_layer("BatchNormAct2d", 3), True),
    "timm GroupNorm1": (lambda: timm_layer("GroupNorm1", 3), True),
    "timm EvoNorm2dB0": (lambda: timm_layer("EvoNorm2dB0", 3), True),
    "timm EvoNorm2dS0": (lambda: timm_layer("EvoNorm2dS0", 32), True),
    "timm FilterResponseNormTlu2d": (lambda: timm_layer("FilterResponseNormTlu2d", 3), True),
    "timm GlobalResponseNorm": (lambda: timm_layer("GlobalResponseNorm", 3), True),
    "timm LayerScale": (lambda: timm_layer("LayerScale", 3), False),
    "timm ConvNormAct": (lambda: timm_layer("ConvNormAct", 3, 4), False),
    # of transformers
    "LlamaRMSNorm of transformers": (lambda: hugging_face_layer("llama", "LlamaRMSNorm", 3), True),
    "T5LayerNorm": (lambda: hugging_face_layer("t5", "T5LayerNorm", 3), True),
    "Gemma3RMSNorm": (lambda: hugging_face_layer("gemma3", "Gemma3RMSNorm", 3), True),
    "ConvNextLayerNorm": (lambda: hugging_face_layer("convnext", "ConvNextLayerNorm", 3), True),
    "PoolFormerGroupNorm": (lambda: hugging_face_layer("poolformer", "PoolFormerGroupNorm", 3), True),
    "MambaRMSNorm": (lambda: hugging_face_layer("mamba", "MambaRMSNorm", 3), True),
    # no normalisation layers
    "Linear": (lambda: nn.Linear(3, 3), False),
    "PReLU": (lambda: nn.PReLU(3), False),
    "NormedLinear": (lambda: layer("NormedLinear", weight=(3, 3)), False),
    "NormLinear": (lambda: layer("NormLinear", weight=(3, 3)), False),
    "Linear named NormHead, of one class": (lambda: subclass("NormHead", nn.Linear, 3, 1), False),
    "Conv1d named ConvNorm, of one channel": (lambda: subclass("ConvNorm", nn.Conv1d, 1, 3, 1), False),
    "NormalizedEmbedding": (lambda: subclass("NormalizedEmbedding", nn.Embedding, 5, 3), False),
    "Embedding of one number": (lambda: subclass("EmbeddingNorm", nn.Embedding, 5, 1), False),
    "NormalNoise": (lambda: layer("NormalNoise", std=(3,)), False),
    "BlockPostNorm": (block_with_scale, False),
    "Conv2dNormActivation": (lambda: Conv2dNormActivation(3, 4), False),
}

#: Layers without parameters.
WITHOUT_PARAMETERS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3, affine=False), True),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3), True),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), True),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(2), True),
    "FrozenBatchNorm2d": (lambda: FrozenBatchNorm2d(3), True),
    "Dropout": (nn.Dropout, False),
    "Normalize": (lambda: layer("Normalize"), False),
    "spectral norm of a weight": (spectral_norm, False),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_with_parameters(case: str) -> None:
    make, expected = LAYERS[case]
    made = make()
    assert next(made.parameters(), None) is not None
    assert is_norm_layer(made) is expected


@pytest.mark.parametrize("case", WITHOUT_PARAMETERS)
def test_layers_without_parameters(case: str) -> None:
    make, expected = WITHOUT_PARAMETERS[case]
    made = make()
    assert next(made.parameters(), None) is None
    assert is_norm_layer(made) is expected


@pytest.mark.parametrize("case", LAYERS)
def test_freezer_groups_and_sam_agree(case: str) -> None:
    """What `train_norm=True` trains is what SAM's params="norm" perturbs and what has no weight decay."""
    make, is_norm = LAYERS[case]
    made = make()
    net = nn.ModuleDict({"stem": nn.Linear(3, 3), "layer": made})
    own = {id(parameter) for parameter in made.parameters(recurse=False)}

    schedule = FreezingSchedule.of(net, epochs_by_stages(net, NEVER, 1, 1), train_norm=True)
    trained = {id(parameter) for parameter, epoch in schedule.parameters.items() if epoch == 0}
    assert trained & own == (own if is_norm else set())
    assert (schedule.modules[made] == 0) is is_norm

    assert {id(parameter) for parameter in hpf.norm_parameters(net)} == trained

    decayed = {id(p) for group in parameter_groups(net, 1.0) if "weight_decay" not in group for p in group["params"]}
    assert not decayed & trained
    if not is_norm:  # vectors and biases have no weight decay either
        assert {id(p) for p in made.parameters() if p.ndim > 1} <= decayed


def test_norm_layers_come_with_their_paths() -> None:
    norm = nn.LayerNorm(3)
    net = nn.Sequential(nn.Linear(3, 3), norm, nn.Sequential(nn.BatchNorm1d(3), norm))
    assert [path for path, _ in norm_layers(net)] == ["1", "2.0"]
    assert [path for path, _ in norm_layers(norm)] == [""]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.BatchNorm2d(3), True),
        (lambda: nn.BatchNorm2d(3, track_running_stats=False), False),
        (lambda: nn.InstanceNorm2d(3), False),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), True),
        (inplace_abn, True),
        (lambda: timm_layer("EvoNorm2dB0", 3), True),
        (lambda: nn.LayerNorm(3), False),
        (lambda: nn.Sequential(nn.BatchNorm2d(3)), False),
    ],
)
def test_running_statistics(make: Callable[[], nn.Module], expected: bool) -> None:
    assert has_running_statistics(make()) is expected


@pytest.mark.parametrize("function", [is_norm_layer, has_running_statistics, norm_layers, hpf.norm_parameters])
@pytest.mark.parametrize("wrong", [None, "BatchNorm2d", nn.BatchNorm2d, 3, [], torch.ones(3)])
def test_what_is_no_module_is_refused(function: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match="Expected `module` to be a module, but got"):
        function(wrong)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_are_judged_without_their_shapes() -> None:
    lazy = [nn.LazyBatchNorm1d(), nn.LazyLinear(3), layer("LazyNorm")]
    lazy[2].weight = nn.UninitializedParameter()
    assert [is_norm_layer(each) for each in lazy] == [True, False, True]
