"""One training of a task in an arm, and its scores."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.sam_quality.arms import DECAY, WARM_UP, Arm
from benchmarks.sam_quality.data import Part, with_wrong_labels
from benchmarks.sam_quality.tasks import Task
from benchmarks.trainers import quiet_trainer
from lightning_hp import SAM, LRFinder

#: Trainings that choose a setting have a seed of their own.
TUNING_SEED = 1000

#: The radius at which the learning rate of SAM's family is found.
FINDER_RADIUS = 0.1


@dataclass(frozen=True)
class Setting:
    """What is tuned, and the length."""

    lr: float
    weight_decay: float
    rho: float
    epochs: int


@dataclass(frozen=True)
class Training:
    """A finished training: accuracies in percent, processor time in seconds; no test accuracy in tuning."""

    task: str
    arm: str
    seed: int
    lr: float
    weight_decay: float
    rho: float
    epochs: int
    val_accuracy: float
    val_loss: float
    test_accuracy: float | None
    seconds: float

    @property
    def setting(self) -> Setting:
        """Its settings."""
        return Setting(self.lr, self.weight_decay, self.rho, self.epochs)


class Classification(pl.LightningModule):
    """Cross entropy, and a rate that rises, stays and falls."""

    def __init__(self, net: nn.Module, optimizer: str, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        *inputs, labels = batch
        return cross_entropy(self.net(*inputs), labels)

    def configure_optimizers(self) -> Any:
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer = (
            SGD(self.parameters(), momentum=0.9, **options)
            if self.optimizer == "SGD"
            else AdamW(self.parameters(), **options)
        )
        steps = int(self.trainer.estimated_stepping_batches)
        rise, fall = max(1, round(WARM_UP * steps)), max(1, round(DECAY * steps))
        schedule = LambdaLR(optimizer, lambda step: max(0.0, min(1.0, (step + 1) / rise, (steps - step) / fall)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def training_part(task: Task, seed: int) -> Part:
    """The samples that a seed is trained on."""
    part = task.parts().train
    return with_wrong_labels(part, task.wrong_labels, seed) if task.wrong_labels else part


def suggested_lr(task: Task, family: str, weight_decay: float) -> float:
    """The learning rate that the finder suggests, with SAM or without."""
    pl.seed_everything(TUNING_SEED, verbose=False)
    module = Classification(task.net(), task.optimizer, 0.05 if task.optimizer == "SGD" else 1e-3, weight_decay)
    callbacks = [SAM(rho=FINDER_RADIUS)] if family == "SAM" else []
    trainer = quiet_trainer(max_epochs=task.epochs, callbacks=callbacks)
    result = LRFinder().find(trainer, module, _loader(task, TUNING_SEED))
    assert result is not None
    assert result.suggestion is not None, f"no learning rate for {task.name}"
    return float(result.suggestion)


def train(task: Task, arm: Arm, setting: Setting, seed: int, weights: Path | None = None) -> Training:
    """Trains once.

    Args:
        task: The training.
        arm: How it is done.
        setting: Its numbers.
        seed: The seed of the weights, the order and the wrong labels.
        weights: Where the trained weights are saved; such a training is scored on the test split too.

    Returns:
        Its scores.

    """
    pl.seed_everything(seed, verbose=False)
    module = Classification(task.net(), task.optimizer, setting.lr, setting.weight_decay)
    callbacks = [] if arm.sam is None else [SAM(rho=setting.rho, **arm.sam)]
    trainer = quiet_trainer(max_epochs=setting.epochs, callbacks=callbacks)
    loader = _loader(task, seed)
    started = time.process_time()
    trainer.fit(module, loader)
    seconds = time.process_time() - started
    module.eval()
    parts = task.parts()
    accuracy, loss = score(module.net, parts.val)
    test = None
    if weights is not None:
        test, _ = score(module.net, parts.test)
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.net.state_dict(), weights)
    return Training(task.name, arm.name, seed, **asdict(setting), val_accuracy=accuracy, val_loss=loss,
                    test_accuracy=test, seconds=seconds)  # fmt: skip


@torch.no_grad()
def score(net: nn.Module, part: Part) -> tuple[float, float]:
    """Accuracy in percent, and the mean loss; a loss that is not finite counts as 1e9."""
    *inputs, labels = part
    logits = torch.cat([net(*chunk) for chunk in zip(*(tensor.split(256) for tensor in inputs), strict=True)])
    loss = float(cross_entropy(logits, labels))
    return 100.0 * float((logits.argmax(1) == labels).float().mean()), loss if math.isfinite(loss) else 1e9


def _loader(task: Task, seed: int) -> DataLoader[Any]:
    # Whole batches are drawn from the tensors at once, which is faster than one sample at a time.
    samples = TensorDataset(*training_part(task, seed))
    order = BatchSampler(RandomSampler(samples), task.batch_size, drop_last=True)
    return DataLoader(samples, batch_size=None, sampler=order)
