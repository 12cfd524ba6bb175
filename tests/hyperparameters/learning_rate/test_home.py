"""Whether an attribute called ``lr`` is the learning rate: where it is kept, and which groups follow it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import MutableMapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lightning_hp import LRFinder
from lightning_hp.hyperparameters import LearningRate, write_home
from tests.callbacks.contract import loader
from tests.hyperparameters.learning_rate.schedules import attach, run
from tests.training import Net, train


class Base(pl.LightningModule):
    """Two layers; each test defines the rates of their groups."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def rates(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        body, head = self.rates()
        return SGD([{"params": self.body.parameters(), "lr": body}, {"params": self.head.parameters(), "lr": head}])


def rates_of(trainer: Any) -> list[float]:
    return [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]


def applied(module: Any, lr: float = 0.5, **kwargs: Any) -> tuple[LearningRate, list[float]]:
    trainer = attach(module)
    rate = LearningRate.locate(trainer, module, **kwargs)
    rate.apply(lr)
    return rate, rates_of(trainer)


class Options(MutableMapping):
    """A mapping that is not a dict, like that of OmegaConf."""

    def __init__(self, **values: Any) -> None:
        self.values_ = values

    def __getitem__(self, key: str) -> Any:
        return self.values_[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.values_[key]

    def __iter__(self) -> Any:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


class ReadOnlyError(Exception):
    """Neither an AttributeError, nor a TypeError, nor a ValueError, as that of OmegaConf."""


class ReadOnly(Options):
    def __setitem__(self, key: str, value: Any) -> None:
        raise ReadOnlyError("the configuration is read-only")


class TestWhereItIsKept:
    def test_attribute(self):
        class Model(Base):
            lr = 0.1

            def rates(self):
                return self.lr * 0.1, self.lr

        module = Model()
        rate, rates = applied(module)
        assert rate.home.paths == ("lr",)
        assert rates == [0.05, 0.5]
        assert (module.lr, Model.lr) == (0.5, 0.1)

    @pytest.mark.parametrize("name", ["lr", "learning_rate"])
    def test_hparams(self, name):
        class Model(Base):
            def __init__(self, **kwargs):
                super().__init__()
                self.save_hyperparameters(kwargs)

            def rates(self):
                return (self.hparams[name],) * 2

        module = Model(**{name: 0.1, "width": 3})
        rate, rates = applied(module)
        assert rate.home.paths == (f"hparams.{name}",)
        assert rates == [0.5, 0.5]
        assert module.hparams == {name: 0.5, "width": 3}
        # Lightning logs this one at the start of the training.
        assert module.hparams_initial == {name: 0.5, "width": 3}

    def test_both_are_written(self):
        class Model(Base):
            def __init__(self, lr):
                super().__init__()
                self.save_hyperparameters()
                self.lr = lr

            def rates(self):
                return self.lr, self.hparams.lr

        module = Model(0.1)
        rate, rates = applied(module)
        assert str(rate.home) == "`model.lr` and `model.hparams.lr`"
        assert rates == [0.5, 0.5]
        assert module.lr == module.hparams.lr == module.hparams_initial.lr == 0.5

    @pytest.mark.parametrize("options", [dict, Namespace, SimpleNamespace, Options])
    def test_nested(self, options):
        class Model(Base):
            def __init__(self, optim):
                super().__init__()
                self.save_hyperparameters()
                self.optim = optim

            def rates(self):
                optim = self.optim
                return (optim.lr if hasattr(optim, "lr") else optim["lr"],) * 2

        module = Model(options(lr=0.1))
        rate, rates = applied(module, attr_name="optim.lr")
        # One object in two places is one place.
        assert rate.home.paths == ("optim.lr",)
        assert rates == [0.5, 0.5]

    def test_a_number_as_str(self):
        class Model(Base):
            lr = "1e-1"

            def rates(self):
                return (float(self.lr),) * 2

        module = Model()
        _, rates = applied(module)
        assert rates == [0.5, 0.5]
        assert module.lr == 0.5

    def test_with_none_configure_optimizers_chooses_the_rate(self):
        class Model(Base):
            lr = None

            def rates(self):
                lr = 0.02 if self.lr is None else self.lr
                return lr, lr * 4

        module = Model()
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        assert rate.value == 0.02
        assert module.lr is None
        rate.apply(0.5)
        assert rates_of(trainer) == [0.5, 2.0]

    def test_a_tensor_is_replaced_by_a_new_one_of_its_type(self):
        class Model(Base):
            def __init__(self):
                super().__init__()
                self.register_buffer("lr", torch.tensor(0.1))

            def rates(self):
                return (self.lr,) * 2

        module = Model()
        held = module.lr
        _, rates = applied(module)
        assert rates == [0.5, 0.5]
        assert module.lr == 0.5
        assert held == torch.tensor(0.1)

    def test_a_property_is_not_a_place_of_its_own(self):
        class Model(Base):
            def __init__(self, lr):
                super().__init__()
                self.save_hyperparameters()

            @property
            def lr(self):
                return self.hparams.lr

            def rates(self):
                return (self.lr,) * 2

        rate, rates = applied(Model(0.1))
        assert rate.home.paths == ("hparams.lr",)
        assert rates == [0.5, 0.5]


class TestWhatFollows:
    def test_a_group_with_a_rate_of_its_own_stays(self):
        class Model(Base):
            lr = 0.1

            def rates(self):
                return 0.003, self.lr

        module = Model()
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        rate.set_for_step(0.7)
        assert rates_of(trainer) == [0.003, 0.7]
        rate.apply(0.5)
        assert rates_of(trainer) == [0.003, 0.5]

    def test_a_group_with_a_rate_of_its_own_is_set_to_its_peak_for_a_step(self):
        class Model(Base):
            lr = 0.1

            def rates(self):
                return 0.003, self.lr

            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                return [optimizer], [OneCycleLR(optimizer, list(self.rates()), 100)]

        module = Model()
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        assert rate.is_one_cycle
        assert rates_of(trainer) == pytest.approx([0.003 / 25, 0.1 / 25])
        rate.set_for_step(0.7)
        assert rates_of(trainer) == [0.003, 0.7]

    def test_an_attribute_that_nothing_follows_is_not_the_home(self):
        class Model(Base):
            lr = 0.1

            def rates(self):
                return 0.003, 0.03

        module = Model()
        rate, rates = applied(module)
        assert rate.home is None
        assert rates == pytest.approx([0.5, 5.0])
        assert module.lr == 0.1

    def test_the_name_that_is_followed_is_taken(self):
        class Model(Base):
            lr = 0.1
            learning_rate = 0.2

            def rates(self):
                return (self.learning_rate,) * 2

        module = Model()
        rate, rates = applied(module)
        assert rate.home.paths == ("learning_rate",)
        assert rates == [0.5, 0.5]
        assert module.lr == 0.1

    def test_of_two_values_the_one_that_is_followed_is_taken(self):
        """`lr` was scaled in `__init__`: `hparams` hold another number, and keep it."""

        class Model(Base):
            def __init__(self, lr):
                super().__init__()
                self.save_hyperparameters()
                self.lr = lr * 8

            def rates(self):
                return (self.lr,) * 2

        module = Model(0.1)
        rate, rates = applied(module)
        assert rate.home.paths == ("lr",)
        assert rates == [0.5, 0.5]
        assert module.hparams.lr == module.hparams_initial.lr == 0.1

    def test_two_values_that_are_followed_are_refused(self):
        class Model(Base):
            def __init__(self, lr):
                super().__init__()
                self.save_hyperparameters()
                self.lr = lr * 8

            def rates(self):
                return self.lr, self.hparams.lr

        module = Model(0.1)
        with pytest.raises(MisconfigurationException, match=r"`model.lr` = 0.8 and `model.hparams.lr` = 0.1"):
            LearningRate.locate(attach(module), module)

    @pytest.mark.parametrize("rule", [lambda lr: lr + 0.01, lambda lr: lr**0.5, lambda lr: max(lr, 0.08)])
    def test_a_rate_that_is_not_proportional_is_refused(self, rule):
        class Model(Base):
            lr = 0.1

            def rates(self):
                return rule(self.lr), self.lr

        module = Model()
        with pytest.raises(MisconfigurationException, match="group 0 of optimizer 0 has"):
            LearningRate.locate(attach(module), module)
        assert module.lr == 0.1

    def test_a_floor_that_follows_follows_midway(self):
        class Model(Base):
            def __init__(self, lr):
                super().__init__()
                self.lr = lr

            def rates(self):
                return (self.lr,) * 2

            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                return [optimizer], [CosineAnnealingLR(optimizer, 20, eta_min=self.lr / 10)]

        module, reference = Model(0.1), Model(0.5)
        trainer, by_hand = attach(module, midway=True), attach(reference)
        run(trainer, 9), run(by_hand, 9)
        LearningRate.locate(trainer, module).apply(0.5)
        ours = [rate for step in run(trainer, 20) for rate, *_ in step]
        assert ours == pytest.approx([rate for step in run(by_hand, 20) for rate, *_ in step], rel=1e-9)


class TestANameGivenByTheUser:
    class Model(Base):
        rate = 0.1
        other = 0.2
        text = "fast"

        def rates(self):
            return self.rate, self.rate * 2

    def test_it_is_used(self):
        rate, rates = applied(self.Model(), attr_name="rate")
        assert rate.value == 0.5
        assert rates == [0.5, 1.0]

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("speed", "neither `model.speed` nor `model.hparams.speed`"),
            ("optim.lr", "neither `model.optim.lr` nor `model.hparams.optim.lr`"),
            ("forward", "neither `model.forward`"),
            ("text", "Expected `model.text` to be a number, got 'fast'"),
            ("other", "Expected the optimizers to follow `model.other`"),
        ],
    )
    def test_or_refused(self, name, sentence):
        module = self.Model()
        with pytest.raises(MisconfigurationException, match=sentence):
            LearningRate.locate(attach(module), module, name)


