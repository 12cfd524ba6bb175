"""Take the head off a model, by the surest way there is for it, and say what was taken.

In this order: the path that the user gave; the protocol of timm; the base model of Hugging Face; and for everything
else the end of the graph. A model that ends in no head is left as it is, and where that is not certain it is refused.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from lightning_hp.nn.backbone.dry_run import DryRun, Spec, deep_copy, find_dry_run
from lightning_hp.nn.backbone.find_head import find_ending
from lightning_hp.nn.backbone.input_specs import hugging_face_specs, image_specs

_log = logging.getLogger(__name__)

Kind = Literal["timm", "hf", "other"]

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "ScriptModule", "RecursiveScriptModule")


@dataclass(frozen=True)
class Stripped:
    """A model without its head.

    Attributes:
        model: The model.
        removed: What was removed, a line for each module: path and description.
        dry_run: How it can be run dry, or ``None`` if that was not to be tried.
        output: What it returned then, in evaluation mode.

    """

    model: nn.Module
    removed: tuple[str, ...]
    dry_run: DryRun | None = None
    output: Any = None


def kind_of(model: nn.Module) -> Kind:
    """Which library's protocol a model follows. A library that was never imported has made no model."""
    transformers = sys.modules.get("transformers")
    if hasattr(model, "base_model_prefix") and transformers and isinstance(model, transformers.PreTrainedModel):
        return "hf"
    return "timm" if callable(getattr(model, "reset_classifier", None)) else "other"


