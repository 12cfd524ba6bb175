"""Classifier: its configuration in checkpoints and YAML, its backbones, the callbacks of its arguments."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_hp
from lightning_hp import SAM, Backbone, BatchSizeScaler, Classifier, ClassifierHead, LRFinder
from lightning_hp.module.classifier import _CALLBACKS
from lightning_hp.module.plain_types import to_plain_types
from lightning_hp.nn.activations import activation_text, new_activation
from tests.data.wrong_values import WRONG_IDS, WRONG_VALUES
from tests.distributed.launch import check_both
from tests.forked import run_forked
from tests.module.models import FEATURES, NN_OPTIONS_DICT, DataModule, Mappings, body, loader, pairs, quiet
from tests.training import NUM_CLASSES, assert_identical, assert_same_training, train

NET = "squeezenet1_1"


def classifier(**kwargs):
    torch.manual_seed(2)
    return Classifier(body(), **{"num_classes": NUM_CLASSES, "head_options": NN_OPTIONS_DICT, "lr": 0.05, **kwargs})


def images(num_samples=8):
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(num_samples, 3, 32, 32, generator=generator), torch.arange(num_samples) % 3)
    return DataLoader(data, batch_size=4)


def test_it_is_its_two_halves():
    torch.manual_seed(0)
    model = Classifier(NET, 5, NN_OPTIONS_DICT, pretrained=False)
    torch.manual_seed(0)
    backbone = Backbone(NET, pretrained=False)
    head = ClassifierHead(backbone.feature_dim, 5, **NN_OPTIONS_DICT)
    assert_identical(model.backbone.state_dict(), backbone.state_dict(), "backbone")
    assert_identical(model.head.state_dict(), head.state_dict(), "head")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), head.eval()(backbone.eval()(x)))


def test_hyperparameters_are_of_plain_types_whatever_was_given():
    model = Classifier(
        torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
        num_classes=np.int64(3),
        pretrained=False,
        head_options={**NN_OPTIONS_DICT, "activation_fn": nn.LeakyReLU(0.2), "class_prior": torch.tensor([1, 2, 1])},
        lr=np.float64(0.1),
        lr_ratios={"backbone": np.float32(0.5)},
        class_weights=np.array([1.0, 2.0, 3.0]),
        scheduler="StepLR",
        scheduler_options={"step_size": np.int32(3), "monitor": "val_f1"},
    )
    hparams = dict(model.hparams)
    assert json.loads(json.dumps(hparams)) == hparams
    assert yaml.safe_load(yaml.safe_dump(hparams)) == hparams
    assert hparams["backbone"] == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert hparams["head_options"]["activation_fn"] == "LeakyReLU(negative_slope=0.2)"
    assert hparams["head_options"]["class_prior"] == [1, 2, 1]
    assert hparams["scheduler_options"] == {"step_size": 3, "monitor": "val_f1"}
    assert classifier().hparams.pretrained is False  # a module may have its weights from anywhere
    again = Classifier(**hparams)
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.GELU("tanh"), nn.LeakyReLU(0.2), nn.PReLU(2, 0.1), nn.Softplus(2.0), nn.Hardtanh(-2, 2), nn.SiLU],
)
def test_activations_survive_as_text(activation):
    text = activation_text(activation)
    z = torch.randn(4, 2)
    original = activation() if isinstance(activation, type) else activation
    assert torch.equal(new_activation(text)(z), original(z))
    assert to_plain_types("x", {"activation_fn": activation}) == {"activation_fn": text}


def test_activations_without_a_text_are_refused():
    class Mine(nn.Module):
        def forward(self, z):
            return z

    trained = nn.PReLU()
    trained.weight.data += 1
    for activation in (Mine(), Mine, trained, nn.Softmax(-1)):
        with pytest.raises(ValueError, match=r"an activation of torch\.nn that has not been trained"):
            to_plain_types("head_options", {"activation_fn": activation})
    for text in ("LeakyReLU(", "LeakyReLU(x)", "LeakyReLU(0.1, 2, 3)", "ReLU(print(1))", "ReLU()()"):
        with pytest.raises(ValueError, match="a name with arguments that it takes"):
            new_activation(text)
    with pytest.raises(TypeError, match=r"Expected `head_options\['x'\]` to be numbers, strings"):
        to_plain_types("head_options", {"x": object()})


def test_checkpoint_is_loaded_safely_in_a_fresh_process(tmp_path):
    model = Classifier(NET, 3, NN_OPTIONS_DICT, pretrained=False, lr_ratios={"backbone": 0.1}, find_lr={"zoom": False})
    checkpoint = ModelCheckpoint(tmp_path, "model", save_weights_only=False)
    trainer = pl.Trainer(callbacks=[checkpoint], **quiet(max_steps=2, enable_checkpointing=True, max_epochs=1))
    model.hparams.find_lr = False
    trainer.fit(model, images(), images())
    path = tmp_path / "model.ckpt"
    # Raises if anything in it is more than numbers and texts.
    assert torch.load(path, weights_only=True)["hyper_parameters"] == dict(model.hparams)
    x = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    code = f"""
