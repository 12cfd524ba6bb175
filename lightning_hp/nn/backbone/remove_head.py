"""Remove the head of a model, by the most reliable way that it offers, and say what was removed.

    if the user names the head:     replace that module
    elif the model is Hugging Face: take the base model (of an encoder and a decoder, the encoder)
    elif it has the method of timm: reset_classifier(0)
    else:                           search for the head in the autograd graph (find_head)
    if a library's own way removed nothing and the output is still logits: search for the head likewise

A model without a head is left as it is. If the search is not certain, the model is refused.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from lightning_hp.functional.checks import check_instance
from lightning_hp.nn.backbone.dry_run import CannotCopyError, DryRun, deep_copy, find_dry_run
from lightning_hp.nn.backbone.find_head import find_head, others_at_the_end
from lightning_hp.nn.backbone.input_specs import InputSpec, hugging_face_specs, image_specs
from lightning_hp.nn.backbone.pooling import states_of
from lightning_hp.nn.freezing.blocks import children_with_parameters

_log = logging.getLogger(__name__)

Library = Literal["timm", "hf", "other"]

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "ScriptModule", "RecursiveScriptModule")


@dataclass(frozen=True)
class HeadlessModel:
    """A model without its head.

    Attributes:
        model: The model.
        removed: What was removed, one line for each module: path and description.
        dry_run: How the model can be run, or ``None`` if it cannot and need not.
        output: What it returned in that run, in evaluation mode.

    """

    model: nn.Module
    removed: tuple[str, ...]
    dry_run: DryRun | None = None
    output: Any = None


def library_of(model: nn.Module) -> Library:
    """The library whose methods a model has: ``"hf"`` (Hugging Face), ``"timm"`` or ``"other"``."""
    # A library that was not imported has made no model.
    transformers = sys.modules.get("transformers")
    if hasattr(model, "base_model_prefix") and transformers and isinstance(model, transformers.PreTrainedModel):
        return "hf"
    return "timm" if callable(getattr(model, "reset_classifier", None)) else "other"


def check_model(model: Any) -> None:
    """Refuses objects whose head cannot be removed.

    Raises:
        TypeError: If it is no module.
        ValueError: If the model is wrapped, or has lazy layers.

    """
    check_instance("model", model, nn.Module, "a module, the name of one such as 'resnet50', or weights of torchvision")
    if type(model).__name__ in _WRAPPERS:
        raise ValueError(
            f"Expected the model itself, but got it inside a {type(model).__name__}. Pass it as it was before, and "
            "compile, script or distribute the whole classifier later."
        )
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError(
            "Expected initialized parameters, but got uninitialized lazy ones. Run one batch through the model first."
        )


def remove_head(
    model: nn.Module, head: str | None, spec: InputSpec | None, size: int | None, make_copy: bool, must_run: bool
) -> HeadlessModel:
    """A model without its head.

    Args:
        model: The model.
        head: ``"auto"``, the path of the head, or ``None``: the model has none.
        spec: What the model takes, if the user has said so.
        size: Side of the images that its weights were trained on, if known.
        make_copy: Whether to change a copy and not the model itself.
        must_run: Whether a model that cannot be run is an error. It is none if the user says how wide the features are.

    Returns:
        The model, and how it was run.

    Raises:
        ValueError: If it is not certain what the head is, or the model cannot be run.

    """
    library = library_of(model)
    if head is None:
        return _run_headless(deep_copy(model) if make_copy else model, (), spec, size, must_run)
    if head != "auto":
        _check_path(model, head)
        runs = _check_is_last(model, head, spec, size, must_run)
        try:
            return _replace_modules(model, [head], spec, size, make_copy, must_run)
        except CannotCopyError:
            raise
        except ValueError as error:
            if not runs:
                raise
            raise ValueError(
                f"Expected `head` to be a module that hands its input on when it is removed, but without {head!r} the "
                f"{type(model).__name__} fails with {type(error.__cause__).__name__}: {error.__cause__}. Wrap the model"
                " in a module that returns the features, and pass head=None."
            ) from error
    if library == "other":
        return _remove_found_head(model, _specs(model, spec, size), size, make_copy, must_run)
    if library == "hf":
        base, removed = _base_model(model)
        if library_of(base) != "hf":  # a Hugging Face wrapper around a timm model
            return remove_head(base, head, spec, size, make_copy, must_run)
        headless = _run_headless(deep_copy(base) if make_copy else base, removed, spec, size, must_run)
        is_headless = headless.dry_run is None or not _is_logits(headless.output, base.config.num_labels)
    else:
        without_head = deep_copy(model) if make_copy else model
        is_headless = not getattr(model, "num_classes", 1)
        removed = _reset_classifier(without_head)
        headless = _run_headless(without_head, removed, spec, size, must_run)
    if headless.dry_run is None or headless.removed or is_headless:
        return headless
    # Some classes have no base model that the library knows, or a `reset_classifier` that does nothing.
    return _remove_found_head(headless.model, [headless.dry_run.spec], size, False, must_run)


def is_tested_library(model: nn.Module) -> bool:
    """Whether the tests cover the library of a model: how its models end, and that training changes nothing there."""
    return library_of(model) != "other" or type(model).__module__.startswith("torchvision.models.")


def log_removed(model: nn.Module, removed: Sequence[str], feature_dim: int) -> None:
    """Logs what was removed: as a warning if the head of a model outside the tested libraries was searched for."""
    what = "removed " + "; ".join(removed) if removed else "it has no head, nothing was removed"
    level = logging.INFO if is_tested_library(model) or not removed else logging.WARNING
    _log.log(level, "%s: %s. Features: %d.", type(model).__name__, what, feature_dim)


def _run_headless(
    model: nn.Module, removed: Sequence[str], spec: InputSpec | None, size: int | None, must_run: bool
) -> HeadlessModel:
    """Makes a dry run of a model without its head."""
    removed = (*removed, *_remove_auxiliary_heads(model))
    options = _run_options(model)
    try:
        dry_run, output = find_dry_run(
            model, _specs(model, spec, size), lambda run: run(run.copy_of(model), **options), must_run
        )
    except ValueError:
        if must_run:
            raise
        return HeadlessModel(model, removed)
    return HeadlessModel(model, removed, dry_run, output)


def _specs(model: nn.Module, spec: InputSpec | None, size: int | None) -> list[InputSpec]:
    """The inputs to try: that of the user, or those of the library of the model."""
    is_hugging_face = library_of(model) == "hf"
    if spec:
        return list(dict.fromkeys([spec.without_masks(), spec])) if is_hugging_face else [spec]
    return hugging_face_specs(model) if is_hugging_face else image_specs(model, size)


def _run_options(model: nn.Module) -> dict[str, bool]:
    return {"return_dict": True} if library_of(model) == "hf" else {}


def _is_logits(output: Any, num_classes: int | None) -> bool:
    """Whether what a model returns is what its head makes: by its name in a mapping, or by its width."""
    states = states_of(output)
    is_named = isinstance(output, Mapping) and states is output.get("logits")
    return is_named or (states.ndim == 2 and states.shape[1] == num_classes)


def _remove_found_head(
    model: nn.Module, specs: Sequence[InputSpec], size: int | None, make_copy: bool, must_run: bool
) -> HeadlessModel:
    """Removes the head that the search in the autograd graph finds; refuses a model in doubt."""
    dry_run, found = find_dry_run(model, specs, lambda run: find_head(run.copy_of(model), run))
    if found.doubt:
        raise ValueError(
            f"Expected a {type(model).__name__} whose head can be told from its features, but {found.doubt}. Pass "
            "head=None if it has no head, or its path, such as head='classifier.3'."
        )
    return _replace_modules(model, found.paths, dry_run.spec, size, make_copy, must_run)


def _replace_modules(
    model: nn.Module, paths: Sequence[str], spec: InputSpec | None, size: int | None, make_copy: bool, must_run: bool
) -> HeadlessModel:
    """Replaces modules by ``nn.Identity``. They are not copied with the model."""
    heads = {path: model.get_submodule(path) for path in paths}
    identities = {path: nn.Identity().train(part.training) for path, part in heads.items()}
    if make_copy:
        model = deep_copy(model, {id(part): identities[path] for path, part in heads.items()})
    else:
        for path, identity in identities.items():
            model.set_submodule(path, identity)
    return _run_headless(model, [_line(path, part) for path, part in heads.items()], spec, size, must_run)


def _check_path(model: nn.Module, head: str) -> None:
    paths = [path for path, _ in model.named_modules() if path]
    if head not in paths:
        close = difflib.get_close_matches(head, paths, n=3, cutoff=0.3) or paths[-3:]
        raise ValueError(
            f"Expected `head` to be the path of a module of {type(model).__name__}, such as "
            f"{', '.join(close) or 'none: it has no parts'}, but got {head!r}."
        )


def _check_is_last(model: nn.Module, head: str, spec: InputSpec | None, size: int | None, may_be_real: bool) -> bool:
    """Refuses a head that other layers follow; returns whether the model could be run."""
    options = _run_options(model)
    try:
        _, others = find_dry_run(
            model,
            _specs(model, spec, size),
            lambda run: others_at_the_end(run.copy_of(model), run, head, **options),
            may_be_real,
        )
    except ValueError:
        return False
    if others:
        shown = ", ".join(f"`{path}`" for path in others)
        raise ValueError(
            f"Expected `head` to be the path of the module that gives the output of the {type(model).__name__}, but got"
            f" {head!r}: the output comes from {shown}. To use the output of an earlier layer, wrap the model in a "
            "module that returns it, and pass head=None."
        )
    return True


def _base_model(model: Any) -> tuple[Any, list[str]]:
    """The base model of Hugging Face, or its encoder if it has a decoder too, and a line for each part left out."""
    base = model.base_model
    if library_of(base) != "hf":
        return base, []
    kept = {id(part) for part in base.modules()} | {
        id(part) for part in model.modules() if any(child is base for child in part.modules())
    }
    removed = [_line(name, part) for name, part in children_with_parameters(model).items() if id(part) not in kept]
    if getattr(base.config, "is_encoder_decoder", False):
        encoder = base.get_encoder()
        removed += [_line(name, part) for name, part in base.named_children() if name.endswith("decoder")]
        return encoder, removed
    return base, removed


def _reset_classifier(model: Any) -> list[str]:
    """Removes the head of a timm model; a line for each layer that is gone."""
    if not getattr(model, "num_classes", 1):
        return []
    before = {path: part for path, part in model.named_modules() if path}
    model.reset_classifier(0)
    after = {path: part for path, part in model.named_modules() if path}
    return [
        _line(path, part)
        for path, part in before.items()
        if after.get(path) is not part and next(part.parameters(recurse=False), None) is not None
    ]


def _remove_auxiliary_heads(model: Any) -> list[str]:
    """Removes the auxiliary heads of Inception and GoogLeNet, with which they return several tensors in training."""
    if not isinstance(getattr(model, "aux_logits", None), bool):
        return []
    names = [name for name in ("AuxLogits", "aux1", "aux2") if isinstance(getattr(model, name, None), nn.Module)]
    removed = [_line(name, getattr(model, name)) for name in names]
    for name in names:
        setattr(model, name, None)
    model.aux_logits = False
    return removed


def _line(path: str, part: nn.Module) -> str:
    """One line for a module: its representation, or its class and size."""
    text = repr(part)
    size = len(list(part.modules()))
    return f"{path}: {text}" if "\n" not in text else f"{path}: {type(part).__name__} of {size} parts"
