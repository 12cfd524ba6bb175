"""A progress bar where the Trainer shows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


@contextmanager
def progress_bar(trainer: Any, what: str, unit: str) -> Iterator[Callable[[], None]]:
    """A bar where the Trainer shows one; gives the function that moves it."""
    hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
    with tqdm(desc=what, unit=f" {unit}", leave=False, disable=hidden) as bar:

        def move() -> None:
            bar.update()

        yield move
