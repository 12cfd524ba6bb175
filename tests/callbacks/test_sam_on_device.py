"""What SAM costs on an accelerator beside its passes: it does not wait for the device, and launches few kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_hp.functional as hpf
from lightning_hp import SAM
from lightning_hp.second_pass import Writes
from lightning_hp.second_pass.second_pass import SecondPass
from lightning_hp.second_pass.side_effects import SideEffects
from lightning_hp.second_pass.writes import FINGERPRINTED_STEPS
from tests.devices import count_launches, no_waiting, on_each_device, torch_device
from tests.training import train

Record = Callable[[str, object], None]


class Plain(pl.LightningModule):
    """A step without an operation for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.guards = self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Guarded(SAM):
    """Every hook raises where the host would wait, after the first steps, in which all writes are looked for."""

    device = "cpu"
    on = ("on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step")

    def __getattribute__(self, name: str) -> Any:
        hook = super().__getattribute__(name)
        return _guarded(hook, self.device) if name in Guarded.on else hook


def _guarded(hook: Callable[..., Any], device: str) -> Callable[..., Any]:
    def call(trainer: pl.Trainer, module: Plain, *args: Any) -> Any:
        if trainer.global_step < FINGERPRINTED_STEPS:
            return hook(trainer, module, *args)
        module.guards += 1
        # On the CPU the length of the perturbation is read.
        with no_waiting(device, reads=int(hook.__name__ == "on_after_backward")):
            return hook(trainer, module, *args)

    return call


def fit(sam: SAM, device: str, **kwargs: Any) -> Plain:
    torch.manual_seed(0)
    module = Plain()
    data = DataLoader(TensorDataset(torch.randn(96, 8), torch.randint(3, (96,))), batch_size=16)
    train(module, [sam], data, val_loader=data, limit_val_batches=0, max_epochs=1, accelerator=device, **kwargs)
    return module


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("options", [{}, {"adaptive": True}], ids=["plain", "adaptive"])
@on_each_device
def test_a_step_of_the_callback_does_not_wait(
    device: str, options: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = SecondPass._begin_first_pass
    recorded = [0]

    def guarded(second_pass: SecondPass, *args: Any) -> None:
        recorded[0] += 1
        if recorded[0] <= FINGERPRINTED_STEPS:
            begin(second_pass, *args)
            return
        with no_waiting(device):
            begin(second_pass, *args)

    monkeypatch.setattr(SecondPass, "_begin_first_pass", guarded)
    monkeypatch.setattr(Guarded, "device", device)
    # In each step SAM records what it logs; the training reads it, once in `log_every_n_steps`.
    module = fit(Guarded(skip_nonfinite=False, **options), device, precision=precision)
    assert module.guards == 4 * (6 - FINGERPRINTED_STEPS)
    assert recorded == [6]


@on_each_device
def test_the_check_for_finite_gradients_waits_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is documented, and the argument that switches it off is tested above."""
    monkeypatch.setattr(Guarded, "device", device)
    with pytest.raises((AssertionError, RuntimeError), match=r"_local_scalar_dense|synchroniz"):
        fit(Guarded(), device)


def parameters(number: int, device: torch.device) -> list[nn.Parameter]:
    many = [nn.Parameter(torch.randn(5, 3, device=device)) for _ in range(number)]
    for parameter in many:
        parameter.grad = torch.randn_like(parameter)
    return many


@pytest.mark.parametrize("adaptive", [False, True])
@on_each_device
def test_the_perturbation_launches_few_kernels_for_many_tensors(
    device: str, adaptive: bool, record_property: Record
) -> None:
    number = 400
    sam = hpf.Perturbation(parameters(number, torch_device(device)), adaptive=adaptive)

    def there_and_back() -> None:
        sam.ascend()
        sam.restore()

    launched = count_launches(device, there_and_back)
    record_property("kernels for 400 tensors", launched)
    # One kernel of torch's takes some dozens of tensors; one launch for each tensor would be 1600 and more.
    assert 0 < launched <= number / 2


@on_each_device
def test_statistics_are_saved_and_restored_with_few_kernels(device: str, record_property: Record) -> None:
    net = nn.Sequential(*(nn.BatchNorm1d(8) for _ in range(60))).to(torch_device(device))
    effects = SideEffects(net, list(net.parameters()), Writes())

    def one_step() -> None:
        effects.begin_first_pass()
        effects.end_first_pass()
        effects.rewind()
        effects.restore()

    for _ in range(FINGERPRINTED_STEPS):
        one_step()
    launched = count_launches(device, one_step)
    record_property("kernels for 180 buffers", launched)
    assert 0 < launched <= 45
