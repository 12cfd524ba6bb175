"""SAM: each gradient that the optimizer gets is the gradient at w + e(w)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_hp.callbacks.sam_monitor import SAMMonitor, can_be_judged
from lightning_hp.callbacks.sam_refusals import refuse_lazy_layers, refuse_optimizer, refuse_second_sam, refuse_setting
from lightning_hp.callbacks.sam_start import share_before_decay
from lightning_hp.functional.checks import (
    check_bool,
    check_callable,
    check_choice,
    check_factor,
    check_number,
    wrong_type,
)
from lightning_hp.functional.gradients import is_finite
from lightning_hp.functional.norm_layers import norm_parameters
from lightning_hp.functional.sharpness.perturbation import Perturbation
from lightning_hp.functional.sharpness.schedule import check_schedule, perturbation_radius
from lightning_hp.rehearsal import is_rehearsal
from lightning_hp.reporting import log_scalars
from lightning_hp.second_pass import SecondPass, Writes, optimized_parameters
from lightning_hp.snapshot import Undo
from lightning_hp.trainer import is_resuming, lightning_module_of, misconfiguration
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class SAM(Callback):
    """Sharpness-aware minimization for any torch optimizer: flatter minima, which often generalise better.

    In each step the gradient is computed twice: at the weights w, which gives the point w + e(w) of about the highest
    loss within ``rho``; and at this point, for the optimizer. The model's code stays as it is. Accumulation, clipping,
    precision, schedulers, ``global_step`` and checkpoints are those of the optimizer without SAM, so SAM can be
    switched on or off when a training is resumed. The second pass uses the same dropout masks, and the state that the
    first pass found (a queue, a teacher, a counter); what remains is the state that the first pass has left, with its
    running statistics, metrics and logged values.

    Args:
        rho: Norm of the perturbation e(w), >= 0, in the unit of the weights; 0 switches SAM off. The usual first value
            is 0.05; small networks with noisy labels need 0.2 to 0.5, and ``adaptive`` 0.5 to 2. With a radius that is
            too large the accuracy stays at chance level, without an error; SAM warns once. A parameter group of the
            optimizer may have a radius of its own, ``{"params": ..., "sam_rho": 0.1}``: the part of e(w) in group i is
            then rho_i g / |g|, where |g| is the norm over all groups.
        adaptive: Whether e(w) is measured relative to each weight, so that ``rho`` does not depend on the scale of
            the network (ASAM; Kwon et al., 2021). Takes two more passes over the weights. Needs a ``rho`` of ten times
            SAM's or more.
        eta: Added by ASAM to the absolute value of each weight, >= 0. ASAM scales the weights of matrices and kernels,
            not biases and normalisation layers.
        interval: SAM acts in every ``interval``-th optimizer step, beginning with the first, >= 1; the other steps cost
            what they cost without SAM (Composer, 2022). At the same ``rho`` most of the gain is lost too; increase
            ``rho`` by up to the same factor.
        start: Share of the training before SAM acts, >= 0 and < 1. SAM in the last eighth of a training has given
            nearly the whole gain at an eighth of the cost (Zhou et al., 2025); in our benchmark the last 30 % kept the
            whole gain in two of four tasks, the last tenth in none. The gain depends on the learning rate in that part.
            ``"decay"``: SAM acts from the step in which the learning-rate schedule begins to decay, which is the first
            with a rate below the highest before it, in any parameter group.
        warmup: Share of the training over which the radius rises linearly to ``rho`` once SAM acts, from 0 to 1. Helps
            where ``rho`` would be too large from the first step on.
        params: The parameters to move: ``"all"``; ``"norm"``, the normalisation layers, which takes nearly no memory
            and often has the same gain, but needs a larger ``rho`` (Mueller et al., 2023); or a function of a
            parameter's name and the parameter that returns whether it moves.
        sync_perturbation: With DDP, whether e(w) is computed from the gradient of all processes, at a second all-reduce
            in each step. By default each process uses the gradient of its own samples, as in the paper: m-SAM with m
            the batch size of a process. Sharded training (FSDP2) always uses the gradient of all processes.
        skip_nonfinite: Whether the optimizer step is skipped, on all processes, when a loss or gradient is not finite,
            as a gradient scaler does. Steps in which SAM does not act are not checked. With a gradient scaler the
            scaler decides. With ``False`` this check reads nothing from an accelerator.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: Before the first step, for what SAM cannot act in: manual optimization, LBFGS, an
            optimizer that is SAM already, a second ``SAM``, ``params`` that chooses no trained parameter, a strategy
            other than single device, DDP and FSDP2, ``training_step`` with a ``dataloader_iter``, a module with an
            iterator on it, lazy layers that have seen no batch, ``rho`` instead of ``sam_rho`` in a parameter group, or
            ``start`` and ``warmup`` in a training without an end. For ``start="decay"`` where no schedule decays, where
            one waits for a metric (``ReduceLROnPlateau``), or where one cannot be simulated.

    Note:
        Takes a second forward and backward pass in each step in which it acts, four passes over the weights, and one
        copy of the weights in memory; in the first step one more, in host memory; two of what the step writes itself.
        ``start="decay"`` runs ``configure_optimizers`` once more, and steps copies of the schedulers up to the decay.
        Logs ``sam/grad_norm``, ``sam/sharpness`` (the loss at w + e(w) minus the loss at w) and ``sam/rho`` (the
        largest of the groups) every ``log_every_n_steps``, without a further pass.

        Do not expect a gain from a single pass over very many samples, or over a weight decay that is tuned to the
        noise of the labels. 16-bit weights (``bf16-true``) have too few digits: most of them are not changed by the
        perturbation. SAM measures their share and warns once.

        With ``accumulate_grad_batches`` each batch of the loader has its own e(w). This is m-SAM (Foret et al., 2021),
        with m the loader's batch size. A smaller m often generalises better: let the loader form batches of m samples,
        and accumulate the rest.

    References:
        Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021. Kwon et al.,
        *ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks*, 2021.
        Mueller et al., *Normalization Layers Are All That Sharpness-Aware Minimization Needs*, 2023. Zhou et al.,
        *Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in Training*, 2025. Composer, MosaicML,
        2022.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_hp import SAM
        >>> class Model(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(20, 3)
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         return torch.nn.functional.cross_entropy(self.layer(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> x = torch.randn(512, 20)
        >>> loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=32, shuffle=True)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[SAM(rho=0.05)], logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        >>> trainer.fit(Model(), loader)
        >>> trainer.global_step
        16

    """

    #: SAM acts in every rehearsal, so that a learning rate and a batch size are found with it.
    changes_gradients = True

    def __init__(
        self,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        interval: int = 1,
        start: float | Literal["decay"] = 0.0,
        warmup: float = 0.0,
        params: Literal["all", "norm"] | Callable[[str, nn.Parameter], bool] = "all",
        sync_perturbation: bool = False,
        skip_nonfinite: bool = True,
    ) -> None:
        super().__init__()
        self._start = _checked_start(start)
        self._rho, self._interval, _, self._warmup = check_schedule(rho, interval, 0.0, warmup)
        self._adaptive = check_bool("adaptive", adaptive)
        self._eta = check_factor("eta", eta, minimum=0)
        what = "a function of a parameter's name and the parameter"
        if isinstance(params, str):
            check_choice("params", params, ("all", "norm"), also=what)
        else:
            expected = f"one of 'all', 'norm', or {what}"
            check_callable("params", params, what=expected)
            if inspect.isclass(params) or not _takes(params, 2):
                wrong_type("params", expected, params)
        self._params = params
        self._sync_perturbation = check_bool("sync_perturbation", sync_perturbation)
        self._skip_nonfinite = check_bool("skip_nonfinite", skip_nonfinite)
        self._warned: set[str] = set()
        self._is_resumed = False
        self._reset()

    def _reset(self) -> None:
        """Sets everything that belongs to one run to its initial value."""
        self._perturbation: Perturbation | None = None
        self._radii_of_perturbation: list[float] = []  # one for each parameter of the optimizer
        self._second_pass: SecondPass | None = None
        self._writes = Writes()
        self._monitor = SAMMonitor()
        self._num_training_steps = math.inf
        self._share_before = 0.0 if isinstance(self._start, str) else self._start
        self._radius = 0.0
        self._global_step = self._num_logged = 0
        self._is_logged = False
        self._is_first = True

    def used_hparams(self) -> dict[str, Any]:
        """The settings under which a run with SAM is recorded: the radius, and what differs from the defaults."""
        others = {
            "adaptive": (self._adaptive, False),
            "interval": (self._interval, 1),
            "start": (self._start, 0),
            "warmup": (self._warmup, 0),
            "params": (self._params if isinstance(self._params, str) else "a function", "all"),
        }
        differing = {f"sam/{name}": value for name, (value, default) in others.items() if value != default}
        return {"sam/rho": self._rho, **differing}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what SAM cannot act in. Moves SAM to the front, before callbacks that modify gradients."""
        if stage == "fit" and self._rho > 0:
            refuse_setting(trainer, pl_module, needs_end=bool(self._start or self._warmup))
            refuse_second_sam(trainer, [c for c in trainer.callbacks if isinstance(c, SAM)])  # type: ignore[attr-defined]
            others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
            trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses optimizers that SAM cannot act on, and a choice of parameters none of which is trained."""
        self._is_resumed = is_resuming(trainer)
        if self._rho > 0:
            refuse_lazy_layers(trainer, pl_module)  # `configure_model`, which runs after `setup`, may build them
            refuse_optimizer(trainer)
            self._radii(trainer)
            self._chosen_parameters(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the length of the training and where its schedule decays; refuses unknown ones if they are needed."""
        self._reset()
        if not is_rehearsal(trainer):
            self._num_training_steps = _num_training_steps(trainer)
            if (self._start or self._warmup) and math.isinf(self._num_training_steps):
                raise misconfiguration(
                    trainer,
                    "SAM: expected a training whose length is known, which `start` and `warmup` are shares of, but got"
                    " a loader without a length, or an accumulation that changes. Set `max_steps` or"
                    " `limit_train_batches`.",
                )
            if isinstance(self._start, str) and self._rho > 0:
                self._share_before = share_before_decay(trainer, pl_module, self._num_training_steps, self._is_resumed)
        self._num_logged = _num_logged(trainer, trainer.global_step)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discards what is known of the parameters: layers may have been frozen, unfrozen or added."""
        self._release()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Records the step if SAM acts in it. The first step is recorded in any case, to refuse what cannot work."""
        self._global_step = trainer.global_step
        self._radius = self._radius_of_step(trainer)
        is_first, self._is_first = self._is_first and self._rho > 0, False
        if self._radius > 0 or is_first:
            if self._second_pass is None:
                self._second_pass = SecondPass(trainer, pl_module, self._writes)
            self._is_logged = _num_logged(trainer, self._global_step + 1) > self._num_logged
            self._second_pass.record_next_step(synchronize=self._sync_perturbation if self._radius > 0 else None)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Stashes the gradients that earlier batches have accumulated: e(w) is computed from this batch alone."""
        if self._second_pass is not None and self._second_pass.is_recorded and self._radius > 0:
            self._second_pass.stash_gradients()

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces the gradient at w by the gradient at w + e(w)."""
        second_pass = self._second_pass
        if second_pass is None or not second_pass.is_recorded:
            return
        second_pass.end_first_pass()
        if self._radius == 0:  # the first step of a training in which SAM acts later
            second_pass.discard()
            return
        perturbation = self._perturbation = self._current_perturbation(trainer, pl_module)
        with Undo() as undo:  # not even a second Ctrl-C leaves the weights moved or a part of the second pass
            second_pass.rewind(undo)
            undo.callback(perturbation.restore)
            norm = perturbation.ascend(self._radius)
            self._warn_of_16_bit_weights(trainer, perturbation)
            perturbed_loss = second_pass.repeat()
        if second_pass.loss is not None:
            self._record(trainer, norm, second_pass.loss, perturbed_loss)

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Skips the optimizer step if a loss or gradient is not finite, unless a gradient scaler does."""
        is_nonfinite = self._monitor.pop_nonfinite()
        if is_nonfinite is None or not self._skip_nonfinite or getattr(trainer.precision_plugin, "scaler", None):
            return
        # The gradient of a finite loss may be infinite, so the gradient that the optimizer gets is checked too.
        parameters = optimized_parameters(trainer)
        gradients = [gradient for p in parameters if (gradient := p.grad) is not None]
        is_nonfinite = torch.maximum(is_nonfinite, (~is_finite(gradients)).to(is_nonfinite))
        if trainer.world_size > 1:
            is_nonfinite = trainer.strategy.reduce(is_nonfinite, reduce_op="sum")
        if is_nonfinite.item() > 0:
            for parameter in parameters:
                parameter.grad = None  # an optimizer does not update a parameter without a gradient
            self._warn_once(
                trainer,
                "skipped",
                f"SAM: a loss or gradient was not finite at step {trainer.global_step}, and the optimizer step was"
                " skipped. Further ones will be skipped without a warning. If it happens often, lower `rho` or the"
                " learning rate.",
            )

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Discards the recorded batch, and logs every ``log_every_n_steps``."""
        if self._second_pass is not None:
            self._second_pass.discard()
        if trainer.global_step > self._global_step and (means := self._monitor.pop_scalars()):
            self._num_logged = _num_logged(trainer, trainer.global_step)
            log_scalars(trainer, {f"sam/{name}": mean for name, mean in means.items()}, self._global_step)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Frees the memory of the copy of the weights."""
        self._perturbation = None

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warns once if the training loss does not fall."""
        self._release()
        total, number = self._monitor.pop_epoch()
        is_judged = "stuck" not in self._warned and can_be_judged(trainer.global_step, self._num_training_steps)
        if total is None or not is_judged:
            return
        loss = float(total) / number
        if self._monitor.is_stuck(loss, _num_classes(pl_module)):
            self._warn_once(
                trainer,
                "stuck",
                f"SAM: after {trainer.global_step} steps the training loss is {loss:.4g}, no better than at the start"
                f" or than guessing. If the network learns without SAM, rho={self._rho:.3g} is too large for it: lower"
                " `rho`, or let it rise with `warmup=0.3`.",
            )

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the weights and deletes what belongs to the run: the Trainer does not call ``teardown``."""
        self._release()
        self._reset()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Deletes what belongs to the run."""
        if stage == "fit":
            self._release()
            self._reset()

    def _release(self) -> None:
        """Restores the weights and the strategy, and frees the memory of the copy."""
        if self._second_pass is not None:
            self._second_pass.discard()
        if self._perturbation is not None:
            self._perturbation.restore()  # an interrupt may have stopped the restoring itself
        self._perturbation = self._second_pass = None

    def _radius_of_step(self, trainer: pl.Trainer) -> float:
        radius = max(self._radii(trainer)) if self._rho > 0 else 0.0
        if radius == 0:
            return 0.0
        # A rehearsal uses the full radius from its start: what it finds has to hold for the whole training.
        shares = {} if is_rehearsal(trainer) else {"start": self._share_before, "warmup": self._warmup}
        return perturbation_radius(
            trainer.global_step,
            radius,
            interval=self._interval,
            num_training_steps=self._num_training_steps,
            **shares,
        )

    def _current_perturbation(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Perturbation:
        """The perturbation of the optimizer's parameters; a new one if these or their radii have changed."""
        present, groups = self._perturbation, trainer.optimizers[0].param_groups
        radii = [radius for radius, group in zip(self._radii(trainer), groups, strict=True) for _ in group["params"]]
        if present is not None and radii == self._radii_of_perturbation:
            return present
        only, self._radii_of_perturbation = self._chosen_parameters(trainer, pl_module), radii
        return Perturbation(optimized_parameters(trainer), radii, adaptive=self._adaptive, eta=self._eta, only=only)

    def _radii(self, trainer: pl.Trainer) -> list[float]:
        """The radius of each parameter group of the optimizer."""
        groups = enumerate(trainer.optimizers[0].param_groups)
        return [
            check_factor(f"sam_rho of parameter group {index}", group["sam_rho"], minimum=0)
            if "sam_rho" in group
            else self._rho
            for index, group in groups
        ]

    def _chosen_parameters(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Tensor] | None:
        """The parameters that ``params`` chooses; ``None`` for all. Refuses a choice of which nothing is trained."""
        if self._params == "all":
            return None
        named = list(pl_module.named_parameters())
        if self._params == "norm":
            chosen = norm_parameters(pl_module)
        else:
            chosen = [
                parameter
                for name, parameter in named
                if check_bool("the result of `params`", self._params(name, parameter))
            ]
        trained = {id(parameter) for parameter in optimized_parameters(trainer) if parameter.requires_grad}
        if not any(id(parameter) in trained for parameter in chosen):
            what = "params='norm'" if self._params == "norm" else "the function `params`"
            raise misconfiguration(
                trainer,
                f"SAM: expected {what} to choose parameters that are trained, but the optimizer trains none of the"
                f" {len(chosen)} that it chose. Names here are like {', '.join(repr(name) for name, _ in named[:3])}.",
            )
        return list(chosen)

    def _record(self, trainer: pl.Trainer, norm: Tensor, loss: Tensor, perturbed_loss: Tensor) -> None:
        """Records one batch, without reading from an accelerator."""
        self._monitor.add_finiteness(norm, perturbed_loss)
        self._monitor.add_loss(loss, trainer.global_step)
        if self._is_logged:
            scale = torch.full((), 1 / trainer.accumulate_grad_batches, device=loss.device)
            scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
            scale = scale if scaler is None else scaler.scale(scale)
            self._monitor.add_scalars(
                {
                    "grad_norm": norm / scale,
                    "sharpness": perturbed_loss - loss,
                    "rho": torch.full_like(loss, self._radius),  # not `new_tensor`, which waits for the accelerator
                }
            )

    def _warn_of_16_bit_weights(self, trainer: pl.Trainer, perturbation: Perturbation) -> None:
        """Measures in the first step which share of 16-bit weights is not changed, and warns."""
        if "16 bits" in self._warned or is_rehearsal(trainer):
            return
        if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in perturbation.parameters):
            share = float(perturbation.share_unmoved())
            self._warn_once(
                trainer,
                "16 bits",
                f"SAM: {share:.0%} of the weights are not changed by rho={self._radius:.3g}, since they have 16 bits."
                " Keep weights in 32 bits: precision='bf16-mixed' or '16-mixed'.",
            )
        self._warned.add("16 bits")

    def _warn_once(self, trainer: pl.Trainer, topic: str, message: str) -> None:
        """Warns once for each topic; not in a rehearsal, in which extreme values are expected."""
        if topic not in self._warned and not is_rehearsal(trainer):
            self._warned.add(topic)
            rank_zero_warn(message)


def _checked_start(start: Any) -> float | Literal["decay"]:
    if isinstance(start, str):
        check_choice("start", start, ("decay",), also="a number >= 0 and < 1")
        return "decay"
    return check_number("start", start, minimum=0, below=1, also="'decay'")


def _num_training_steps(trainer: Any) -> float:
    """The number of optimizer steps of the whole training; infinite if Lightning does not know it."""
    try:
        steps = float(trainer.estimated_stepping_batches)
    except lightning_module_of(trainer, "utilities.exceptions").MisconfigurationException:
        return math.inf  # the accumulation changes with the epochs
    return steps if steps > 0 else math.inf


def _num_logged(trainer: Any, steps: int) -> int:
    """How often a training has logged after this many steps; 0 without a logger and in a rehearsal."""
    interval = trainer.log_every_n_steps
    return steps // interval if interval and trainer.loggers and not is_rehearsal(trainer) else 0


def _num_classes(pl_module: nn.Module) -> int | None:
    """The number of outputs of the last linear layer, which in a classifier is the number of classes."""
    linear = [layer for layer in pl_module.modules() if isinstance(layer, nn.Linear)]
    return (linear[-1].out_features or None) if linear else None


def _takes(function: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with this number of positional arguments; ``True`` if it has no signature."""
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:
        return False
    except ValueError:  # a built-in function
        return True
    return True
