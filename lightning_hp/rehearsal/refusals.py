"""What cannot be rehearsed: refused before any step, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from lightning_hp.snapshot import RandomState
from lightning_hp.trainer import (
    STRATEGIES_IN_WORDS,
    flatten_loaders,
    is_supported,
    misconfiguration,
    start_method,
    uninitialized_parameters,
)

_MAY_CONSUME_DATA = ContextVar("_MAY_CONSUME_DATA", default=False)


@contextmanager
def consuming_data(is_allowed: bool) -> Iterator[None]:
    """Within the ``with`` block a rehearsal may draw from data that it cannot restore: the training gets later samples.

    Args:
        is_allowed: Whether it may; ``False``: such data is refused.

    """
    token = _MAY_CONSUME_DATA.set(is_allowed)
    try:
        yield
    finally:
        _MAY_CONSUME_DATA.reset(token)


def reason_not_to_rehearse(trainer: Any) -> str | None:
    """Why no training follows that could be rehearsed, as a clause; ``None`` if one does."""
    if trainer.fast_dev_run:
        return "because `fast_dev_run` is not a training"
    if 0 in (trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches):
        return "because nothing will be trained"
    return None


def refuse_what_cannot_be_rehearsed(trainer: Any, module: nn.Module) -> None:
    """Raises ``MisconfigurationException`` for another strategy, no optimizer, no batches, or lazy parameters."""
    refuse_started_processes(trainer)
    strategy = trainer.strategy
    if not is_supported(strategy):
        raise misconfiguration(
            trainer,
            f"Expected a strategy whose training can be restored exactly ({STRATEGIES_IN_WORDS}), but got"
            f" {type(strategy).__name__}. Tune under one of these.",
        )
    if not strategy.optimizers or type(strategy.optimizers[0]).__name__ == "_MockOptimizer":
        raise misconfiguration(
            trainer, "Expected `configure_optimizers` to return an optimizer, but got none: there is nothing to tune."
        )
    if trainer.limit_train_batches == 0:
        raise misconfiguration(trainer, "Expected training batches to rehearse, but got `limit_train_batches=0`.")
    if lazy := uninitialized_parameters(module):
        raise misconfiguration(
            trainer,
            f"Expected initialized parameters, but got uninitialized lazy ones: {', '.join(lazy[:3])}. Run one batch"
            " through the model before `fit`.",
        )


def refuse_started_processes(trainer: Any) -> None:
    """Raises ``MisconfigurationException`` if the Trainer starts processes, from which only the weights come back."""
    if method := start_method(trainer):
        started = f"{type(trainer.strategy).__name__} that is launched by `{method}`"
        raise misconfiguration(
            trainer,
            "Expected a strategy that runs in the processes of the script, because what is found does not come back"
            f" from processes that the Trainer starts, but got {started}. Use `strategy='ddp'`, or call `find` with a"
            " Trainer of one device and set the values by hand.",
        )


def refuse_unrestorable_data(trainer: Any, iterators: list[str], loaders: Any) -> None:
    """Raises ``MisconfigurationException`` if there are iterators that a snapshot cannot restore.

    Within :func:`consuming_data` only if they end with the loader's first iterator: the training would get no batch.
    """
    if not iterators:
        return
    if _MAY_CONSUME_DATA.get():
        random_state = RandomState()
        for loader in flatten_loaders(loaders):
            if getattr(loader, "num_workers", 0) == 0 and not all(_has_a_batch(loader) for _ in range(2)):
                raise misconfiguration(
                    trainer,
                    "Expected an endless stream that continues when the loader is iterated again, but got one that"
                    f" ends ({', '.join(iterators[:3])}). A `yield from` closes its generator: write"
                    " `for sample in stream: yield sample` in `__iter__`.",
                )
        random_state.restore()
    else:
        raise misconfiguration(
            trainer,
            f"Expected training data that can be started again, but got {', '.join(iterators[:3])}: what a rehearsal"
            " draws from it would be lost to the training. Build the iterator inside `__iter__`, or give the data"
            " `state_dict` and `load_state_dict`, or use a loader with workers. For an endless random stream, of which"
            " other samples are as good, set `may_consume_data=True`.",
        )


def _has_a_batch(loader: Any) -> bool:
    return any(True for _ in loader)
