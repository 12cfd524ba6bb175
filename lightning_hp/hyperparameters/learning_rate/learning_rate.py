"""The learning rate of a training as one object: read it, set it for single steps, write a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from lightning_hp.functional.checks import check_number
from lightning_hp.functional.learning_rate.step_lengths import (
    has_normalised_weights,
    has_shrinking_steps,
    own_warm_up,
)
from lightning_hp.hyperparameters.learning_rate.home import Home, base_lr, find_home
from lightning_hp.hyperparameters.learning_rate.numbers import GroupIndex, StoredNumber, write_momentum, write_number
from lightning_hp.hyperparameters.learning_rate.rebuild import (
    current_optimizers,
    rebuild_optimizers,
)
from lightning_hp.hyperparameters.learning_rate.refusals import refuse_fixed_schedule, refuse_missing_lr
from lightning_hp.hyperparameters.learning_rate.rescale import rescale, scales_with_lr
from lightning_hp.hyperparameters.learning_rate.schedule import Schedule
from lightning_hp.trainer import build_optimizers, misconfiguration, training_has_begun

if TYPE_CHECKING:
    import pytorch_lightning as pl


class LearningRate:
    """The learning rate of a training: where it is kept, and how it is changed.

    Its *home* is the attribute or hyperparameter of the module that ``configure_optimizers`` builds on.

    Attributes:
        value: The rate that the schedule is built on: that of the home, else that of the first group with a rate > 0.
            After :meth:`follow` it is the highest rate that the schedule reaches.
        built_on: The rate that the schedule is built on, in any case.
        home: Where the module keeps it, or ``None``.

    Note:
        Before the training a new rate is written to the home, and optimizers and schedulers are built again. Without a
        home, or during the training, everything in the optimizers and schedulers that follows from the rate is
        multiplied by one factor: rates, initial and peak rates of the groups, base rates of the schedulers and of those
        inside them. Floors and targets in absolute terms (``eta_min``, ``min_lr`` of ReduceLROnPlateau, ``swa_lr``)
        stay, unless they follow the home.

        ``value`` is the rate that the schedule is *built on*, not the current one: a new value does not change how far
        a warm-up or a decay has come. For OneCycleLR and CyclicLR it is the peak. A schedule that climbs above the rate
        that it is built on, or stays below it, is known after :meth:`follow` only.

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
        ratios: dict[GroupIndex, float],
        independent: dict[GroupIndex, float],
    ) -> None:
        self.value = value
        self.built_on = value
        self.home = home
        self._trainer = trainer
        self._module = pl_module
        self._ratios = ratios  # base rate of a group / value
        self._independent = independent  # base rate of each group that does not follow
        self._schedule: Schedule | None = None
        # What `set_for_step` wrote: index of the group, the group, its rate, the stored object and its version.
        self._written: list[tuple[GroupIndex, dict[str, Any], float, Any, int]] = []

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

        Args:
            trainer: A Trainer inside ``fit``, at ``on_fit_start`` or later.
            pl_module: Its module.
            attr_name: The name of the attribute, or of the entry of ``hparams``, if it is neither ``lr`` nor
                ``learning_rate``; dots reach into nested ones.
            read_only: No new rate will be applied: accept a schedule that cannot be moved to another rate.
            also_midway: A new rate will be applied during the training, too: refuse a schedule that cannot be moved
                then.

        Returns:
            The learning rate.

        Raises:
            MisconfigurationException: If there is no learning rate, if ``attr_name`` names none, or if a new rate
                could not be applied exactly.

        Note:
            Runs ``configure_optimizers`` twice for each attribute that may be the home, and up to four times more to
            simulate a schedule. The module, its optimizers and the random state are restored.

        """
        configured = current_optimizers(trainer)
        refuse_missing_lr(trainer, configured)
        midway = also_midway or training_has_begun(trainer, pl_module)
        home = find_home(trainer, pl_module, attr_name, try_rescale=midway and not read_only)
        built_on = base_lr(trainer, configured, home, midway)
        base_lrs = configured.base_lrs()
        independent: dict[GroupIndex, float] = {}
        if home is not None:
            independent = {index: base_lrs[index] for index in home.probe.independent if index in base_lrs}
        ratios = {index: base / built_on for index, base in base_lrs.items() if index not in independent}
        if home is not None:
            ratios.update(home.probe.ratios)
        if not read_only:
            refuse_fixed_schedule(trainer, pl_module, configured, home, midway)
        value = built_on if home is None or home.value is None else home.value
        return cls(trainer, pl_module, home, value, ratios, independent)

    @property
    def is_one_cycle(self) -> bool:
        """Whether the schedule is, or contains, ``OneCycleLR``: the value is then its peak."""
        schedulers = current_optimizers(self._trainer).all_schedulers()
        return any(isinstance(scheduler, OneCycleLR) for scheduler in schedulers)

    @property
    def decays(self) -> bool:
        """Whether the schedule ends below half of its highest rate; unknown, and ``False``, before :meth:`follow`."""
        return self._schedule is not None and self._schedule.decays

    @property
    def has_shrinking_steps(self) -> bool:
        """Whether steps at a constant rate change the weights less and less: by the optimizers, or by norm layers."""
        return all(map(has_shrinking_steps, self._trainer.optimizers)) or has_normalised_weights(self._module)

    @property
    def has_own_warm_up(self) -> bool:
        """Whether each optimizer makes its first steps shorter by itself."""
        return all(own_warm_up(optimizer, 1) < 1 for optimizer in self._trainer.optimizers)

    def step_length(self, step: int, progress: float) -> float:
        """The length of a step beside one at the peak of the schedule, without a warm-up of the optimizer's own.

        Args:
            step: The number of the step, >= 1.
            progress: The part of the training that is done, from 0 to 1.

        """
        factors = {} if self._schedule is None else self._schedule.shape(progress)
        return max(factors.values(), default=1.0) * max(own_warm_up(one, step) for one in self._trainer.optimizers)

    @property
    def warm_up(self) -> float:
        """The part of the training until all groups have had their highest rate; 0 before :meth:`follow`."""
        return 0.0 if self._schedule is None else self._schedule.warm_up

    def follow(self, schedule: Schedule) -> None:
        """Lets a rate mean the highest one that the schedule reaches, for `value`, `set_for_step` and `apply`.

        Args:
            schedule: The schedule of this training, simulated at the present rate or at any other.

        """
        self._schedule = schedule
        self.value = self.built_on * schedule.peak

    def set_for_step(self, lr: float, progress: float | None = None) -> None:
        """Sets the rate of the next optimizer step only, in a rehearsal, which restores the rates.

        Args:
            lr: The rate at the peak of the schedule, > 0.
            progress: The part of the training that is done, from 0 to 1: each group gets the rate that it has then.
                ``None``: the rate that it has at the peak. Without :meth:`follow` every moment is one at the peak.

        Note:
            A group that follows gets its multiple of ``lr``, any other its own base rate, both times the factor of the
            schedule. Tensors are filled in place. A momentum that a scheduler changes gets the value of that moment,
            too. Schedulers and base rates are not changed.

        """
        self._written.clear()
        shape, peak, momentum = {}, 1.0, {}
        if (schedule := self._schedule) is not None:
            shape, peak, momentum = schedule.shape(progress), schedule.peak, schedule.momentum(progress)
        for index, group in current_optimizers(self._trainer).groups():
            if index in self._ratios:
                rate = lr * self._ratios[index] * shape.get(index, 1.0)
            elif index in self._independent:
                rate = self._independent[index] * (peak * shape[index] if index in shape else 1.0)
            else:
                rate = group["lr"]
            write_number(group, "lr", rate)
            if index in momentum:
                write_momentum(group, momentum[index])
            self._written.append((index, group, rate, group["lr"], _version(group["lr"])))

    def check_step_lr(self, lr: float) -> None:
        """Checks after a step that the rates of :meth:`set_for_step` are unchanged; does not synchronize a device.

        Args:
            lr: The rate that was set.

        Raises:
            MisconfigurationException: If something in the step (a warm-up in ``optimizer_step``) wrote another rate.

        """
        for (optimizer, position), group, rate, written, version in self._written:
            current = group["lr"]
            # Reading a tensor may synchronize its device; its version counts the writes.
            is_unchanged = current is written and _version(current) == version
            if not (is_unchanged if isinstance(written, Tensor) else current == rate):
                raise misconfiguration(
                    self._trainer,
                    f"Expected the step at learning rate {lr:.4g} to keep the rates, but it set group {position}"
                    f" of optimizer {optimizer} from {float(rate):.4g} to {float(current):.4g}. Move what changes"
                    " the rate during a step, such as a warm-up in `optimizer_step`, into a scheduler.",
                )

    def apply(self, lr: float, rebuild: bool = False) -> None:
        """Makes ``lr`` the rate that the training is built on, or after :meth:`follow` the highest that it reaches.

        Args:
            lr: The rate, finite and > 0.
            rebuild: Build optimizers and schedulers again in any case, since something else that they depend on has
                changed.

        Raises:
            TypeError: If ``lr`` is not a number.
            ValueError: If ``lr`` is out of range, or the home cannot be written.

        Note:
            At ``on_fit_start`` with a home: writes the home, and builds optimizers and schedulers again through the
            strategy, which runs ``configure_optimizers`` once more. Otherwise, or if ``configure_optimizers`` adds
            hooks to parameters, which would then run twice: rescales the existing optimizers and schedulers in place,
            and writes the home, if there is one. The rate of the first group is then exact, the others are exact up to
            rounding. The random state stays.

        """
        lr = check_number("lr", lr, above=0)  # a NumPy number in `hparams` would keep checkpoints from being loaded
        built_on = lr if self._schedule is None else lr / self._schedule.peak
        home = self.home
        if home is not None and home.probe.can_rebuild and not training_has_begun(self._trainer, self._module):
            self._rebuild(home, built_on)
        else:
            if rebuild:
                rebuild_optimizers(self._trainer)
            self._rescale(built_on)
        self.value, self.built_on = lr, built_on

    def _rebuild(self, home: Home, lr: float) -> None:
        original = [(place, place.read()) for place in home.attribute.places]
        try:
            for place, _ in original:
                place.write(lr)
            build_optimizers(self._trainer)
        except BaseException:
            for place, value in original:
                place.write(value)
            raise
        home.attribute.write(lr)

    def _rescale(self, lr: float) -> None:
        configured = current_optimizers(self._trainer)
        built_on = base_lr(self._trainer, configured, self.home, midway=True)
        probed = {} if self.home is None else self.home.probe.follows

        def follows(number: StoredNumber) -> bool:
            by_name = scales_with_lr(configured, number) and (number.group is None or number.group in self._ratios)
            return probed.get(number.path, by_name)

        base_lrs = {index: built_on * ratio for index, ratio in self._ratios.items()}
        rescale(configured, follows, lambda rate: lr * (rate / built_on), base_lrs)
        if self.home is not None:
            self.home.attribute.write(lr)


def _version(rate: Any) -> int:
    return rate._version if isinstance(rate, Tensor) else 0