import torch
from lightning_hp import Classifier
model = Classifier.load_from_checkpoint({str(path)!r}, map_location="cpu").eval()
x = torch.linspace(-1, 1, {x.numel()}).reshape(2, 3, 32, 32)
print(model(x).tolist(), model.hparams.lr_ratios, model.batch_size)
"""
    assert run_forked(code, tmp_path) == f"{model.cpu().eval()(x).tolist()} {{'backbone': 0.1}} 4"


def test_loading_fetches_no_pretrained_weights_and_remembers_that_there_were_some(tmp_path, monkeypatch):
    model = Classifier(NET, 3, pretrained=False)
    model.hparams["pretrained"] = True
    trainer = pl.Trainer(**quiet(fast_dev_run=1))
    trainer.fit(model, images(), images())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: pytest.fail("fetched"))
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.hparams.pretrained is True
    assert_identical(loaded.state_dict(), model.state_dict(), "weights")
    with pytest.raises(ValueError, match="no such"):
        Classifier.load_from_checkpoint(tmp_path / "model.ckpt", head_options={"activation_fn": "no such"})
    with pytest.raises(pytest.fail.Exception, match="fetched"):  # after a load that failed, too
        Classifier(NET, 3)


def test_a_module_as_backbone_is_given_again(tmp_path):
    mine = body()
    before = copy.deepcopy(mine.state_dict())
    model = Classifier(mine, NUM_CLASSES, lr=0.1)
    trainer = pl.Trainer(**quiet())
    trainer.fit(model, loader(), loader())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert_identical(mine.state_dict(), before, "the user's module")
    assert model.hparams.backbone == "<Sequential>"
    with pytest.raises(ValueError, match=r"but got '<Sequential>'.*load_from_checkpoint\(path, backbone=module\)"):
        Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt", backbone=body())
    assert_identical(loaded.state_dict(), model.state_dict(), "weights")
    ready = Backbone(body(), head=None)
    assert Classifier(ready, 3).backbone is ready
    assert Classifier(ready, 3).hparams.backbone == "<Backbone Sequential>"


def test_subclasses_save_and_load(tmp_path):
    class Wider(Classifier):
        def __init__(self, width=32, **kwargs):
            super().__init__(head_options={"n_hidden_units": width}, **kwargs)
            self.save_hyperparameters("width")

    model = Wider(width=7, backbone=NET, num_classes=3, pretrained=False)
    assert model.head.hidden[0].out_features == 7
    assert model.hparams.width == 7


def test_it_copies_and_pickles():
    model = classifier(scheduler="OneCycleLR", class_weights=[1.0, 2.0, 1.0])
    x = pairs().tensors[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.eval()(x), model.eval()(x))
        assert twin.hparams == model.hparams
        twin.lr = 1.0
        assert model.lr == 0.05


def test_learning_rate_and_batch_size_are_hyperparameters_and_nothing_beside_them():
    model = classifier(batch_size=8)
    model.lr = 0.25
    assert model.hparams.lr == 0.25
    model.hparams.batch_size = 4
    assert model.batch_size == 4


SGD = {"lr_ratios": {"backbone": 0.1}, "optimizer": "SGD", "optimizer_options": {"momentum": 0.9}}


@pytest.mark.parametrize("scheduler", [None, "OneCycleLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
def test_ratios_are_kept_when_a_rate_is_found(scheduler):
    finder = LRFinder(min_lr=1e-4, num_training_steps=70)
    found = train(
        classifier(scheduler=scheduler, **SGD), [finder], loader(shuffle=True), val_loader=loader(), max_epochs=3
    )
    assert finder.optimal_lr == found.module.lr == found.module.hparams.lr != 0.05
    typed = train(
        classifier(scheduler=scheduler, lr=finder.optimal_lr, **SGD),
        loader=loader(shuffle=True),
        val_loader=loader(),
        max_epochs=3,
    )
    for part in ("weights", "optimizer", "schedulers", "streams"):
        assert_identical(getattr(found, part), getattr(typed, part), part)
    groups = {group["name"]: group["lr"] for group in found.trainer.optimizers[0].param_groups}
    assert groups["backbone"] == pytest.approx(0.1 * groups["rest"])


def test_a_rehearsal_leaves_no_trace():
    unobserved = train(classifier(**SGD), loader=loader(shuffle=True), val_loader=loader())
    finder = LRFinder(min_lr=1e-4, num_training_steps=70, update_attr=False)
    scaler = BatchSizeScaler(max_val=32, limits={"min_steps_per_epoch": 1, "min_training_steps": 1}, update_attr=False)
    watched = train(classifier(**SGD), [scaler, finder], loader(shuffle=True), val_loader=loader())
    assert finder.result is not None
    assert scaler.result is not None
    assert_same_training(unobserved, watched)


def test_batch_size_is_found_in_the_datamodule_and_in_the_model():
    scaler = BatchSizeScaler(min_per_class=8, max_val=24, limits={"min_steps_per_epoch": 1, "min_training_steps": 1})
    model, datamodule = classifier(batch_size=16), DataModule(batch_size=16)
    train(model, [scaler], datamodule=datamodule)
    assert scaler.optimal_batch_size == model.batch_size == datamodule.hparams.batch_size == 24
    assert model.lr == 0.05 * (24 / 16) ** 0.5  # AdamW: by the square root


@pytest.mark.parametrize("given", [None, 7])
def test_batch_size_that_is_used_is_recorded(given):
    model = classifier(batch_size=given)
    train(model, loader=loader(batch_size=12), val_loader=loader())
    assert model.batch_size == 12
    model = classifier(batch_size=given)  # a datamodule with another batch size is no error, as it is in Lightning
    train(model, datamodule=DataModule(batch_size=8))
    assert model.batch_size == 8


def test_arguments_do_the_same_as_callbacks():
    small = {"min_lr": 1e-4, "num_training_steps": 70}
    few = {"min_per_class": 8, "max_val": 24, "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}}
    by_argument = train(
        classifier(find_batch_size=few, find_lr=small, **SGD), loader=loader(shuffle=True), val_loader=loader()
    )
    tuners = [one for one in by_argument.trainer.callbacks if isinstance(one, (BatchSizeScaler, LRFinder))]
    assert [type(callback) for callback in tuners] == [BatchSizeScaler, LRFinder]
    by_callback = train(
        classifier(**SGD), [BatchSizeScaler(**few), LRFinder(**small)], loader(shuffle=True), val_loader=loader()
    )
    assert by_argument.module.lr == by_callback.module.lr == tuners[1].optimal_lr
    assert_identical(by_argument.weights, by_callback.weights, "weights")


def test_callbacks_of_the_arguments(monkeypatch):
    class Sharp(SAM):
        def __init__(self, rho=0.05):
            super().__init__(rho)
            self.rho = rho

    monkeypatch.setitem(_CALLBACKS, "sam", Sharp)
    callbacks = classifier(find_lr=True, sam={"rho": 0.1}).configure_callbacks()
    assert [type(callback) for callback in callbacks] == [LRFinder, Sharp]
    assert callbacks[1].rho == 0.1
    assert classifier(sam=True).configure_callbacks()[0].rho == 0.05
    assert classifier().configure_callbacks() == []


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_goes_on_as_an_uninterrupted_one(tmp_path):
    recipe = {"scheduler": "OneCycleLR", "find_lr": {"min_lr": 1e-4, "num_training_steps": 70}, **SGD}
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = train(
        classifier(**recipe), [checkpoint], loader(), val_loader=loader(), max_epochs=4, enable_checkpointing=True
    )
    resumed = train(
        classifier(**recipe),
        [ModelCheckpoint(tmp_path / "resumed", "{epoch}", save_top_k=-1)],
        loader(),
        val_loader=loader(),
        max_epochs=4,
        enable_checkpointing=True,
        ckpt_path=tmp_path / "epoch=1.ckpt",
    )
    assert resumed.module.lr == whole.module.lr != 0.05
    for part in ("weights", "optimizer", "schedulers"):
        assert_identical(getattr(whole, part), getattr(resumed, part), part)


CLI = {"save_config_callback": None, "seed_everything_default": False}
CONFIG = f"""
trainer: {{max_steps: 3, accelerator: cpu, logger: false, enable_checkpointing: false, enable_progress_bar: false,
  enable_model_summary: false}}
