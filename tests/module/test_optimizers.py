"""Parameter groups against a listing, schedules against their formulas, and one error for unknown names."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torchvision
from torch import nn

from lightning_hp.module.optimizers import check_optimizer, optimizer_class
from lightning_hp.module.parameter_groups import parameter_groups
from lightning_hp.module.schedules import Schedule
from lightning_hp.module.weight_decay import undecayed_parameters

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "convnext_tiny"])
def test_groups_are_those_of_a_listing(name):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name)
    part = {"resnet18": "layer4", "vit_b_16": "encoder", "swin_t": "features", "convnext_tiny": "features"}[name]
    groups = parameter_groups(model, lr=0.2, lr_ratios={part: 0.25})
    got = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in got, "twice"
            got[id(parameter)] = (group["lr"], group.get("weight_decay"))
    expected = {}
    for path, layer in model.named_modules():
        for leaf, parameter in layer.named_parameters(recurse=False):
            is_free = isinstance(layer, NORMS) or "bias" in leaf or len(parameter.shape) == 1
            is_free |= leaf in ("class_token", "pos_embedding")
            lr = 0.05 if f"{path}.{leaf}".startswith(f"{part}.") else 0.2
            expected[id(parameter)] = (lr, 0.0 if is_free else None)
    # The tables of Swin's relative positions are biases, and matrices.
    assert got == expected


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch16_dinov3",
        "eva02_tiny_patch14_224",
        "beit_base_patch16_224",
        "xcit_nano_12_p8_224",
        "swinv2_tiny_window8_256",
        "tnt_s_patch16_224",
        "crossvit_9_240",
        "levit_128",
        "resnet18",
        "convnext_atto",
    ],
)
def test_weight_decay_is_that_of_timm(name):
    timm = pytest.importorskip("timm.optim") and pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    wanted = timm.optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=names)
    free = {p for group in wanted if not group["weight_decay"] for p in group["params"]}
    assert free
    wrapped = nn.ModuleDict({"backbone": nn.ModuleDict({"model": model}), "head": nn.Linear(2, 2)})
    more = undecayed_parameters(wrapped) - set(wrapped["head"].parameters()) - free
    assert free <= undecayed_parameters(wrapped)
    # The attention of XCiT names its temperature itself; timm asks the whole model only.
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p in more} <= {"temperature"}


def test_weight_decay_by_names_of_a_part_and_by_an_attribute_of_a_parameter():
    class Part(nn.Linear):
        def no_weight_decay(self):
            return {"weight"}

    model = nn.ModuleDict({"a": Part(2, 2, False), "b": nn.Linear(2, 2, False), "c": nn.Linear(2, 2, False)})
    model["b"].weight._no_weight_decay = True
    assert undecayed_parameters(model) == {model["a"].weight, model["b"].weight}
    model["a"].no_weight_decay = lambda: [3]
    with pytest.raises(TypeError, match=r"Expected `no_weight_decay\(\)` of Part to return names"):
        undecayed_parameters(model)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "resnet50", "deit3_small_patch16_224"])
def test_layer_decay_is_that_of_timm(name):
    """timm's rule on the whole model, its head included, against ours on a backbone and a head."""
    timm = pytest.importorskip("timm.optim") and pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    head = model.get_classifier()
    wanted = {
        p: group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(model, layer_decay=0.5)
        for p in group["params"]
    }
    setattr(model, model.pretrained_cfg["classifier"], nn.Identity())
    both = nn.ModuleDict({"backbone": nn.ModuleDict({"model": model}), "head": head})
    got = {p: group["lr"] for group in parameter_groups(both, 1.0, layer_decay=0.5) for p in group["params"]}
    assert got == wanted


def test_layer_decay_without_a_backbone_and_with_ratios():
    model = nn.Sequential(nn.Linear(2, 2, False), nn.Linear(2, 2, False), nn.Linear(2, 2, False))
    groups = parameter_groups(model, 1.0, {"1": 10.0}, layer_decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [("rest, 0", 0.25), ("1, 1", 5.0), ("rest, 2", 1.0)]


def test_the_longest_path_counts_and_what_is_frozen_is_left_out():
    model = nn.ModuleDict({"body": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    model["head"].bias.requires_grad_(False)
    groups = parameter_groups(model, 1.0, {"body": 0.5, "body.1": 0.25, "head.weight": 2.0}, decay=False)
    assert [(group["name"], group["lr"], len(group["params"])) for group in groups] == [
        ("body", 0.5, 2),
        ("body.1", 0.25, 2),
        ("head.weight", 2.0, 1),
    ]
    assert all("weight_decay" not in group for group in groups)


def test_norms_are_known_by_their_class():
    class Normalized(nn.Linear):
        pass

    model = nn.Sequential(nn.LayerNorm((3, 4)), Normalized(4, 4), nn.GroupNorm(2, 4), nn.RMSNorm((2, 2)))
    free, decayed = parameter_groups(model, 1.0)
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert len(free["params"]) == 6


def test_shared_parameters_come_once_and_a_prefix_of_a_name_is_no_path():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "ab": nn.Linear(3, 3)})
    model["ab"].weight = model["a"].weight
    groups = parameter_groups(model, 1.0, {"a": 0.5}, decay=False)
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.5, 2), (1.0, 1)]


