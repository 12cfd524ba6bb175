"""What must not change when a sweep is continued: metric, seeds, Trainer, the code of ``build``, and the data."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_hp.functional.sweep.labels import label_of
from lightning_hp.sweeping.built import Built

#: What each entry of an experiment is called in a message.
_WORDS = {
    "monitor": "metric",
    "mode": "mode",
    "reduce": "score",
    "seeds": "seeds",
    "trainer": "Trainer arguments",
    "build": "code of `build`, or a value that it holds,",
    "data": "data",
    "finders": "finders",
    "config": "config",
    "scale_lr": "rule by which the learning rate follows the batch size",
    "command": "command line, or the code of its script,",
}


def refuse_another(stored: Mapping[str, Any], present: Mapping[str, Any], where: str) -> None:
    """Raises if a storage holds trainings of another experiment.

    Args:
        stored: The experiment in the storage.
        present: The present one.
        where: The storage, for the message.

    Raises:
        ValueError: If they differ. Further seeds are no difference.

    """
    for name, word in _WORDS.items():
        old, new = stored.get(name), present.get(name)
        if name == "seeds" and old is not None and new is not None:
            if set(old) <= set(new) or set(new) <= set(old):
                continue
        elif old == new:
            continue
        shown = "" if name in ("build", "data", "command") else f", {old} there and {new} here"
        if name == "config" and isinstance(old, dict) and isinstance(new, dict):
            key = next(key for key in (*old, *new) if old.get(key) != new.get(key))
            shown = f": `{key}` is {old.get(key)} there and {new.get(key)} here"
        raise ValueError(
            f"Expected trainings of the same experiment in {where}, but the {word} is another{shown}. Continue with the"
            " same one, or give another `storage` or `name`."
        )


def code_of(build: Callable[..., Any]) -> str:
    """A hash of a function's code and of the plain values that it holds; comments, layout and docstrings do not count.

    Values are the arguments of a partial function, variables around the function, globals that it reads, and the
    attributes of an object.

    Note:
        What it calls is not seen.

    """
    return _hash(_own_code(build) + json.dumps(_held(build), sort_keys=True, default=_class_name))


def constants_among(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some variables that are numbers, texts or tuples; lists and other objects may change at any time."""
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str, tuple))}


def _class_name(value: Any) -> str:
    return type(value).__qualname__


def _held(build: Callable[..., Any]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    while isinstance(build, functools.partial):
        held = {"arguments": build.args, **build.keywords, **held}
        build = build.func
    if not inspect.isroutine(build):
        held |= constants_among(vars(build) if hasattr(build, "__dict__") else {})
    try:
        around = inspect.getclosurevars(_function_of(build))
    except TypeError:  # a builtin
        return held
    return {**constants_among(around.globals), **constants_among(around.nonlocals), **held}


def _function_of(build: Callable[..., Any]) -> Any:
    while isinstance(build, functools.partial):
        build = build.func
    return build if inspect.isroutine(build) else type(build).__call__


def _own_code(build: Callable[..., Any]) -> str:
    function = _function_of(build)
    try:
        return code_in(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # defined at a prompt, a lambda within an expression
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_names, code.co_consts)) if code is not None else label_of(function)
    return _hash(text)


def code_in(source: str) -> str:
    """A hash of the code in a text; comments, layout and docstrings do not count.

    Raises:
        SyntaxError: If it is not Python.

    """
    return _hash(ast.dump(_without_docstrings(ast.parse(source))))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_of(built: Built) -> list[Any]:
    """The training data in short: class and length of each dataset, and a hash of its first and last sample.

    Samples are read from datasets of tensors only; reading others may be expensive, or draw random numbers.
    """
    datamodule = built.data.get("datamodule")
    if datamodule is not None:
        return [type(datamodule).__qualname__]
    loaders = built.data.get("train_dataloaders")
    found = list(loaders.values()) if isinstance(loaders, dict) else loaders if isinstance(loaders, list) else [loaders]
    return [_describe(getattr(loader, "dataset", None)) for loader in found if loader is not None]


def _describe(dataset: Any) -> list[Any]:
    try:
        length = len(dataset)
    except TypeError:
        length = None
    inner = dataset
    while isinstance(inner, torch.utils.data.Subset):
        inner = inner.dataset
    digest = hashlib.sha256()
    for tensor in getattr(inner, "tensors", ()):
        digest.update(str(tuple(tensor.shape)).encode())
        for row in (tensor[:1], tensor[-1:]):
            digest.update(row.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return [type(dataset).__qualname__, length, digest.hexdigest()[:16]]


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
