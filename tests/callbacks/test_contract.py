"""Contract 1 (everything is restored) and 5 (the value is used) for every callback in every training of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tests.callbacks.contract import (
    DATA_ROWS,
    MEMBERS,
    STEP_ROWS,
    TRAININGS,
    Member,
    Training,
    batch_size_by_hand,
    loader,
)
from tests.training import Run, assert_same_training, train, worst_difference

# A refusal changes nothing else, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")

VALIDATION = loader()  # its batch size is no concern of a callback
_WITHOUT: dict[tuple[str, str], Run] = {}


def rows(members: list[Member], is_active: bool = False) -> Any:
    """Each member in each training on each device."""
    return pytest.mark.parametrize(
        ("member", "training", "device"),
        [
            pytest.param(
                member,
                training,
                device,
                id=f"{member.name}-{training.name}" + ("-gpu" if device == "gpu" else ""),
                marks=[
                    *([pytest.mark.gpu] if device == "gpu" else []),
                    *([pytest.mark.exhaustive] if device == "cpu" and _is_rare(training, names[is_active]) else []),
                ],
            )
            for device in ("cpu", "gpu")
            for member in members
            for names in [(member.rows, member.active_rows)]
            for training in TRAININGS
            if training.members is None or member.name in training.members
        ],
    )


def _is_rare(training: Training, names: frozenset[str] | None) -> bool:
    """Whether a row is left to ``-m exhaustive``."""
    return training.is_for_accelerators or (names is not None and training.name not in names)


def run(training: Training, device: str, callbacks: list[Any], **module_kwargs: Any) -> Run:
    torch.manual_seed(5)
    module = training.module_class(**{**training.module, **module_kwargs})
    callbacks = [*callbacks, *training.callbacks()]
    return train(module, callbacks, training.loader(), val_loader=VALIDATION, **training.options(device))


def without(training: Training, device: str) -> Run:
    key = training.name, device
    if key not in _WITHOUT:
        _WITHOUT[key] = run(training, device, [])
    return _WITHOUT[key]


def test_every_training_is_a_row_on_the_cpu() -> None:
    names = {training.name for training in TRAININGS if not training.is_for_accelerators}
    assert names == DATA_ROWS | STEP_ROWS
    for member in MEMBERS:
        assert (member.rows or names) <= names
        assert not member.active or names == (member.rows or names) | (member.active_rows or names)


@rows(MEMBERS)
def test_a_run_with_an_idle_callback_is_the_run_without_it(
    member: Member, training: Training, device: str, record_property: Callable[[str, object], None]
) -> None:
    if training.name in member.refuses:
        with pytest.raises(MisconfigurationException):
            run(training, device, [member.idle()])
        return
    callback = run(training, device, [member.idle()])
    record_property("difference", worst_difference(callback, without(training, device)))
    assert_same_training(callback, without(training, device))


@rows([member for member in MEMBERS if member.active], is_active=True)
def test_a_run_with_the_callback_is_the_run_with_its_value_set_by_hand(
    member: Member, training: Training, device: str, record_property: Callable[[str, object], None]
) -> None:
    assert member.active is not None
    assert member.applied is not None
    if training.name in member.refuses:
        pytest.skip("refused: the test above has it")
    callback = member.active()
    with_callback = run(training, device, [callback])
    assert None not in member.applied(callback).values()
    with batch_size_by_hand(member.applied_batch_size(callback)):
        by_hand = run(training, device, [], **member.applied(callback))
    record_property("difference", worst_difference(with_callback, by_hand))
    assert_same_training(with_callback, by_hand)
    assert with_callback.module.hparams == by_hand.module.hparams
