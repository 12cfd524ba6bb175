"""A Trainer for benchmarks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


def quiet_trainer(**options: Any) -> pl.Trainer:
    """A Trainer without logger, checkpoints, progress bar and model summary, on the CPU if no accelerator is named."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**quiet, **options})


@dataclass(frozen=True)
class Where:
    """On which device a benchmark runs, and in which form.

    Attributes:
        accelerator: The word of ``Trainer(accelerator=)``, ``"cpu"`` or ``"gpu"``.
        precision: That of ``Trainer(precision=)``.
        channels_last: Whether images have their channels last in memory.

    """

    accelerator: str = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.accelerator == "cpu" else "cuda")

    @property
    def trainer(self) -> dict[str, Any]:
        """Arguments of the Trainer."""
        return {"accelerator": self.accelerator, "devices": 1, "precision": self.precision}

    def place(self, net: nn.Module) -> nn.Module:
        """The network there; for a loop without a Trainer."""
        return self.form(net.to(self.device))

    def form(self, net: nn.Module) -> nn.Module:
        """The network with its memory in this form."""
        return net.to(memory_format=torch.channels_last) if self.channels_last else net

    def batch(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors of a batch there."""
        return tuple(tensor.to(self.device) for tensor in tensors)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision as a context, for a loop without a Trainer."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16-mixed" else nullcontext()

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type != "cpu":
            torch.cuda.synchronize()


ON_CPU = Where()
