"""Where the learning rate of a training lives: read it, rehearse with it, write it so that it sticks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from lightning_hp.hyperparameters.learning_rate.home import Home, find_home
from lightning_hp.hyperparameters.learning_rate.numbers import Key, Slot, write_number
from lightning_hp.hyperparameters.learning_rate.rebase import is_rate, scale
from lightning_hp.hyperparameters.learning_rate.rebuild import (
    build_optimizers,
    configured_in,
    has_begun,
    live_value,
    refuse_what_cannot_be_rebased,
    refuse_without_rates,
    renew_optimizers,
)
from lightning_hp.trainer import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


class LearningRate:
    """Where the learning rate of a training lives: read, rehearsed, written.

    Its *home* is the attribute or hyperparameter of the module that ``configure_optimizers`` builds on. Before the
    training a new rate is written there and optimizers and schedulers are built anew, which is exactly what happens
    when a user types the rate. Without a home, or once the training runs, everything in the optimizers and schedulers
    that follows from the rate is multiplied by one factor: rates, initial and peak rates of the groups, base rates of
    the schedulers and of those inside them. Floors and targets in absolute terms (``eta_min``, ``min_lr`` of
    ReduceLROnPlateau, ``swa_lr``) stay what they are, unless the home says that they follow.

    The value is the rate that the schedule is *built on*, not the one of the moment: where a warm-up or a decay has
    got to is kept. For OneCycleLR and CyclicLR it is the peak.

    Attributes:
        value: The rate that the schedule is built on, of the home if there is one, else of the first group with a
            rate > 0.
        home: Where the module keeps it, or ``None``.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> class Model(pl.LightningModule):
        ...     def __init__(self, lr=0.1):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.layer(batch).mean()
        ...     def configure_optimizers(self):
        ...         optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        ...         return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, 100)]
        >>> class HalfTheRate(pl.Callback):
        ...     def on_fit_start(self, trainer, pl_module):
        ...         rate = LearningRate.locate(trainer, pl_module)
        ...         print(f"{rate.home} is {rate.value}")
        ...         rate.apply(rate.value / 2)
        ...         print(f"the peak is {trainer.optimizers[0].param_groups[0]['max_lr']}")
        >>> trainer = pl.Trainer(max_steps=1, callbacks=[HalfTheRate()], logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        >>> trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(4, 2)))
        `model.hparams.lr` is 0.1
        the peak is 0.05

    """

    def __init__(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        home: Home | None,
        value: float,
        ratios: dict[Key, float],
        fixed: dict[Key, float],
    ) -> None:
        self.value = value
        self.home = home
        self._trainer = trainer
        self._module = pl_module
        self._ratios = ratios
        self._fixed = fixed
        self._written: list[tuple[Key, dict[str, Any], float, Any, int]] = []

    @classmethod
    def locate(
        cls,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        attr_name: str = "",
        read_only: bool = False,
        also_midway: bool = False,
    ) -> LearningRate:
        """Finds the learning rate of a training; nothing is changed.

        ``configure_optimizers`` is run twice more if the module has an attribute that may be the home, to see what
        follows it. What that builds is thrown away; the module, its optimizers and the random streams are put back.

        Args:
            trainer: A Trainer inside ``fit``, at ``on_fit_start`` or later.
            pl_module: Its module.
            attr_name: Where the module keeps the rate, if not in ``lr`` or ``learning_rate``: the name of an attribute
                or of an entry in ``hparams``; dots reach into nested ones.
            read_only: No new rate will be applied; a schedule that cannot be rebased is then no reason to refuse.
            also_midway: A new rate will be applied in the middle of the training, too: refuse now what cannot be
                rebased then.

        Raises:
            MisconfigurationException: If there is no learning rate, if ``attr_name`` names none, or if a new rate
                could not be applied exactly.

        """
        configured = configured_in(trainer)
        refuse_without_rates(trainer, configured)
        midway = also_midway or has_begun(trainer, pl_module)
        home = find_home(trainer, pl_module, attr_name, try_scaling=midway and not read_only)
        live = live_value(trainer, configured, home, midway)
        bases = configured.base_rates()
        fixed = {} if home is None else {key: bases[key] for key in home.probe.fixed if key in bases}
        ratios = {key: base / live for key, base in bases.items() if key not in fixed}
        if home is not None:
            ratios.update(home.probe.ratios)
        if not read_only:
            refuse_what_cannot_be_rebased(trainer, pl_module, configured, home, midway)
        value = live if home is None or home.value is None else home.value
        return cls(trainer, pl_module, home, value, ratios, fixed)

    @property
    def is_one_cycle(self) -> bool:
        """Whether the schedule is, or contains, ``OneCycleLR``: the value is then its peak."""
        return any(isinstance(scheduler, OneCycleLR) for scheduler in configured_in(self._trainer).all_schedulers())

    def set_for_step(self, lr: float) -> None:
        """Sets the rate of the next optimizer step, and of it alone: no scheduler, no base rate is touched.

        Each group gets its own multiple of ``lr``, and one that does not follow its own base rate, so that every step
        is one at the peak of the schedule. Tensors are filled in place. Costs an assignment per group. For use in a
        rehearsal, which puts the rates back.

        Args:
            lr: The rate, > 0.

        """
        self._written.clear()
        for key, group in configured_in(self._trainer).groups():
            rate = lr * self._ratios[key] if key in self._ratios else self._fixed.get(key, group["lr"])
            write_number(group, "lr", rate)
            self._written.append((key, group, rate, group["lr"], _version(group["lr"])))

    def check_still(self, lr: float) -> None:
        """Makes sure after a step that the rates of :meth:`set_for_step` are still there. No synchronisation.

        Args:
            lr: The rate that was set.

        Raises:
            MisconfigurationException: If something in the step (a warm-up in ``optimizer_step``) wrote another rate.

        """
        for (optimizer, position), group, rate, written, version in self._written:
            present = group["lr"]
            # A tensor may be on a device: who wrote into it is known without reading it.
            is_untouched = present is written and _version(present) == version
            if not (is_untouched if isinstance(written, Tensor) else present == rate):
                raise misconfiguration(
                    self._trainer,
                    f"Expected the step at learning rate {lr:.4g} to leave the rates alone, but it set group {position}"
                    f" of optimizer {optimizer} from {float(rate):.4g} to {float(present):.4g}. Move what changes"
                    " the rate during a step, such as a warm-up in `optimizer_step`, into a scheduler.",
                )

    def apply(self, lr: float, renew: bool = False) -> None:
        """Makes ``lr`` the rate that the training is built on.

        At ``on_fit_start`` with a home: writes the home and builds optimizers and schedulers anew, through the
        strategy, as if the rate had been typed. ``configure_optimizers`` then runs once more than it would have; the
        random streams stay where they are. Otherwise the existing optimizers and schedulers are rebased in place, and
        the home follows; so too if ``configure_optimizers`` puts hooks on parameters, which must not be there twice.
        The rate of the first group is then exact, that of the others up to rounding.

        Args:
            lr: The rate, finite and > 0.
            renew: Optimizers and schedulers have to be built anew in any case, since what else they depend on has
                changed.

        Raises:
            ValueError: If ``lr`` is not a rate, or the home cannot be written.

        """
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"Expected a finite learning rate > 0, got {lr}.")
        lr = float(lr)  # a NumPy number in the hyperparameters would keep checkpoints from being loaded
        if self.home is not None and self.home.probe.repeatable and not has_begun(self._trainer, self._module):
            self._rebuild(self.home, lr)
        else:
            if renew:
                renew_optimizers(self._trainer)
            self._rebase(lr)
        self.value = lr

    def _rebuild(self, home: Home, lr: float) -> None:
        held = [(place, place.read()) for place in home.attribute.places]
        try:
            for place, _ in held:
                place.write(lr)
            build_optimizers(self._trainer)
        except BaseException:
            for place, value in held:
                place.write(value)
            raise
        home.attribute.write(lr)

    def _rebase(self, lr: float) -> None:
        configured = configured_in(self._trainer)
        live = live_value(self._trainer, configured, self.home, midway=True)
        carried = {} if self.home is None else self.home.probe.carried

        def follows(slot: Slot) -> bool:
            by_name = is_rate(configured, slot) and (slot.group is None or slot.group in self._ratios)
            return carried.get(slot.path, by_name)

        bases = {key: live * ratio for key, ratio in self._ratios.items()}
        scale(configured, follows, lambda rate: lr * (rate / live), bases)
        if self.home is not None:
            self.home.attribute.write(lr)


def _version(rate: Any) -> int:
    return rate._version if isinstance(rate, Tensor) else 0
