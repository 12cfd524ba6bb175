"""Our classes are members of `pytorch_lightning` and `lightning.pytorch`, whichever is there or imported first."""

from __future__ import annotations

import copy
import importlib
import pickle
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_hp
from lightning_hp import SAM, BackboneFreezing, BatchSizeScaler, Classifier, LRFinder
from tests.forked import run_forked
from tests.training import make_samples

CALLBACKS = [SAM, BackboneFreezing, BatchSizeScaler, LRFinder]
PACKAGES = [pytorch_lightning, lightning.pytorch]

packages = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def trainer_of(package: Any, **kwargs: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return package.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False, **quiet, **kwargs}
    )


def body() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())


def classifier(**kwargs: Any) -> Classifier:
    torch.manual_seed(3)
    return Classifier(body(), 3, optimizer="SGD", lr=0.05, **kwargs)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*make_samples()), batch_size=16)


def overridden(package: Any, module: Any) -> set[str]:
    """What a Trainer takes for overridden by the user."""
    is_overridden = importlib.import_module(f"{package.__name__}.utilities.model_helpers").is_overridden
    methods = {name for name in dir(package.LightningModule) if not name.startswith("_")}
    return {name for name in methods if hasattr(getattr(package.LightningModule, name), "__code__")} & {
        name for name in methods if hasattr(getattr(module, name, None), "__code__") and is_overridden(name, module)
    }


@packages
def test_every_class_is_a_member(package):
    for callback in CALLBACKS:
        assert issubclass(callback, package.Callback)
    assert issubclass(Classifier, package.LightningModule)


@packages
@pytest.mark.parametrize("callback", [lambda: LRFinder(num_repeats=1, zoom=False), SAM], ids=["LRFinder", "SAM"])
def test_a_trainer_takes_a_callback_that_is_not_in_a_list(package, callback):
    one = callback()
    trainer = trainer_of(package, callbacks=one)
    trainer.fit(classifier(), loader(), loader())
    assert one in trainer.callbacks
    assert trainer.global_step == 6


@packages
def test_what_a_trainer_takes_for_overridden_is_what_the_classifier_defines(package):
    """Lightning compares the code of methods, and that of the two packages differs in names within docstrings."""
    module = classifier()
    trainer_of(package).fit(module, loader(), loader())
    assert overridden(package, module) == {
        "configure_callbacks", "configure_optimizers", "forward", "load_from_checkpoint", "on_fit_start",
        "on_test_epoch_end", "on_train_start", "predict_step", "setup", "teardown", "test_step", "training_step",
        "validation_step",
    }  # fmt: skip


@packages
def test_a_classifier_without_data_is_told_so_by_its_own_package(package):
    error = importlib.import_module(f"{package.__name__}.utilities.exceptions").MisconfigurationException
    with pytest.raises(error, match="train_dataloader"):
        trainer_of(package).fit(classifier(), val_dataloaders=loader())


@packages
def test_a_classifier_of_several_optimizers_toggles_its_own(package):
    """`toggle_optimizer` looks for a wrapped optimizer of the package's own class."""

    class Two(Classifier):
        def __init__(self) -> None:
            super().__init__(body(), 3, lr=0.05)
            self.automatic_optimization = False
            self.required: list[list[bool]] = []

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.backbone, self.head)]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for optimizer in self.optimizers():
                self.toggle_optimizer(optimizer)
                self.required.append([parameter.requires_grad for parameter in self.parameters()])
                optimizer.zero_grad()
                self.manual_backward(self.compute_loss(self(batch[0]), batch[1]))
                optimizer.step()
                self.untoggle_optimizer(optimizer)

    module = Two()
    trainer_of(package, limit_train_batches=1).fit(module, loader(), loader())
    backbone = len(list(module.backbone.parameters()))
    head = len(list(module.head.parameters()))
    assert module.required == [[True] * backbone + [False] * head, [False] * backbone + [True] * head]


def test_a_classifier_trains_alike_in_both():
    weights = []
    for package in PACKAGES:
        module = classifier(sam=True, scheduler="CosineAnnealingLR")
        trainer_of(package, gradient_clip_val=0.1, max_epochs=2).fit(module, loader(), loader())
        weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.nn.utils.parameters_to_vector(classifier().parameters()))


@packages
def test_checkpoints_are_exchanged(package, tmp_path):
    module = classifier()
    trainer = trainer_of(package, callbacks=[LRFinder(num_repeats=1, zoom=False, update_attr=False), SAM()])
    trainer.fit(module, loader(), loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "one.ckpt", backbone=body(), weights_only=True)
    assert torch.equal(loaded.head(torch.ones(1, 8)), module.eval().head(torch.ones(1, 8)))
    for other in PACKAGES:
        finder = LRFinder()
        again = trainer_of(other, callbacks=[finder, SAM()], max_epochs=2)
        again.fit(classifier(), loader(), loader(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
        assert again.global_step == 12
        assert finder.result is not None


@pytest.mark.parametrize("kind", [*CALLBACKS[:1], *CALLBACKS[2:]], ids=lambda kind: kind.__name__)
def test_callbacks_are_pickled_and_copied_under_their_public_names(kind):
    for twin in (pickle.loads(pickle.dumps(kind())), copy.deepcopy(kind())):
        assert type(twin) is kind
    assert kind().state_key == kind.__name__
    assert getattr(lightning_hp, kind.__name__) is kind


# ------------------------------------------------------------------------------------------- one package, or neither

MEMBERS = """
import logging
from lightning_hp import Classifier, LRFinder
from lightning_utilities.core import rank_zero
import torch
torch.set_num_threads(1)
from {package} import Callback, LightningModule, Trainer
x = torch.randn(64, 8)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :3].argmax(1)), 16)
logging.getLogger("{package}").setLevel(logging.ERROR)
finder = LRFinder(1e-4, 1.0, 20, num_repeats=1, zoom=False)
module = Classifier(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()), 3)
import warnings
warnings.simplefilter("ignore")
trainer = Trainer(callbacks=finder, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                  enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, data)
print(isinstance(finder, Callback), isinstance(module, LightningModule), rank_zero.log.name)
"""


@pytest.mark.parametrize(
    ("package", "first", "blocked"),
    [
        ("pytorch_lightning", "import pytorch_lightning", ""),
        ("lightning.pytorch", "import lightning.pytorch", ""),
        ("lightning.pytorch", "", ""),
        ("pytorch_lightning", "", "lightning"),
        ("lightning.pytorch", "", "pytorch_lightning"),
    ],
)
def test_in_a_new_process(package, first, blocked, tmp_path):
    """Whatever is installed and imported first: members of the package, whose logger has the messages."""
    block = f"import sys; sys.modules[{blocked!r}] = None" if blocked else ""
    assert run_forked("\n".join([block, first, MEMBERS.format(package=package)]), tmp_path) == (
        f"True True {package}.utilities.rank_zero"
    )


def test_without_lightning_the_sentence_names_both(tmp_path):
    code = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
try:
    from lightning_hp import LRFinder
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_forked(code, tmp_path).startswith("Expected `pytorch_lightning` or `lightning.pytorch`, but neither")