def test_paths_that_name_nothing_and_models_that_are_frozen_are_refused():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="such as backbone, head, but got 'back'"):
        parameter_groups(model, 1.0, {"back": 0.1})
    with pytest.raises(ValueError, match="but all are frozen"):
        parameter_groups(model.requires_grad_(False), 1.0)


def test_every_optimizer_of_torch_that_trains_a_whole_model_is_known():
    known = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and name != "Optimizer"
    } - {"LBFGS", "SparseAdam", "Muon"}
    assert {"AdamW", "SGD", "RMSprop", "Adafactor"} <= known
    for name in known:
        assert optimizer_class(name.upper()).__name__ == name
        assert type(check_optimizer(name, 0.1, None, {})).__name__ == name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("AdamV", 0.1, None, {}), ValueError, r"such as Adam.*, but got 'AdamV'\. Override `configure_optimizers`"),
        (("LBFGS", 0.1, None, {}), ValueError, "but got 'LBFGS'"),
        ((torch.optim.SGD, 0.1, None, {}), TypeError, "Expected `optimizer` to be a name"),
        (("SGD", 0.1, None, {"momentun": 0.9}), ValueError, "that SGD takes, .*momentun"),
        (("SGD", 0.1, -1.0, {}), ValueError, "that SGD takes, .*weight_decay"),
        (("Rprop", 0.1, 0.1, {}), ValueError, "that Rprop takes, .*weight_decay"),
        (("SGD", 0.1, None, {"lr": 1.0}), ValueError, "without 'lr', which is `lr`"),
    ],
)
def test_optimizers_are_refused_with_one_sentence(arguments, error, message):
    with pytest.raises(error, match=message):
        check_optimizer(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "CosineAnealing"}, "such as Cosine.*, but got 'CosineAnealing'"),
        ({"name": "LambdaLR"}, "but got 'LambdaLR'"),
        ({"name": "StepLR"}, "arguments that StepLR takes.*step_size"),
        ({"name": "StepLR", "options": {"step_sise": 3}}, "arguments that StepLR takes.*step_sise"),
        ({"name": "OneCycleLR", "options": {"max_lr": 1.0}}, "without 'max_lr', which is `lr`"),
        ({"name": "OneCycleLR", "options": {"interval": "epoch"}}, "the interval 'step' for OneCycleLR"),
        ({"name": "OneCycleLR", "warmup_steps": 5}, "`warmup_steps` to be 0 for OneCycleLR, .* see its `pct_start`"),
        ({"name": None, "options": {"T_max": 3}}, "a `scheduler` for `scheduler_options` .*T_max"),
        (
            {"name": None, "warmup_steps": -1},
            "`warmup_steps` to be an int >= 0, or a fraction of the training < 1, but got -1",
        ),
        ({"name": None, "warmup_steps": 2.5}, "but got 2.5"),
        (
            {"name": "StepLR", "options": {"step_size": 1, "interval": "batch"}},
            "'interval'.* 'step', 'epoch', but got 'batch'",
        ),
    ],
)
def test_schedules_are_refused_with_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments).check(check_optimizer("SGD", 0.1, None, {"momentum": 0.9}))


def _rates(schedule, steps, lrs=(0.1, 0.02)):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    configs = schedule.build(optimizer, {"step": steps, "epoch": 4}.__getitem__)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        for config in configs:
            config["scheduler"].step()
    return rates, configs


def test_cosine_over_the_training_with_warmup_is_its_formula():
    rates, configs = _rates(Schedule("cosineannealinglr", warmup_steps=10), 50)
    assert [config["interval"] for config in configs] == ["step", "step"]
    for step, row in enumerate(rates):
        factor = min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / 50)) / 2
        assert row == pytest.approx([0.1 * factor, 0.02 * factor], rel=1e-9)