model:
  backbone:
    class_path: tests.module.models.Body
  num_classes: {NUM_CLASSES}
  head_options: {{n_hidden_units: 16, activation_fn: LeakyReLU(0.2)}}
  lr: 1e-2
  optimizer: SGD
  optimizer_options: {{momentum: 0.9}}
  lr_ratios: {{backbone: 0.1}}
  scheduler: OneCycleLR
  scheduler_options: {{pct_start: 0.4, interval: step}}
  backbone_options: {{pooling: auto}}
  find_lr: {{min_lr: 1e-4, num_training_steps: 70}}
data:
  batch_size: 16
"""


@pytest.fixture
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test"])


@pytest.mark.usefixtures("no_arguments")
def test_lightning_cli_builds_it_from_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    cli = LightningCLI(
        Classifier,
        DataModule,
        args=["fit", "--config", str(path)],
        save_config_callback=None,
        seed_everything_default=False,
    )
    assert cli.trainer.global_step == 3
    assert cli.model.head.hidden[1].negative_slope == 0.2
    assert cli.model.hparams.optimizer_options == {"momentum": 0.9}
    assert cli.model.hparams.scheduler_options == {"pct_start": 0.4, "interval": "step"}
    assert cli.model.hparams.backbone_options == {"pooling": "auto"}
    assert cli.model.hparams.backbone == "<Body>"
    assert cli.model.batch_size == 16
    finder = next(callback for callback in cli.trainer.callbacks if isinstance(callback, LRFinder))
    assert finder.result is not None
    assert json.loads(json.dumps(dict(cli.model.hparams))) == dict(cli.model.hparams)


@pytest.mark.usefixtures("no_arguments")
def test_lightning_cli_takes_a_backbone_by_name(tmp_path):
    path = tmp_path / "config.yaml"
    model = {"backbone": NET, "num_classes": 3, "pretrained": False, "lr_ratios": {"backbone": 0.1}}
    path.write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    cli = LightningCLI(
        Classifier,
        DataModule,
        args=["--config", str(path)],
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
    )
    assert cli.model.hparams.backbone == NET
    trainer = pl.Trainer(**quiet(max_epochs=1))
    trainer.fit(cli.model, images(), images())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert_identical(loaded.state_dict(), cli.model.state_dict(), "weights")


def test_texts_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=FEATURES, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = Classifier(transformers.BertModel(config), NUM_CLASSES, lr_ratios={"backbone": 0.1})
    trainer = pl.Trainer(**quiet(max_epochs=1))
    trainer.fit(model, DataLoader(Mappings(), batch_size=8), DataLoader(Mappings(), batch_size=8))
    probabilities = torch.cat(trainer.predict(model, DataLoader(Mappings(), batch_size=8)))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"head_options": {"n_hiden_units": 3}},
            ValueError,
            "with keys from .*n_hidden_units, .* but got the key 'n_hiden_units'",
        ),
        ({"head_options": {"task": "binary"}}, ValueError, "with keys from n_hidden_layers, .* but got the key 'task'"),
        ({"head_options": [1]}, TypeError, "Expected `head_options` to be a dict of arguments of ClassifierHead"),
        (
            {"backbone_options": {"pool": "max"}},
            ValueError,
            "with keys from head, pooling, feature_dim, but got the key 'pool'",
        ),
        ({"backbone_options": "max"}, TypeError, "Expected `backbone_options` to be a dict of arguments of Backbone"),
        ({"lr_ratios": {"body": 0.1}}, ValueError, "such as backbone, head, but got 'body'"),
        ({"find_lr": {"min_lr": -1}}, ValueError, "`find_lr` to be arguments of LRFinder, but got .*: .*min_lr"),
        ({"sam": {"rhoo": 1}}, TypeError, "`sam` to be arguments of SAM, but got .*'rhoo'"),
        ({"find_lr": 3}, TypeError, "`find_lr` to be True, False or a dictionary of arguments of LRFinder, but got 3"),
        ({"batch_size": 0}, ValueError, "`batch_size` to be an int >= 1"),
        ({"pretrained": "no"}, TypeError, "`pretrained` to be True or False, but got 'no'"),
        ({"optimizer": "AdamWW"}, ValueError, "`optimizer` to be a name of torch.optim, such as AdamW"),
        ({"backbone": "<Net>"}, ValueError, "whose backbone was a module"),
        ({"backbone": 3}, TypeError, "`backbone` to be the name of a model"),
    ],
)
def test_arguments_are_refused_before_the_backbone_is_made(arguments, error, message, monkeypatch):
    if "lr_ratios" not in arguments:
        monkeypatch.setattr("lightning_hp.nn.backbone.backbone.load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(error, match=message):
        Classifier(**{"backbone": NET, "num_classes": 3, "pretrained": False, **arguments})


#: Values of `WRONG_VALUES` that are right for some arguments, by the beginnings of their names.
ALLOWED = {
    "batch_size": ("NoneType", "Tensor", "ndarray-14"),
    "class_weights": ("NoneType",),
    "find_batch_size": ("bool", "dict"),
    "find_lr": ("bool", "dict"),
    "head_options": ("NoneType", "dict"),
    "layer_decay": ("NoneType",),
    "lr": ("float-3", "Fraction", "Tensor", "ndarray-14"),
    "num_classes": ("Tensor", "ndarray-14"),
    "pretrained": ("bool",),
    "sam": ("bool", "dict"),
    "scheduler": ("NoneType",),
    "top_k": ("NoneType", "Tensor", "ndarray-14"),
    "warmup_steps": ("Tensor", "ndarray-14"),
    "weight_decay": ("NoneType", "float-3", "Fraction", "Tensor", "ndarray-14"),
} | dict.fromkeys(("backbone_options", "lr_ratios", "optimizer_options", "scheduler_options"), ("NoneType", "dict"))


@pytest.mark.parametrize(("value", "name"), [*zip(WRONG_VALUES, WRONG_IDS, strict=True)], ids=WRONG_IDS)
@pytest.mark.parametrize("argument", inspect.signature(Classifier).parameters)
def test_every_argument_is_checked(argument, value, name):
    arguments = {"backbone": body(), "num_classes": NUM_CLASSES, argument: value}
    if name.startswith(ALLOWED.get(argument, ("never",))):
        model = Classifier(**arguments)
        assert json.loads(json.dumps(dict(model.hparams))) == model.hparams
        return
    with pytest.raises((TypeError, ValueError), match="Expected ") as caught:
        Classifier(**arguments)
    if argument != "backbone" or not isinstance(value, str):  # the message of Backbone: no such model
        assert f"`{argument}`" in str(caught.value)


def test_assigned_values_are_checked():
    model = classifier()
    with pytest.raises(ValueError, match="Expected `lr` to be a finite number > 0, but got 0"):
        model.lr = 0
    with pytest.raises(TypeError, match="Expected `batch_size` to be an int >= 1, or None, but got 3"):
        model.batch_size = 3.0
    model.lr, model.batch_size = np.float64(0.5), np.int64(8)
    assert [type(model.hparams.lr), type(model.hparams.batch_size)] == [float, int]


def test_options_of_the_backbone():
    mine = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    model = Classifier(mine, 3, backbone_options={"head": None, "pooling": "max"})
    assert model.backbone.pooling == "max"
    assert model.hparams.backbone_options == {"head": None, "pooling": "max"}
    with pytest.raises(ValueError, match="Expected no `backbone_options` for a Backbone that is built already"):
        Classifier(model.backbone, 3, backbone_options={"pooling": "max"})


def test_the_usual_arguments_come_first():
    usual = ["backbone", "num_classes", "head_options", "lr", "batch_size", "optimizer", "weight_decay", "scheduler"]
    assert list(inspect.signature(Classifier).parameters)[: len(usual)] == usual


def test_the_package_of_the_classifier_exports_it():
    assert lightning_hp.module.Classifier is Classifier
    assert lightning_hp.module.ClassifierMixin is lightning_hp.ClassifierMixin
    assert set(lightning_hp.module.__all__) <= set(dir(lightning_hp.module))
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        _ = lightning_hp.module.Classifer


@pytest.mark.parametrize(("task", "count", "outputs"), [("binary", 2, 1), ("multilabel", 3, 3)])
def test_other_tasks(task, count, outputs):
    model = classifier(num_classes=count, task=task, class_weights=[1.5] * outputs, lr=0.03)
    assert model.head.out_features == outputs
    run = train(model, loader=loader(shuffle=True, task=task), val_loader=loader(task=task), max_epochs=8)
    assert run.trainer.callback_metrics["val_accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["ddp", "balanced"])
def test_two_processes_log_and_weight_the_samples_of_both(scenario, tmp_path):
    check_both(scenario, tmp_path, timeout=120, module="tests.module.ranks")


def test_building_it_draws_random_numbers_for_its_layers_only():
    mine = body()
    torch.manual_seed(1)
    Classifier(mine, 3, find_lr=True, scheduler="OneCycleLR")
    after = torch.rand(3)
    torch.manual_seed(1)
    ClassifierHead(FEATURES, 3)
    assert torch.equal(torch.rand(3), after)
