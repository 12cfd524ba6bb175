"""The state of a finder in a checkpoint: it names places that a resumed run writes, so it is checked before.

A checkpoint may come from anyone, and one that is loaded with ``weights_only=True`` runs no code. Its state must not do
more than a search on this module could.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning_hp.functional.checks import check_fields, wrong_type, wrong_value

_Value = TypeVar("_Value")

#: Written into each state. A release that gives an entry another meaning counts it up.
STATE_VERSION = 1


def check_state(state: Any, fields: Collection[str]) -> dict[str, Any]:
    """The entries of a state, none of which is checked yet.

    Args:
        state: What came.
        fields: The entries that it has besides its version.

    Returns:
        A new dictionary without the version.

    Raises:
        TypeError: If it is no dict.
        ValueError: If it is of another version, or has other entries.

    """
    if not isinstance(state, Mapping):
        wrong_type("state", "a dict", state)
    version = state.get("version")
    if type(version) is not int or version != STATE_VERSION:
        wrong_value("state['version']", str(STATE_VERSION), version)
    entries = check_fields("state", state, ("version", *fields))
    del entries["version"]
    return entries


def check_results(name: str, results: Any, read: Callable[[Any], _Value]) -> dict[int, _Value]:
    """The results of several searches, by the epochs as text.

    Args:
        name: The entry of the state, for the message.
        results: What came.
        read: From the plain types of one result to the result.

    Returns:
        The results by their epochs.

    Raises:
        TypeError: If it is no dict, or a result is of the wrong type.
        ValueError: If a key is no epoch, or a result is of the wrong form.

    """
    expected = "a dict from epochs as text to results"
    if not isinstance(results, Mapping):
        wrong_type(name, expected, results)
    if not all(isinstance(epoch, str) and epoch.isascii() and epoch.isdigit() for epoch in results):
        wrong_value(name, expected, results)
    return {int(epoch): read(values) for epoch, values in results.items()}


@contextmanager
def naming_the_checkpoint(callback: str) -> Iterator[None]:
    """Adds to the sentence of a failed check whose state it was, and what to do."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{str(error).rstrip('.')}, in the state of {callback} in the checkpoint; resume from another checkpoint,"
            f" or leave {callback} out and set its values by hand."
        ) from None
