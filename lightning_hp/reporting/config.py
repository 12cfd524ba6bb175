"""What a finder set, as a configuration of LightningCLI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: LightningCLI's names for the objects that keep a value.
_SECTIONS = {"model": "model", "datamodule": "data"}


def cli_config(
    values: Iterable[tuple[Any, Iterable[tuple[str, str]]]],
    trainer: Mapping[str, Any],
    subclass_modes: Mapping[str, bool],
) -> dict[str, Any]:
    """The configuration that sets values where they were found.

    Args:
        values: Each value with its places: the owner, ``"model"`` or ``"datamodule"``, and the dotted path in it. A
            path in ``hparams`` is an argument of that name; without one the attribute is taken for an argument.
        trainer: Arguments of the Trainer.
        subclass_modes: Which sections have ``class_path`` and ``init_args``.

    Returns:
        The nested configuration in plain types.

    Raises:
        ValueError: If a value has no place.

    Example:
        >>> cli_config([(0.01, [("model", "lr"), ("model", "hparams.optim.lr")])], {}, {"model": True})
        {'model': {'init_args': {'optim': {'lr': 0.01}}}}

    """
    config: dict[str, Any] = {"trainer": dict(trainer)} if trainer else {}
    for value, places in values:
        listed = list(places)
        if not listed:
            raise ValueError(
                f"Expected values that arguments of the model or the datamodule set, but got {value}, which is kept in"
                " the optimizers or the loaders alone; set it by hand."
            )
        in_hparams = [(owner, path) for owner, path in listed if path.startswith("hparams.")]
        for owner, path in in_hparams or listed:
            section = _SECTIONS[owner]
            names = [section, *(["init_args"] if subclass_modes.get(section) else []), *path.split(".")]
            node = config
            for name in (names := [name for name in names if name != "hparams"])[:-1]:
                node = node.setdefault(name, {})
            node[names[-1]] = value
    return config
