"""Contract 1 (everything is restored) and 5 (the value is used) for every callback in every training of the tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tests.callbacks.contract import MEMBERS, TRAININGS, Member, Training, batch_size_by_hand, loader
from tests.training import Run, assert_same_training, train

# A refusal changes nothing else, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")

VALIDATION = loader()  # its batch size is no concern of a callback
_WITHOUT: dict[str, Run] = {}

members = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
trainings = pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)


def run(training: Training, callbacks: list[Any], **module_kwargs: Any) -> Run:
    torch.manual_seed(5)
    module = training.module_class(**{**training.module, **module_kwargs})
    return train(
        module, [*callbacks, *training.callbacks()], training.loader(), val_loader=VALIDATION, **training.trainer()
    )


def without(training: Training) -> Run:
    if training.name not in _WITHOUT:
        _WITHOUT[training.name] = run(training, [])
    return _WITHOUT[training.name]


@trainings
@members
def test_a_run_with_an_idle_callback_is_the_run_without_it(member: Member, training: Training) -> None:
    if training.name in member.refuses:
        with pytest.raises(MisconfigurationException):
            run(training, [member.idle()])
        return
    assert_same_training(run(training, [member.idle()]), without(training))


@trainings
@pytest.mark.parametrize("member", [m for m in MEMBERS if m.active], ids=lambda member: member.name)
def test_a_run_with_the_callback_is_the_run_with_its_value_set_by_hand(member: Member, training: Training) -> None:
    assert member.active is not None
    assert member.applied is not None
    if training.name in member.refuses:
        pytest.skip("refused: the test above has it")
    callback = member.active()
    with_callback = run(training, [callback])
    assert None not in member.applied(callback).values()
    with batch_size_by_hand(member.applied_batch_size(callback)):
        by_hand = run(training, [], **member.applied(callback))
    assert_same_training(with_callback, by_hand)
    assert with_callback.module.hparams == by_hand.module.hparams
