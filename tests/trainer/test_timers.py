"""A search before the training counts as time of the training."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import Timer

from lightning_hp import BatchSizeScaler, LRFinder
from lightning_hp.trainer import count_seconds, seconds_left
from tests.callbacks.contract import loader
from tests.training import Net, train


class FakeTrainer:
    """What the functions read of a Trainer."""

    def __init__(self, *callbacks: object) -> None:
        self.callbacks = list(callbacks)


def test_the_first_timer_to_end_decides() -> None:
    trainer = FakeTrainer(Timer({"seconds": 50}), object(), Timer({"seconds": 20}), Timer(None))
    assert seconds_left(trainer) == 20
    count_seconds(trainer, 15.0)
    assert seconds_left(trainer) == 5
    assert seconds_left(FakeTrainer(Timer(None))) is seconds_left(FakeTrainer()) is None


def test_what_the_finders_take_is_time_of_the_training() -> None:
    torch.manual_seed(5)
    timer = Timer({"hours": 10})
    finder = LRFinder(min_lr=1e-4, num_training_steps=40, suggestion="fall", num_repeats=1, zoom=False)
    scaler = BatchSizeScaler(min_per_class=8, max_val=24, class_options={"num_classes": 3})
    train(Net(), [scaler, finder, timer], loader(shuffle=True), max_epochs=1)
    start, end = timer.start_time(), timer.end_time()
    assert start is not None
    assert end is not None
    searched = scaler.result.seconds + finder.result.seconds
    assert timer.time_elapsed() - (end - start) == pytest.approx(searched, abs=1e-6)
