"""A progress bar for a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


@contextmanager
def progress_bar(trainer: Any, description: str, unit: str) -> Iterator[Callable[[], None]]:
    """Shows a progress bar while the context is open, if the Trainer shows one too.

    Args:
        trainer: The Trainer. Only the process of rank zero shows a bar.
        description: Text before the bar.
        unit: What is counted, in the plural.

    Yields:
        A function without arguments that advances the bar by one.

    """
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        yield lambda: None  # a hidden bar of tqdm starts a thread too, which takes 72 MiB of address space
        return
    with tqdm(desc=description, unit=f" {unit}", leave=False) as bar:

        def advance() -> None:
            bar.update()

        yield advance
