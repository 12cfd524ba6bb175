"""What the tuners share in the moment before a training: whether to act, what to say, a bar to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from tqdm.auto import tqdm

from lightning_hp.rehearsal import undecided_callbacks


def reason_not_to_rehearse(trainer: Any) -> str | None:
    """Why there is no training to rehearse, in half a sentence, or ``None``."""
    if trainer.fast_dev_run:
        return "since `fast_dev_run` is no training"
    if 0 in (trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches):
        return "since nothing will be trained"
    return None


def name_undecided_callbacks(who: str, trainer: Any) -> None:
    """Says once which of the user's callbacks could shape a step and do not say whether they do."""
    if undecided := undecided_callbacks(trainer):
        rank_zero_info(
            f"{who}: {', '.join(undecided)} only watched, if at all: a callback that changes the gradients takes"
            " part when it has the class attribute `changes_gradients = True`; `False` says that it does not."
        )


@contextmanager
def progress_bar(trainer: Any, what: str, unit: str) -> Iterator[Callable[[], None]]:
    """A bar where the Trainer shows one; gives the function that moves it."""
    hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
    with tqdm(desc=what, unit=f" {unit}", leave=False, disable=hidden) as bar:

        def move() -> None:
            bar.update()

        yield move
