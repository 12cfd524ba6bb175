"""SAM: every gradient that the optimizer gets is the gradient at w + e(w)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_hp.callbacks.sam_refusals import refuse_optimizer, refuse_second, refuse_setting
from lightning_hp.functional.checks import check_radius, expect
from lightning_hp.functional.gradients import is_finite
from lightning_hp.functional.norm_layers import norm_parameters
from lightning_hp.functional.sharpness.perturbation import Perturbation
from lightning_hp.functional.sharpness.schedule import is_stuck, perturbation_radius
from lightning_hp.rehearsal import is_rehearsal
from lightning_hp.reporting import log_scalars
from lightning_hp.second_pass import SecondPass, SilentWrites, optimized_parameters
from lightning_hp.trainer import lightning_module_of, misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl

# A training that is stuck is told from one that begins slowly, as SAM does, after this share of it, and so many steps;
# after so many steps if its length is not known.
_SHARE_TO_JUDGE, _STEPS_TO_JUDGE, _STEPS_OF_NO_END = 0.5, 100, 1000
_FIRST_STEPS = 16


class SAM(Callback):
    """Sharpness-aware minimization for any torch optimizer: flatter minima, which often generalise better.

    In each step the gradient is computed twice: at the weights w, to climb to w + e(w), about where the loss is highest
    within ``rho``; and there again, for the optimizer. Nothing of the model's code changes. Accumulation, clipping,
    precision, schedulers, ``global_step`` and checkpoints are those of the optimizer alone, so SAM can be switched on
    or off when a run is resumed. The second pass sees the same dropout masks; running statistics, metrics, logged
    values and random streams are those of the first pass only.

    Args:
        rho: Radius of the ball, >= 0, in the weights' own unit; 0 switches SAM off. 0.05 is the usual start; small
            networks with noisy labels want 0.2 to 0.5. *Trap*: a radius that is too large ends at the accuracy of
            guessing without an error; SAM says so once. With ``adaptive`` 0.5 to 2.
        adaptive: ASAM: the ball is measured relative to each weight, so ``rho`` does not depend on the scale of the
            network. Costs two more passes over the weights. *Trap*: its ``rho`` is ten times SAM's or more.
            (Kwon et al., 2021)
        eta: What ASAM adds to the size of each weight, >= 0. Weights of matrices and kernels are scaled, biases and
            normalisation layers are not.
        every: Acts in the first of so many optimizer steps, >= 1; the others cost what they cost without SAM. *Trap*:
            at the same ``rho`` most of the gain goes too; raise ``rho`` with it, by up to the same factor. (Composer,
            2022)
        start: Share of the training before SAM acts, >= 0 and < 1. The last eighth of a training has given nearly the
            whole gain, at an eighth of the cost. *Trap*: what the learning rate has become by then decides. (Zhou et
            al., 2025)
        warmup: Share of the training over which the radius rises, in a straight line, to ``rho`` once SAM acts, from 0
            to 1. Costs nothing, and saves a radius that would otherwise end at guessing. *Trap*: none known. (measured
            by us)
        params: What moves: ``"all"``, ``"norm"`` (the normalisation layers: nearly no memory, often the same gain;
            *trap*: asks for a larger ``rho``; Mueller et al., 2023), or a function of a parameter's name and the
            parameter that says whether it does.
        sync_perturbation: With DDP, whether the processes climb by the gradient of all their samples, at a second
            all-reduce in each step. By default each climbs by its own, as in the paper: m-SAM, where m is the batch
            size of a process. Sharded training (FSDP2) always climbs by the gradient of all.
        skip_nonfinite: Leaves the optimizer step out when a loss or gradient is not finite, on all processes, as a
            gradient scaler does. Steps where SAM is not due are not guarded. With ``False`` nothing is read back from
            an accelerator and the numbers take their course. With a gradient scaler it is the scaler that skips.

    With ``accumulate_grad_batches`` each batch of the loader has its own e(w): m-SAM with m the loader's batch size. A
    smaller m often generalises better; give the loader m samples and accumulate the rest. (Foret et al., 2021)

    Raises:
        ValueError: If an argument is out of its range or of a wrong kind.
        MisconfigurationException: Before the first step, for what SAM cannot act in: manual optimization, LBFGS, an
            optimizer that is SAM already, a second ``SAM``, ``params`` that chooses nothing that is trained, a strategy
            other than single device, DDP and FSDP2, ``training_step`` with a ``dataloader_iter``, a module with an
            iterator on it, or ``start`` and ``warmup`` in a training without an end.

    Costs a second forward and backward pass in each step where it acts, four passes over the weights, and one copy of
    the weights in memory. Logs ``sam/grad_norm``, ``sam/sharpness`` (the loss at w + e(w) minus the loss at w) and
    ``sam/rho`` every ``log_every_n_steps``, at no extra pass.

    Where it does not help: one pass over very many samples; a network whose weight decay is well tuned to the noise of
    its labels can be as good; with 16-bit *weights* (``bf16-true``) most weights are too coarse to move, which is
    measured and said once.

    Source: Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021.

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

    #: It acts in every rehearsal: a learning rate and a batch size are found with SAM.
    changes_gradients = True

    def __init__(
        self,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        every: int = 1,
        start: float = 0.0,
        warmup: float = 0.0,
        params: Literal["all", "norm"] | Callable[[str, nn.Parameter], bool] = "all",
        sync_perturbation: bool = False,
        skip_nonfinite: bool = True,
    ) -> None:
        super().__init__()
        perturbation_radius(0, rho, every=every, start=start, warmup=warmup, num_training_steps=1)  # refuses
        check_radius("eta", eta)
        is_known = isinstance(params, str) and params in ("all", "norm")
        expect(is_known or callable(params), "`params` to be 'all', 'norm' or a function", params)
        for name, value in (
            ("adaptive", adaptive), ("sync_perturbation", sync_perturbation), ("skip_nonfinite", skip_nonfinite)
        ):  # fmt: skip
            expect(isinstance(value, bool), f"`{name}` to be True or False", value)
        self._rho, self._adaptive, self._eta = rho, adaptive, eta
        self._every, self._start, self._warmup = every, start, warmup
        self._params = params
        self._sync_perturbation = sync_perturbation
        self._skip_nonfinite = skip_nonfinite
        self._said: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        """Nothing of a run outlives it."""
        self._perturbation: Perturbation | None = None
        self._second: SecondPass | None = None
        self._silent = SilentWrites()
        self._steps = math.inf
        self._radius = 0.0
        self._step: dict[str, list[Tensor]] = {}
        self._unhealthy: Tensor | None = None
        self._global_step = self._logged = 0
        self._is_logged = False
        self._is_first = True
        self._first_losses: list[Tensor] = []
        self._epoch_loss: Tensor | None = None
        self._epoch_steps = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what SAM cannot act in, and steps in front: it has to see the gradients before others edit them."""
        if stage == "fit" and self._rho > 0:
            refuse_setting(trainer, pl_module, needs_end=self._start > 0 or self._warmup > 0)
            refuse_second(trainer, [c for c in trainer.callbacks if isinstance(c, SAM)])  # type: ignore[attr-defined]
            others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
            trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses optimizers that SAM cannot act on, and a choice of parameters none of which is trained."""
        if self._rho > 0:
            refuse_optimizer(trainer)
            self._chosen(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learns how long the training is, if it has to."""
        self._forget()
        if not is_rehearsal(trainer):
            self._steps = _length(trainer)
            if (self._start or self._warmup) and math.isinf(self._steps):
                raise misconfiguration(
                    trainer,
                    "SAM: expected a training whose length is known, which `start` and `warmup` are shares of, got a"
                    " loader without a length, or an accumulation that changes. Set `max_steps` or"
                    " `limit_train_batches`.",
                )
        self._logged = _times_to_log(trainer, trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks anew at what there is to move: layers may have been frozen, freed or added."""
        self._release()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether SAM is due in this step, and listens to it if so; to the first step in any case."""
        self._global_step = trainer.global_step
        self._radius = self._radius_of_step(trainer)
        is_first, self._is_first = self._is_first and self._rho > 0, False
        if self._radius > 0 or is_first:
            if self._second is None:
                self._second = SecondPass(trainer, pl_module, self._silent)
            self._is_logged = _times_to_log(trainer, self._global_step + 1) > self._logged
            self._second.arm(synchronise=self._sync_perturbation if self._radius > 0 else None)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Sets aside what earlier batches of the step have accumulated: this batch climbs by its own gradient."""
        if self._second is not None and self._second.is_recorded and self._radius > 0:
            self._second.set_gradients_aside()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces the gradient at w by the gradient at w + e(w)."""
        second = self._second
        if second is None or not second.is_recorded:
            return
        second.conclude_first()
        if self._radius == 0:  # a batch that SAM cannot repeat has been refused now, not when SAM is due
            second.disarm()
            return
        perturbation = self._perturbation = self._renewed(trainer, pl_module)
        with perturbation.ascended(self._radius) as norm:
            self._say_what_does_not_move(trainer, perturbation)
            loss = second.run()
        if second.loss is not None:
            self._note(trainer, norm, second.loss, loss)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Leaves the step out if a loss or a gradient is not finite; a gradient scaler does so by itself."""
        unhealthy, self._unhealthy = self._unhealthy, None
        if unhealthy is None or not self._skip_nonfinite or getattr(trainer.precision_plugin, "scaler", None):
            return
        # A loss can be finite and its gradient not: what the optimizer is about to get is looked at, too.
        parameters = optimized_parameters(trainer)
        gradients = [gradient for p in parameters if (gradient := p.grad) is not None]
        unhealthy = torch.maximum(unhealthy, (~is_finite(gradients)).to(unhealthy))
        if trainer.world_size > 1:
            unhealthy = trainer.strategy.reduce(unhealthy, reduce_op="sum")
        if unhealthy.item() > 0:
            for parameter in parameters:
                parameter.grad = None  # an optimizer leaves a parameter without a gradient alone
            self._say(
                trainer,
                "skipped",
                f"SAM: a loss or gradient was not finite at step {trainer.global_step}, and the step was left out; so"
                " will be others. If it happens often, lower `rho` or the learning rate.",
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets go of the batch, and logs now and then."""
        if self._second is not None:
            self._second.disarm()
        if self._step and trainer.global_step > self._global_step:
            self._logged = _times_to_log(trainer, trainer.global_step)
            means = {f"sam/{name}": float(torch.stack(values).mean()) for name, values in self._step.items()}
            self._step = {}
            log_scalars(trainer, means, self._global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Frees the copy of the weights: the memory may be wanted."""
        self._perturbation = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks whether anything is learned at all."""
        self._release()
        total, self._epoch_loss = self._epoch_loss, None
        steps, self._epoch_steps = self._epoch_steps, 0
        known = math.isfinite(self._steps)
        enough = max(_STEPS_TO_JUDGE, _SHARE_TO_JUDGE * self._steps) if known else _STEPS_OF_NO_END
        if total is None or trainer.global_step < enough or "stuck" in self._said:
            return
        first = [float(loss) for loss in self._first_losses]
        loss = float(total) / steps
        if all(map(math.isfinite, [*first, loss])) and is_stuck(first, loss, _num_outputs(pl_module)):
            self._say(
                trainer,
                "stuck",
                f"SAM: after {trainer.global_step} steps the training loss is {loss:.4g}, no better than at the start"
                f" or than guessing. If the network learns without SAM, rho={self._rho:.3g} is too large for it: lower"
                " `rho`, or let it rise with `warmup=0.3`.",
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lets go of everything: the Trainer does not call ``teardown``."""
        self._release()
        self._forget()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets go of everything."""
        if stage == "fit":
            self._release()
            self._forget()

    def _release(self) -> None:
        if self._second is not None:
            self._second.disarm()
        if self._perturbation is not None:
            self._perturbation.restore()  # an interrupt can hit the way back itself
        self._perturbation = self._second = None

    def _radius_of_step(self, trainer: pl.Trainer) -> float:
        if self._rho == 0:
            return 0.0
        late = {} if is_rehearsal(trainer) else {"start": self._start, "warmup": self._warmup}
        # In a rehearsal SAM is at its full strength: what is found has to hold then, too.
        return perturbation_radius(
            trainer.global_step, self._rho, every=self._every, num_training_steps=self._steps, **late
        )

    def _renewed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Perturbation:
        """The perturbation of the optimizer's parameters: the one there is, or a new one if they have changed."""
        there, groups = self._perturbation, trainer.optimizers[0].param_groups
        if there is not None and len(there.parameters) == sum(len(group["params"]) for group in groups):
            return there
        only = self._chosen(trainer, pl_module)
        return Perturbation(optimized_parameters(trainer), self._rho, adaptive=self._adaptive, eta=self._eta, only=only)

    def _chosen(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Tensor] | None:
        """What ``params`` chooses; ``None`` for all. Refuses a choice of which nothing is trained."""
        if self._params == "all":
            return None
        named = list(pl_module.named_parameters())
        if self._params == "norm":
            chosen = norm_parameters(pl_module)
        else:
            chosen = [parameter for name, parameter in named if self._params(name, parameter)]
        trained = {id(parameter) for parameter in optimized_parameters(trainer) if parameter.requires_grad}
        if not any(id(parameter) in trained for parameter in chosen):
            what = "params='norm'" if self._params == "norm" else "the function `params`"
            raise misconfiguration(
                trainer,
                f"SAM: expected {what} to choose parameters that are trained, but of the {len(chosen)} that it chose"
                f" the optimizer trains none. Names here are like {', '.join(repr(name) for name, _ in named[:3])}.",
            )
        return list(chosen)

    def _note(self, trainer: pl.Trainer, norm: Tensor, loss: Tensor, loss_there: Tensor) -> None:
        """Keeps what is logged and watched, on the device."""
        unhealthy = (~(torch.isfinite(norm) & torch.isfinite(loss_there.to(norm.device)))).float()
        self._unhealthy = unhealthy if self._unhealthy is None else torch.maximum(self._unhealthy, unhealthy)
        if self._is_logged:
            scale = torch.full((), 1 / trainer.accumulate_grad_batches, device=loss.device)
            scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
            scale = scale if scaler is None else scaler.scale(scale)
            entries = {"grad_norm": norm / scale, "sharpness": loss_there - loss, "rho": loss.new_tensor(self._radius)}
            for name, value in entries.items():
                self._step.setdefault(name, []).append(value.float())
        self._epoch_steps += 1
        if trainer.global_step < _FIRST_STEPS:
            self._first_losses.append(loss.float())
        self._epoch_loss = loss.float() if self._epoch_loss is None else self._epoch_loss + loss

    def _say_what_does_not_move(self, trainer: pl.Trainer, perturbation: Perturbation) -> None:
        """Weights of 16 bits are measured once."""
        if "coarse" in self._said or is_rehearsal(trainer):
            return
        if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in perturbation.parameters):
            share = float(perturbation.share_unmoved())
            self._say(
                trainer,
                "coarse",
                f"SAM: {share:.0%} of the weights are too coarse to move by rho={self._radius:.3g}, since they have 16"
                " bits. Keep weights in 32 bits: precision='bf16-mixed' or '16-mixed'.",
            )
        self._said.add("coarse")

    def _say(self, trainer: pl.Trainer, topic: str, message: str) -> None:
        """Says it once, and not in a rehearsal, which is meant to go too far."""
        if topic not in self._said and not is_rehearsal(trainer):
            self._said.add(topic)
            rank_zero_warn(message)


def _length(trainer: Any) -> float:
    """The optimizer steps of the whole training; infinite where Lightning cannot tell."""
    try:
        steps = float(trainer.estimated_stepping_batches)
    except lightning_module_of(trainer, "utilities.exceptions").MisconfigurationException:
        return math.inf  # the accumulation changes with the epochs
    return steps if steps > 0 else math.inf


def _times_to_log(trainer: Any, steps: int) -> int:
    """How often a training of so many steps has logged; never without a logger, and not in a rehearsal."""
    interval = trainer.log_every_n_steps
    return steps // interval if interval and trainer.loggers and not is_rehearsal(trainer) else 0


def _num_outputs(pl_module: nn.Module) -> int | None:
    """The number of classes, if the last linear layer tells them."""
    linear = [layer for layer in pl_module.modules() if isinstance(layer, nn.Linear)]
    return linear[-1].out_features if linear else None