def test_warmup_without_a_schedule_and_as_a_fraction():
    rates, _ = _rates(Schedule(None, warmup_steps=0.1), 50)
    assert [row[0] for row in rates[:7]] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])


def test_one_cycle_peaks_at_the_rate_of_each_group():
    rates, configs = _rates(Schedule("OneCycleLR", {"pct_start": 0.5}), 40)
    assert max(row[0] for row in rates) == pytest.approx(0.1, rel=0.01)
    assert [row[0] / row[1] for row in rates] == pytest.approx([5.0] * 40)
    assert configs[0]["scheduler"].total_steps == 40


def test_cyclic_swings_up_to_the_rate_of_each_group():
    rates, _ = _rates(Schedule("CyclicLR", {"step_size_up": 5}), 20)
    assert [max(column) for column in zip(*rates, strict=True)] == pytest.approx([0.1, 0.02])
    assert [min(column) for column in zip(*rates, strict=True)] == pytest.approx([0.025, 0.005])


def test_lengths_and_intervals():
    assert _rates(Schedule("CosineAnnealingLR", {"T_max": 7}), 9)[1][0]["interval"] == "epoch"
    config = _rates(Schedule("CosineAnnealingLR", {"interval": "epoch"}), 9)[1][0]
    assert config["interval"] == "epoch"
    assert config["scheduler"].T_max == 4
    assert _rates(Schedule("LinearLR", {"start_factor": 1.0, "end_factor": 0.0}), 9)[1][0]["scheduler"].total_iters == 9
    assert _rates(Schedule("ExponentialLR", {"gamma": 0.5}), 2)[1][0]["interval"] == "epoch"
    optimizer = check_optimizer("SGD", 0.1, None, {})
    config = Schedule("ReduceLROnPlateau", {"mode": "max", "monitor": "val_f1"}).build(optimizer, dict.__getitem__)[0]
    assert config["monitor"] == "val_f1"
    assert config["scheduler"].mode == "max"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("StepLR", {"step_size": "3"}, TypeError, r"`scheduler_options\['step_size'\]` to be an int, but got '3'"),
        ("StepLR", {"step_size": 2.5}, TypeError, "to be an int, but got 2.5"),
        ("StepLR", {"step_size": 2, "gamma": None}, TypeError, "to be a number, but got None"),
        ("StepLR", {"step_size": 0}, ValueError, "arguments that StepLR takes with this optimizer"),
        ("CosineAnnealingLR", {"T_max": "3"}, TypeError, "to be an int, but got '3'"),
        ("CosineAnnealingLR", {"eta_min": "1e-6"}, TypeError, "to be a number, but got '1e-6'"),
        ("MultiStepLR", {"milestones": "35"}, TypeError, "to be a list of ints, but got '35'"),
        ("MultiStepLR", {"milestones": ["3"]}, TypeError, "to be a list of ints"),
        ("ReduceLROnPlateau", {"patience": "3"}, TypeError, "to be an int, but got '3'"),
        ("ReduceLROnPlateau", {"mode": "low"}, ValueError, "to be 'min' or 'max', but got 'low'"),
        ("CyclicLR", {"step_size_up": "3"}, TypeError, "to be an int, but got '3'"),
        ("OneCycleLR", {"three_phase": "no"}, TypeError, "to be True or False, but got 'no'"),
    ],
)
def test_a_schedule_says_what_is_wrong_with_an_option_before_fit(name, options, error, message):
    with pytest.raises(error, match=message):
        Schedule(name, options).check(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MultiStepLR", {"milestones": (3, 5)}),
        ("CyclicLR", {"step_size_down": None, "base_lr": [0.1], "mode": "triangular2"}),
        ("CyclicLR", {"scale_fn": lambda x: x}),
        ("ReduceLROnPlateau", {"min_lr": 1}),
        ("OneCycleLR", {"total_steps": 1}),
    ],
)
def test_right_options_of_a_schedule(name, options):
    Schedule(name, options).check(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"momentum": "0.9"}, r"`optimizer_options\['momentum'\]` to be a number, but got '0.9'"),
        ("SGD", {"nesterov": "no"}, "to be True or False, but got 'no'"),
        ("AdamW", {"betas": "ab"}, "to be a list of numbers"),
        ("AdamW", {"eps": "1e-6"}, "to be a number, but got '1e-6'"),
    ],
)
def test_an_option_of_an_optimizer_of_a_wrong_kind(name, options, message):
    with pytest.raises(TypeError, match=message):
        check_optimizer(name, 0.1, None, options)
    check_optimizer("AdamW", 0.1, None, {"betas": [0.9, 0.99], "foreach": None})
