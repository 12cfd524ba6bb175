"""Blocks, stages, and first epochs of parameters and modules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, densenet121, mobilenet_v3_small, resnet18, swin_t, vgg11, vgg11_bn
from torchvision.models.vision_transformer import VisionTransformer

from lightning_hp.functional.norm_layers import is_norm_layer
from lightning_hp.nn import Backbone
from lightning_hp.nn.freezing.blocks import blocks_of, stages_of
from lightning_hp.nn.freezing.freezer import Freezer
from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule, epochs_by_names, epochs_by_stages


def names(stages: list[Any]) -> list[list[str]]:
    return [[name for name, _ in stage] for stage in stages]


def name_to_epoch(module: nn.Module, epochs: Any) -> dict[str, float]:
    return {name: epochs[parameter] for name, parameter in module.named_parameters()}


def test_a_resnet_is_divided_between_its_residual_blocks() -> None:
    net = resnet18()
    net.fc = nn.Identity()
    layers = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    assert [name for name, _ in blocks_of(net)] == ["conv1", *layers]
    assert names(stages_of(net, 3)) == [layers[5:], layers[2:5], ["conv1", *layers[:2]]]
    # The batch norm after the first convolution belongs to its block.
    assert dict(blocks_of(net))["conv1"] == [net.conv1.weight, net.bn1.weight, net.bn1.bias]


def test_a_transformer_is_divided_between_its_layers() -> None:
    net = VisionTransformer(image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32)
    net.heads = nn.Identity()
    blocks = dict(blocks_of(net))
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    assert list(blocks) == ["conv_proj", *layers]
    owns = {name: {id(parameter) for parameter in parameters} for name, parameters in blocks.items()}
    assert id(net.class_token) in owns["conv_proj"]
    assert id(net.encoder.pos_embedding) in owns[layers[0]]
    assert id(net.encoder.ln.weight) in owns[layers[2]]


def test_the_layers_of_a_hugging_face_model_are_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    found = [name for name, _ in blocks_of(transformers.BertModel(config, add_pooling_layer=False))]
    assert found == ["embeddings", *(f"encoder.layer.{i}" for i in range(4))]


@pytest.mark.parametrize(
    ("build", "num_blocks"),
    [
        (swin_t, 12 + 3 + 1),
        (convnext_tiny, 18 + 1 + 3),
        (mobilenet_v3_small, 13),
        (densenet121, 1 + 4 + 3),
        (vgg11_bn, 8),
    ],
)
def test_the_layers_of_other_networks_are_blocks(build: Any, num_blocks: int) -> None:
    """The numbers are from the tables of the papers: layers, the stem, and downsampling layers."""
    with torch.device("meta"):
        net = build()
    for head in ("head", "classifier"):
        if hasattr(net, head):
            setattr(net, head, nn.Identity())
    assert len(blocks_of(net)) == num_blocks, [name for name, _ in blocks_of(net)]


@pytest.mark.parametrize("build", [resnet18, vgg11, lambda: nn.Linear(2, 2), lambda: nn.GRU(2, 2, 2)])
def test_every_parameter_is_in_one_block(build: Any) -> None:
    with torch.device("meta"):
        net = build()
    found = [id(parameter) for _, parameters in blocks_of(net) for parameter in parameters]
    assert sorted(found) == sorted(map(id, net.parameters()))
    for num_stages in range(1, len(blocks_of(net)) + 1):
        stages = stages_of(net, num_stages)
        sizes = [len(stage) for stage in stages]
        assert len(stages) == num_stages
        assert max(sizes) - min(sizes) <= 1
        assert [name for stage in reversed(names(stages)) for name in stage] == [name for name, _ in blocks_of(net)]


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected `stages` <= 2, the number of blocks \(0, 1\), but got 3"):
        stages_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 3)


def test_stages_come_one_after_the_other() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    epochs = name_to_epoch(net, epochs_by_stages(net, 2, 3, 4))
    assert epochs == {"0.weight": 10, "0.bias": 10, "1.weight": 6, "1.bias": 6, "2.weight": 2, "2.bias": 2}


def test_names_are_relative_to_the_backbone_or_the_model_in_it() -> None:
    backbone = Backbone(resnet18(num_classes=5))
    plan = {1: "layer4", 2: ["model.layer3", "layer2.0.*.weight"]}
    epochs = name_to_epoch(backbone, epochs_by_names(backbone, plan))
    assert {name for name, epoch in epochs.items() if epoch == 1} == {n for n in epochs if ".layer4." in n}
    assert epochs["model.layer3.1.bn1.bias"] == 2
    assert epochs["model.layer2.0.conv1.weight"] == 2
    assert epochs["model.layer2.0.bn1.bias"] == NEVER
    with pytest.raises(ValueError, match=r"Expected names inside the backbone \(conv1, bn1, layer1, .*'layer5'"):
        epochs_by_names(backbone, {1: "layer4", 2: "layer5"})


def test_a_star_is_everything_else() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for plan in ({7: "*", 3: "1"}, {3: "*", 7: "0"}, {7: ["0", "*"], 3: ["1.*"]}):
        assert list(epochs_by_names(net, plan).values()) == [7, 7, 3, 3]


@pytest.mark.parametrize("plan", [{1: "1", 3: "1"}, {1: "1", 3: "1.weight"}, {1: "*.weight", 3: ["0.bias", "1"]}])
def test_a_parameter_that_two_epochs_name_is_refused(plan: Any) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r"Expected each parameter at one epoch, but '1.weight' is in '.*' at 1 and in"
    ):
        epochs_by_names(net, plan)


def test_a_shared_parameter_is_trained_with_the_later_stage() -> None:
    shared = nn.Linear(2, 2)
    net = nn.Sequential(nn.Sequential(shared), nn.Sequential(nn.Linear(2, 2), shared))
    for epochs in (epochs_by_stages(net, 1, 2, 1), epochs_by_names(net, {1: "1", 2: "0"})):
        assert epochs[shared.weight] == 2
        schedule = FreezingSchedule.of(net, epochs, train_norm=False)
        assert schedule.modules[shared] == 2


def test_parameters_with_equal_values_are_distinguished() -> None:
    """Lightning's BackboneFinetuning drops parameters whose values equal those of another."""
    net = nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(3)))
    assert len(epochs_by_names(net, {1: "2", 2: "1"})) == 6
    assert list(epochs_by_names(net, {1: "2", 2: "1"}).values()) == [NEVER, NEVER, 2, 2, 1, 1]