def check_model(model: Any) -> None:
    """Refuses what cannot be taken apart.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is wrapped, or if layers of it have no shape yet.

    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Expected `model` to be a module, the name of one such as 'resnet50', or weights of torchvision, but got "
            f"{model!r}."
        )
    if type(model).__name__ in _WRAPPERS:
        raise ValueError(
            f"Expected the model itself, but got it inside a {type(model).__name__}. Pass it as it was before, and "
            "compile, script or distribute the whole classifier later."
        )
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("Expected layers with shapes, but got lazy ones. Run the model once on a batch first.")


def strip(
    model: nn.Module, head: str | None, spec: Spec | None, size: int | None, copied: bool, must_run: bool
) -> Stripped:
    """The model without its head.

    Args:
        model: The model.
        head: ``"auto"``, the path of the head, or ``None``: it has none.
        spec: What the model takes, if the user says it.
        size: Side of the images that its weights were trained on, if known.
        copied: Whether to work on a copy.
        must_run: Whether it is an error if the model cannot be run: not if the user says how wide it is.

    Returns:
        The stripped model.

    Raises:
        ValueError: If the head cannot be told, or the model cannot be run.

    """
    kind = kind_of(model)
    if head is None:
        return _ready(deep_copy(model) if copied else model, (), spec, size, must_run)
    if head != "auto":
        return _without(model, _checked_paths(model, head), spec, size, copied, must_run)
    if kind == "hf":
        base, removed = _base_model(model)
        if kind_of(base) != "hf":  # a model of timm inside
            return strip(base, head, spec, size, copied, must_run)
        return _ready(deep_copy(base) if copied else base, removed, spec, size, must_run)
    if kind == "timm":
        stripped = deep_copy(model) if copied else model
        removed = _reset_classifier(stripped)
        return _ready(stripped, removed, spec, size, must_run)
    dry_run, ending = find_dry_run(
        model, [spec] if spec else image_specs(model, size), lambda dry_run: find_ending(dry_run.twin(model), dry_run)
    )
    if ending.doubt:
        raise ValueError(
            f"Expected a {type(model).__name__} whose head can be told from its features, but {ending.doubt}. Pass "
            "head=None if it has no head, or its path, such as head='classifier.3'."
        )
    return _without(model, ending.heads, dry_run.spec, size, copied, must_run)


def is_of_a_library(model: nn.Module) -> bool:
    """Whether how it ends, and that it does the same in training, is known from tests of ours."""
    return kind_of(model) != "other" or type(model).__module__.startswith("torchvision.models.")


def report(model: nn.Module, removed: Sequence[str], feature_dim: int) -> None:
    """Logs what was removed. For a model of no known library, where it is a finding, it is a warning."""
    name = type(model).__name__
    what = "removed " + "; ".join(removed) if removed else "it has no head, nothing was removed"
    _log.log(
        logging.INFO if is_of_a_library(model) or not removed else logging.WARNING,
        "%s: %s. Features: %d.",
        name,
        what,
        feature_dim,
    )


def _ready(model: nn.Module, removed: Sequence[str], spec: Spec | None, size: int | None, must_run: bool) -> Stripped:
    removed = (*removed, *_remove_auxiliary(model))
    is_hf = kind_of(model) == "hf"
    if spec:
        specs = list(dict.fromkeys([spec.without_masks(), spec])) if is_hf else [spec]
    else:
        specs = hugging_face_specs(model) if is_hf else image_specs(model, size)
    options = {"return_dict": True} if is_hf else {}
    try:
        return Stripped(
            model, removed, *find_dry_run(model, specs, lambda run: run(run.twin(model), **options), must_run)
        )
    except ValueError:
        if must_run:
            raise
        return Stripped(model, removed)


def _without(
    model: nn.Module, paths: Sequence[str], spec: Spec | None, size: int | None, copied: bool, must_run: bool
) -> Stripped:
    """The model with modules replaced by ``nn.Identity``; they are not even copied."""
    heads = {path: model.get_submodule(path) for path in paths}
    nothing = {path: nn.Identity().train(part.training) for path, part in heads.items()}
    if copied:
        model = deep_copy(model, {id(part): nothing[path] for path, part in heads.items()})
    else:
        for path, identity in nothing.items():
            model.set_submodule(path, identity)
    return _ready(model, [_line(path, part) for path, part in heads.items()], spec, size, must_run)


def _checked_paths(model: nn.Module, head: str) -> tuple[str]:
    names = [name for name, _ in model.named_modules() if name]
    if head not in names:
        close = difflib.get_close_matches(head, names, n=3, cutoff=0.3) or names[-3:]
        raise ValueError(
            f"Expected `head` to be the path of a module of {type(model).__name__}, such as "
            f"{', '.join(close) or 'none: it has no parts'}, but got {head!r}."
        )
    return (head,)


def _base_model(model: Any) -> tuple[nn.Module, list[str]]:
    """What is below the head; of an encoder and a decoder, the encoder."""
    base = model.base_model
    if kind_of(base) != "hf":
        return base, []
    kept = {id(part) for part in base.modules()} | {
        id(part) for part in model.modules() if any(child is base for child in part.modules())
    }
    removed = [
        _line(name, part) for name, part in model.named_children() if id(part) not in kept and _has_weights(part)
    ]
    if getattr(base.config, "is_encoder_decoder", False):
        encoder = base.get_encoder()
        removed += [_line(name, part) for name, part in base.named_children() if name.endswith("decoder")]
        return encoder, removed
    return base, removed


def _reset_classifier(model: Any) -> list[str]:
    if not getattr(model, "num_classes", 1):
        return []
    before = {name: part for name, part in model.named_modules() if name}
    model.reset_classifier(0)
    after = {name: part for name, part in model.named_modules() if name}
    gone = {
        name: part
        for name, part in before.items()
        if after.get(name) is not part and next(part.parameters(recurse=False), None) is not None
    }
    return [_line(name, part) for name, part in gone.items()]


def _remove_auxiliary(model: Any) -> list[str]:
    """The classifiers that Inception and GoogLeNet have half-way: in training they return more than one tensor."""
    if not isinstance(getattr(model, "aux_logits", None), bool):
        return []
    names = [name for name in ("AuxLogits", "aux1", "aux2") if isinstance(getattr(model, name, None), nn.Module)]
    removed = [_line(name, getattr(model, name)) for name in names]
    for name in names:
        setattr(model, name, None)
    model.aux_logits = False
    return removed


def _has_weights(part: nn.Module) -> bool:
    """Whether a module is worth a line: not a dropout."""
    return next(part.parameters(), None) is not None


def _line(path: str, part: nn.Module) -> str:
    """One line for a module: its description, or what it is made of."""
    own = repr(part)
    return (
        f"{path}: {own}" if "\n" not in own else f"{path}: {type(part).__name__} of {len(list(part.modules()))} parts"
    )
