"""ClassifierMixin in custom modules, in both namespaces of Lightning, against trainings that are written by hand."""

from __future__ import annotations

import copy
import inspect
import warnings
from fractions import Fraction

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional import classification as tmf

import lightning_hp
from lightning_hp import ClassifierMixin, LRFinder
from lightning_hp.module.class_weights import balanced_weights
from tests.data.wrong_values import WRONG_IDS, WRONG_VALUES
from tests.module.models import FEATURES, Mappings, body, loader, pairs, quiet
from tests.training import NUM_CLASSES, assert_identical, train


class Mine(ClassifierMixin, pl.LightningModule):
    def __init__(self, lr=0.05, outputs=NUM_CLASSES, **kwargs):
        super().__init__(lr=lr, **{"num_classes": NUM_CLASSES, "optimizer": "SGD", **kwargs})
        self.save_hyperparameters()
        self.backbone, self.head = body(), nn.Linear(FEATURES, outputs)

    def forward(self, x):
        return self.head(self.backbone(x))


class WrittenOut(pl.LightningModule):
    """What `Mine` should do with the arguments `RECIPE`, without this library."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = body(), nn.Linear(FEATURES, NUM_CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.head(self.backbone(x)), y, label_smoothing=0.1)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.head(self.backbone(x)), y, label_smoothing=0.1)
        self.log("val_loss", loss)

    def configure_optimizers(self):
        decayed = [layer.weight for layer in (self.backbone[0], self.backbone[3])]
        ids = {id(p) for p in decayed}
        groups = [
            {"params": decayed, "lr": 0.005, "weight_decay": 0.1},
            {"params": [p for p in self.backbone.parameters() if id(p) not in ids], "lr": 0.005, "weight_decay": 0.0},
            {"params": [self.head.weight], "lr": 0.05, "weight_decay": 0.1},
            {"params": [self.head.bias], "lr": 0.05, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


RECIPE = {
    "optimizer_options": {"momentum": 0.9},
    "weight_decay": 0.1,
    "lr_ratios": {"backbone": 0.1},
    "scheduler": "CosineAnnealingLR",
    "label_smoothing": 0.1,
}


def test_it_trains_as_the_module_that_is_written_out():
    torch.manual_seed(3)
    mine = Mine(**RECIPE)
    by_hand = WrittenOut()
    by_hand.load_state_dict(mine.state_dict())
    runs = [train(module, loader=loader(shuffle=True), val_loader=loader()) for module in (mine, by_hand)]
    assert_identical(runs[0].weights, runs[1].weights, "weights")
    assert_identical(runs[0].streams, runs[1].streams, "streams")
    for name in ("train_loss", "val_loss"):
        losses = [[values[name] for _, values in run.metrics if name in values] for run in runs]
        assert losses[0] == losses[1]
        assert len(losses[0]) == 2


def test_logged_values_are_those_of_the_whole_epoch():
    model = Mine(top_k=2, lr=1e-9)
    trainer = pl.Trainer(**quiet(max_epochs=1, logger=False))
    trainer.fit(model, loader(), loader(batch_size=10, num_samples=37))
    x, y = pairs(37).tensors
    logits = model.eval()(x)
    expected = {
        "val_loss": nn.functional.cross_entropy(logits, y),
        "val_accuracy": tmf.multiclass_accuracy(logits, y, NUM_CLASSES, average="micro"),
        "val_f1": tmf.multiclass_f1_score(logits, y, NUM_CLASSES, average="macro"),
        "val_accuracy_top2": tmf.multiclass_accuracy(logits, y, NUM_CLASSES, average="micro", top_k=2),
    }
    for name, value in expected.items():
        torch.testing.assert_close(trainer.callback_metrics[name], value.detach())
    assert {"train_loss", "train_loss_step", "train_accuracy", "train_f1"} <= trainer.callback_metrics.keys()


def test_each_of_two_loaders_has_metrics_of_its_own():
    model = Mine()
    trainer = pl.Trainer(**quiet())
    easy, hard = loader(num_samples=32), DataLoader([(x, (y + 1) % NUM_CLASSES) for x, y in pairs(32)], batch_size=8)
    trainer.validate(model, [easy, hard], verbose=False)
    logits, labels = model.eval()(pairs(32).tensors[0]).detach(), pairs(32).tensors[1]
    for index, y in enumerate((labels, (labels + 1) % NUM_CLASSES)):
        expected = (logits.argmax(1) == y).float().mean()
        torch.testing.assert_close(trainer.callback_metrics[f"val_accuracy/dataloader_idx_{index}"], expected)
    first = dict(trainer.callback_metrics)
    trainer.validate(model, [easy, hard], verbose=False)  # counted anew, not on top
    assert_identical(dict(trainer.callback_metrics), first, "metrics")


def test_the_steps_do_not_compute_a_metric():
    class Counting(Mine):
        def configure_metrics(self):
            metrics = super().configure_metrics()
            for metric in metrics.values():
                compute = metric.compute
                metric.compute = lambda compute=compute: (computed.append(self.trainer.global_step), compute())[1]
            return metrics

    computed = []
    model = Counting()
    pl.Trainer(**quiet(max_epochs=1, num_sanity_val_steps=0)).fit(model, loader(), loader())
    assert computed
    assert set(computed) == {6}


def test_predict_gives_probabilities_with_and_without_labels():
    model = Mine().eval()
    trainer = pl.Trainer(**quiet())
    x, _ = pairs(20).tensors
    expected = model(x).detach().exp()
    expected /= expected.sum(1, keepdim=True)
    with_labels = torch.cat(trainer.predict(model, loader(num_samples=20)))
    without = torch.cat(trainer.predict(model, DataLoader(x, batch_size=16)))
    torch.testing.assert_close(with_labels, expected)
    assert torch.equal(with_labels, without)


@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("multilabel", 3)])
def test_other_tasks_learn(task, outputs):
    model = Mine(lr=0.3, task=task, num_classes=2 if task == "binary" else 3, outputs=outputs)
    trainer = pl.Trainer(**quiet(max_epochs=12))
    trainer.fit(model, loader(shuffle=True, task=task), loader(task=task))
    accuracy = trainer.callback_metrics["val_accuracy"].item()
    assert accuracy > 0.8
    probabilities = torch.cat(trainer.predict(model, loader(task=task)))
    assert probabilities.shape == ((96,) if task == "binary" else (96, 3))
    labels = pairs(task=task).tensors[1]
    assert ((probabilities > 0.5) == labels).float().mean().item() == pytest.approx(accuracy, abs=1e-6)


class Texts(ClassifierMixin, pl.LightningModule):
    def __init__(self):
        super().__init__(num_classes=NUM_CLASSES, lr=0.1)
        self.embedding, self.head = nn.Embedding(50, FEATURES), nn.Linear(FEATURES, NUM_CLASSES)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None]
        return self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))


def test_batches_of_hugging_face_and_several_inputs():
    trainer = pl.Trainer(**quiet(max_epochs=1))
    model = Texts()
    trainer.fit(model, DataLoader(Mappings(), batch_size=8), DataLoader(Mappings(), batch_size=8))
    named = torch.cat(trainer.predict(model, DataLoader(Mappings(), batch_size=8)))
    data = [((sample["input_ids"], sample["attention_mask"]), sample["labels"]) for sample in Mappings()]
    assert torch.equal(torch.cat(trainer.predict(model, DataLoader(data, batch_size=8))), named)


def test_every_part_may_be_overridden():
    class Other(Mine):
        def split_batch(self, batch, has_labels=True):
            return batch[1], batch[0]

        def compute_loss(self, logits, labels):
            return 2 * super().compute_loss(logits, labels)

        def configure_metrics(self):
            return nn.ModuleDict({"count": __import__("torchmetrics").SumMetric()})

        def update_metrics(self, metrics, logits, labels):
            metrics["count"].update(len(labels))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    trainer = pl.Trainer(**quiet(max_epochs=1))
    data = DataLoader([(y, x) for x, y in pairs()], batch_size=16)
    model = Other(lr=0.0001)
    trainer.fit(model, data, data)
    assert trainer.callback_metrics["val_count"] == 96
    x, y = pairs().tensors
    loss = 2 * nn.functional.cross_entropy(model.eval()(x), y)
    torch.testing.assert_close(trainer.callback_metrics["val_loss"], loss.detach())


class Elsewhere(ClassifierMixin, lightning.pytorch.LightningModule):
    __init__, forward = None, Mine.forward


def _init(self, lr=0.05, **kwargs):
    super(Elsewhere, self).__init__(num_classes=NUM_CLASSES, lr=lr, optimizer="SGD", **kwargs)
    self.save_hyperparameters()
    self.backbone, self.head = body(), nn.Linear(FEATURES, NUM_CLASSES)


Elsewhere.__init__ = _init


def test_both_lightnings_train_alike_and_are_tuned_alike():
    runs = []
    for module_class, trainer_class in ((Mine, pl.Trainer), (Elsewhere, lightning.pytorch.Trainer)):
        torch.manual_seed(3)
        finder = LRFinder(num_training_steps=70, min_lr=1e-4)
        model = module_class(**RECIPE)
        lightning.pytorch.seed_everything(1)
        trainer = trainer_class(callbacks=[finder], **quiet())
        trainer.fit(model, loader(shuffle=True), loader())
        runs.append((copy.deepcopy(model.state_dict()), finder.optimal_lr, model.lr, dict(trainer.callback_metrics)))
    assert_identical(runs[0], runs[1], "runs")
    assert runs[0][1] == runs[0][2] != 0.05


def test_the_mixin_behind_lightning_is_refused():
    with pytest.raises(TypeError, match=r"Write: class Wrong\(ClassifierMixin, LightningModule\)"):

        class Wrong(pl.LightningModule, ClassifierMixin):
            pass


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "`lr` to be a finite number > 0, but got 0.0"),
        ({"lr": "0.1"}, TypeError, "`lr` to be a finite number > 0, but got '0.1'"),
        ({"label_smoothing": 1.0}, ValueError, "`label_smoothing` to be a number >= 0 and < 1"),
        (
            {"lr_ratios": {"backbone": 0.0}},
            ValueError,
            "`lr_ratios.*backbone.* but got 0.0. To keep a part .* freeze it",
        ),
        ({"lr_ratios": [1]}, TypeError, "`lr_ratios` to be a dict from parts of the model to numbers, or None"),
        ({"lr_ratios": {1: 0.1}}, TypeError, "`lr_ratios` to be a dict"),
        ({"lr_ratios": {"head": "0.1"}}, TypeError, r"`lr_ratios\['head'\]` to be a finite number > 0"),
        ({"optimizer": "SDG"}, ValueError, "`optimizer` to be a name of torch.optim, such as SGD"),
        ({"optimizer": None}, TypeError, "`optimizer` to be a name of torch.optim, but got None"),
        ({"optimizer_options": [1]}, TypeError, "`optimizer_options` to be a dict of arguments of the optimizer"),
        ({"weight_decay": -1}, ValueError, "`weight_decay` to be a finite number >= 0, or None"),
        ({"scheduler": "Cosine"}, ValueError, "`scheduler` to be a name of torch.optim.lr_scheduler"),
        ({"scheduler": 1}, TypeError, "`scheduler` to be a name of torch.optim.lr_scheduler"),
        ({"scheduler_options": "step"}, TypeError, "`scheduler_options` to be a dict of arguments of the scheduler"),
        ({"warmup_steps": "5"}, TypeError, "`warmup_steps` to be an int >= 0, or a fraction"),
        ({"task": "regression"}, ValueError, "`task` to be one of 'multiclass', 'binary', 'multilabel'"),
        ({"num_classes": 1}, ValueError, "`num_classes`.* >= 2"),
        ({"top_k": 0}, ValueError, "`top_k` to be an int >= 1"),
        ({"class_weights": [1.0]}, ValueError, "`class_weights` to be 3"),
        ({"class_weights": "equal"}, TypeError, "`class_weights` to be 3"),
    ],
)
def test_arguments_are_refused_with_one_sentence(arguments, error, message):
    with pytest.raises(error, match=message):
        Mine(**arguments)


#: Values of `WRONG_VALUES` that are right for some arguments.
ALLOWED = {
    "lr": (3.5, Fraction(7, 2)),
    "layer_decay": (None,),
    "weight_decay": (None, 3.5, Fraction(7, 2)),
    "scheduler": (None,),
    "label_smoothing": (),
    "class_weights": (None,),
    "top_k": (None,),
}


@pytest.mark.parametrize("value", WRONG_VALUES, ids=WRONG_IDS)
@pytest.mark.parametrize("argument", sorted(inspect.signature(ClassifierMixin).parameters.keys() - {"args", "kwargs"}))
def test_every_argument_is_checked(argument, value):
    is_dict_or_none = argument.endswith(("options", "ratios")) and (value is None or isinstance(value, dict))
    if is_dict_or_none or any(type(one) is type(value) and one == value for one in ALLOWED.get(argument, ())):
        Mine(**{argument: value})
        return
    with pytest.raises((TypeError, ValueError), match=f"Expected `{argument}` to be"):
        Mine(**{argument: value})


def test_a_learning_rate_of_zero_is_refused_by_its_name():
    model = Mine()
    model.lr = 0
    with pytest.raises(ValueError, match="Expected `lr` to be a finite number > 0, but got 0"):
        pl.Trainer(**quiet()).fit(model, loader(), loader())


def test_what_goes_wrong_in_fit_is_one_sentence():
    trainer = pl.Trainer(**quiet())
    with pytest.raises(ValueError, match=r"such as backbone, head, but got 'body'"):
        trainer.fit(Mine(lr_ratios={"body": 0.5}), loader(), loader())
    with pytest.raises(ValueError, match=r"logits of shape \(batch, 3\) .* but got shape \(16, 5\)"):
        pl.Trainer(**quiet()).fit(Mine(outputs=5), loader(), loader())
    endless = pl.Trainer(**quiet(max_epochs=-1, limit_train_batches=1.0))
    with pytest.raises(ValueError, match="training of known length for OneCycleLR, but it has inf steps"):
        endless.fit(Mine(scheduler="OneCycleLR"), loader(), loader())


def test_public_names():
    assert lightning_hp.ClassifierMixin is ClassifierMixin
    assert ClassifierMixin.__mro__[1:] == (object,)


class OwnLoss(Mine):
    def compute_loss(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("kind", [Mine, OwnLoss])
def test_labels_from_one_get_a_sentence_under_an_own_loss_too(kind):
    """The metrics take the labels as well."""
    data = [(features, label + 1) for features, label in pairs()]
    with pytest.raises(ValueError, match=r"Expected classes from 0 to 2 .*subtract 1 if they start at 1"):
        train(kind(), loader=DataLoader(data, batch_size=16), val_loader=loader())


def test_a_warm_up_longer_than_the_training_is_refused():
    loaders = loader(batch_size=16)
    with pytest.raises(ValueError, match=r"`warmup_steps` to be at most 12, the optimizer steps .* but got 13"):
        train(Mine(warmup_steps=13), loader=loaders, val_loader=loaders)
    assert (
        train(Mine(warmup_steps=12), loader=loaders, val_loader=loaders).trainer.optimizers[0].param_groups[0]["lr"]
        == 0.05
    )
    train(Mine(warmup_steps=13), loader=loaders, val_loader=loaders, fast_dev_run=True, logger=None)
    Mine(warmup_steps=13).configure_optimizers()  # without a Trainer nobody knows how long it will be


def same_start(module, other):
    module.load_state_dict(other.state_dict(), strict=False)
    return module


@pytest.mark.parametrize("carries", [True, False])
def test_balanced_class_weights_are_those_of_scikit_learn(carries):
    utils = pytest.importorskip("sklearn.utils.class_weight")
    features, labels = pairs(90).tensors
    labels = torch.cat([torch.zeros(60), torch.ones(20), torch.full((10,), 2)]).long()
    data = torch.utils.data.TensorDataset(features, labels)
    loaders = DataLoader(data if carries else [*data], batch_size=16, shuffle=True)
    weights = utils.compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.manual_seed(5)
    model = Mine()
    runs = [
        train(same_start(Mine(class_weights=value), model), loader=loaders, val_loader=loader(), max_epochs=1)
        for value in ("balanced", weights)
    ]
    torch.testing.assert_close(runs[0].weights.pop("class_weights"), torch.tensor(weights).float())
    assert_identical(runs[0].weights, runs[1].weights, "weights")


def test_balanced_class_weights_act_in_a_rehearsal_and_are_in_the_checkpoint(tmp_path):
    finder = LRFinder(num_training_steps=20, update_attr=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train(Mine(class_weights="balanced"), [finder], loader(), val_loader=loader())
    run.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = Mine.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(again.class_weights, run.module.class_weights)
    assert not torch.equal(again.class_weights, torch.ones(3))


def test_balanced_weights_of_a_binary_task_and_of_absent_classes():
    assert balanced_weights("binary", [30, 10]).tolist() == [3.0]
    assert balanced_weights("multiclass", [30, 0, 10]).tolist() == pytest.approx([2 / 3, 1.0, 2.0])
    with pytest.raises(ValueError, match="Expected samples of both classes"):
        balanced_weights("binary", [30, 0])


def test_what_cannot_be_balanced_is_refused():
    with pytest.raises(ValueError, match="Expected `class_weights` to be numbers for task 'multilabel'"):
        Mine(task="multilabel", class_weights="balanced")
    with pytest.raises(MisconfigurationException, match=r"Expected one training loader .* but got 2. Pass"):
        train(Mine(class_weights="balanced"), loader=[loader(), loader()], val_loader=loader())

    class OwnSetup(Mine):
        def setup(self, stage):
            """Without that of the base class."""

    with pytest.raises(RuntimeError, match="Expected `setup` of OwnSetup to call"):
        train(OwnSetup(class_weights="balanced"), loader=loader(), val_loader=loader())


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_scores_of_each_class_after_a_test(task, tmp_path):
    count = {"multiclass": 3, "binary": 2, "multilabel": 3}[task]
    module = Mine(task=task, num_classes=count, outputs=1 if task == "binary" else 3).eval()
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer = pl.Trainer(logger=logger, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    for _ in range(2):  # the second one counts anew
        trainer.test(module, loader(task=task), verbose=False)
    features, labels = pairs(task=task).tensors
    with torch.no_grad():
        logits = module(features)
    if task == "multilabel":
        truth, predicted = labels.numpy(), (logits > 0).long().numpy()
    else:
        truth = labels.numpy()
        predicted = (logits.argmax(1) if task == "multiclass" else (logits > 0).long()[:, 0]).numpy()
    scores = pytest.importorskip("sklearn.metrics").precision_recall_fscore_support(truth, predicted, zero_division=0)
    np.testing.assert_allclose(module.class_scores["test_0"].numpy(), np.stack(scores, 1), rtol=1e-6)
    assert "test/classes/text_summary" in EventAccumulator(logger.log_dir).Reload().Tags()["tensors"]