def test_writing_in_a_resumed_run_needs_no_optimizer():
    class Model(Base):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.lr = lr

        def rates(self):
            return (self.lr,) * 2

    module = Model(0.1)
    rate, _ = applied(module)
    fresh = Model(0.1)
    write_home(fresh, 0.5, (*rate.home.paths, "hparams.gone"))
    assert fresh.lr == fresh.hparams.lr == fresh.hparams_initial.lr == 0.5


class HoldsReadOnly(Base):
    """Its optimizer is built on a configuration that refuses to be written; or on an attribute beside it."""

    def __init__(self, configuration: Any = ReadOnly, on_attribute: bool = False) -> None:
        super().__init__()
        self._hparams = configuration({"lr": 0.1}) if configuration is MappingProxyType else configuration(lr=0.1)
        self.lr, self.on_attribute = 0.1, on_attribute

    def rates(self) -> tuple[Any, Any]:
        rate = self.lr if self.on_attribute else self.hparams["lr"]
        return 0.1 * rate, rate


class RefusesOthers(Base):
    """A property that takes its own value only."""

    @property
    def lr(self) -> float:
        return 0.1

    @lr.setter
    def lr(self, value: float) -> None:
        if value != 0.1:
            raise RuntimeError("the rate is fixed")

    def rates(self) -> tuple[Any, Any]:
        return 0.1 * self.lr, self.lr


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize("configuration", [ReadOnly, MappingProxyType])
    def test_is_no_home_and_one_sentence_says_so(self, configuration, caplog):
        module = HoldsReadOnly(configuration)
        del module.lr
        with caplog.at_level("INFO"):
            rate, rates = applied(module)
        assert rate.home is None
        assert rates == pytest.approx([0.5, 5.0])  # without a home the rate is that of the first group
        assert module.hparams["lr"] == 0.1
        sentences = [record.message for record in caplog.records if "cannot be written" in record.message]
        assert sentences == [
            "`model.hparams.lr` cannot be written: it keeps its value, and another one is set in the optimizers."
        ]

    def test_beside_an_attribute_that_can_be_written_the_attribute_is_the_home(self):
        module = HoldsReadOnly(on_attribute=True)
        rate, rates = applied(module)
        assert rate.home.paths == ("lr",)
        assert rates == [0.05, 0.5]
        assert (module.lr, module.hparams["lr"]) == (0.5, 0.1)

    def test_an_attribute_that_refuses_another_value(self, caplog):
        module = RefusesOthers()
        with caplog.at_level("INFO"):
            rate, rates = applied(module)
        assert rate.home is None
        assert rates == pytest.approx([0.5, 5.0])
        assert "got `model.lr`: the rate is fixed. It keeps its value" in caplog.text

    def test_a_name_that_was_given_is_refused_with_a_sentence(self):
        module = HoldsReadOnly()
        del module.lr
        with pytest.raises(MisconfigurationException, match=r"nor `model.hparams.lr` that can be written"):
            LearningRate.locate(attach(module), module, "lr")

    def test_a_resumed_run_skips_it(self):
        module = HoldsReadOnly()
        write_home(module, 0.5, ("lr", "hparams.lr"))
        assert (module.lr, module.hparams["lr"]) == (0.5, 0.1)

    @pytest.mark.parametrize("update_attr", [True, False])
    def test_in_a_finder(self, update_attr):
        class Model(Net):
            def __init__(self) -> None:
                super().__init__()
                self._hparams = ReadOnly(**{**self.hparams, "lr": 0.1})
                del self.lr

            def configure_optimizers(self) -> Any:
                return SGD(self.parameters(), lr=self.hparams["lr"])

        finder = LRFinder(num_training_steps=20, suggestion="valley", update_attr=update_attr)
        module = train(Model(), [finder], loader()).module
        assert finder.result.lr_used == (finder.result.suggestion if update_attr else 0.1)
        assert module.trainer.optimizers[0].param_groups[0]["lr"] == finder.result.lr_used
        assert module.hparams["lr"] == 0.1
