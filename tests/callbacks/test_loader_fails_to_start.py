"""A loader that fails while it starts: out of memory is a limit of the search, everything else is raised as it is."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_hp import BatchSizeScaler
from tests.training import Net, Samples


class FailsToStart(DataLoader):
    """Raises in ``__iter__`` above a batch size."""

    def __init__(self, error: BaseException, cap: int, **kwargs: Any) -> None:
        super().__init__(Samples(), **kwargs)
        self.error, self.cap = error, cap

    def __iter__(self) -> Any:
        if self.batch_size > self.cap:
            raise self.error
        return super().__iter__()


class OwnLoader(Net):
    def __init__(self, error: BaseException, cap: int = 20, part: str = "train") -> None:
        super().__init__()
        self.error, self.cap, self.part, self.batch_size = error, cap, part, 8

    def _loader(self, part: str) -> DataLoader:
        return FailsToStart(self.error, self.cap if part == self.part else 10**9, batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")


def scaler() -> BatchSizeScaler:
    limits = {"min_steps_per_epoch": 1, "min_training_steps": 1}
    return BatchSizeScaler("memory", min_per_class=0, max_val=32, margin=0, limits=limits)


def fit(module: OwnLoader) -> BatchSizeScaler:
    torch.manual_seed(5)
    callback = scaler()
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module)
    return callback


@pytest.mark.parametrize(
    ("part", "error"),
    [("train", MemoryError("Unable to allocate 8.00 GiB")), ("val", torch.OutOfMemoryError("CUDA out of memory."))],
    ids=["train", "val"],
)
def test_memory_that_ends_while_a_loader_starts_is_a_limit(part: str, error: Exception) -> None:
    assert fit(OwnLoader(error, part=part)).optimal_batch_size == 20


@pytest.mark.parametrize(
    ("error", "part", "cap"),
    [
        (ValueError("a bug of the user"), "train", 4),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. "), "val", 10),
        (KeyboardInterrupt(), "train", 10),
        (SystemExit(3), "val", 4),
    ],
    ids=["bug", "worker", "ctrl_c", "exit"],
)
def test_any_other_error_is_raised_as_it_is(error: BaseException, part: str, cap: int) -> None:
    module = OwnLoader(error, cap, part)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError, KeyboardInterrupt, SystemExit)) as caught:
        fit(module)
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        chain.append(chain[-1].__context__)
    assert error in chain
    assert not any("Please call" in str(one) for one in chain)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.batch_size == 8


def test_in_an_evaluation_too() -> None:
    module = OwnLoader(MemoryError("Unable to allocate 8.00 GiB"), part="val")
    callback = scaler()
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.validate(module, verbose=False)
    assert callback.optimal_batch_size == 20