def test_a_module_is_trained_when_all_its_parameters_are() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2), nn.Dropout())
    modules = FreezingSchedule.of(net, epochs_by_names(net, {1: "2", 3: "1.0.bias"}), train_norm=False).modules
    assert [modules[net[i]] for i in range(4)] == [NEVER, NEVER, 1, 1]
    assert modules[net[1][1]] == NEVER
    modules = FreezingSchedule.of(net, epochs_by_names(net, {1: "2", 3: "1"}), train_norm=False).modules
    assert [modules[net[i]] for i in range(4)] == [3, 3, 1, 1]
    assert modules[net] == 3


def test_norm_layers_can_be_trained_from_the_start() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    schedule = FreezingSchedule.of(net, epochs_by_stages(net, 4, 1, 1), train_norm=True)
    parameters, modules = schedule.frozen(0)
    assert {id(p) for p in parameters} == {id(p) for layer in (net[0], net[3]) for p in layer.parameters()}
    assert modules == [net, net[0], net[2], net[3]]
    assert schedule.unfreezing_epochs == [4]
    assert schedule.frozen(4) == ([], [])


def test_norm_layers_are_known_by_name() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    class ConvNormActivation(nn.Sequential):
        pass

    assert is_norm_layer(LlamaRMSNorm())
    assert is_norm_layer(nn.BatchNorm2d(3, affine=False))
    assert not is_norm_layer(ConvNormActivation(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))


def test_never_is_after_every_epoch() -> None:
    net = nn.Linear(2, 2)
    schedule = FreezingSchedule.of(net, epochs_by_stages(net, NEVER, 1, 1), train_norm=False)
    assert schedule.unfreezing_epochs == []
    assert len(schedule.frozen(10**9)[0]) == 2
    assert math.isinf(NEVER)


def test_the_freezer_restores_what_it_froze_and_nothing_else() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
    net[0].weight.requires_grad_(False)  # frozen by the user
    net[1].eval()  # frozen by the user
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    freezer = Freezer()
    freezer.freeze(net.parameters(), list(net.modules()))
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert [parameter.grad is None for parameter in net.parameters()] == [False, True, True, True]
    net.train()
    freezer.restore_eval_mode()
    assert not any(module.training for module in net.modules())
    freezer.freeze(net[0].parameters(), [net[0], net[1]])
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, False, True, True]
    assert [module.training for module in net] == [False, False, True, True]
    freezer.unfreeze()
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, True, True, True]
    assert [module.training for module in net] == [True, False, True, True]
