"""Models by the names that their libraries give them. A library is imported when one of its names is used."""

from __future__ import annotations

import difflib
import importlib
import pickle
from enum import Enum
from typing import Any, NoReturn

from torch import nn

_MISSING = 'Expected {library} to be installed, but it is not. Install it: pip install "lightning-hp[{library}]".'


def load(source: Any, pretrained: bool) -> tuple[nn.Module, int | None]:
    """Builds a model by its name.

    Args:
        source: ``"resnet50"``; ``"ResNet50_Weights.IMAGENET1K_V2"`` or such an entry itself; ``"timm:<name>"``;
            ``"hf:<name or folder>"``.
        pretrained: Whether to load its weights.

    Returns:
        The model, in training mode, and the side of the images that its weights were trained on, in pixels; ``None`` if
        the model itself says so.

    Raises:
        ValueError: If the library has no model of this name.
        ModuleNotFoundError: If the library is not installed.
        ConnectionError: If the weights are not on this machine and cannot be downloaded.

    """
    library, colon, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    if not colon:
        return _torchvision(source, pretrained)
    if library == "timm":
        return _timm(name, pretrained), None
    if library == "hf":
        return _hugging_face(name, pretrained), None
    raise ValueError(f"Expected the name of a model of torchvision, 'timm:<name>' or 'hf:<name>', but got {source!r}.")


def is_source(value: Any) -> bool:
    """Whether a value names a model: a string, or an entry of torchvision's weights."""
    return isinstance(value, str) or (isinstance(value, Enum) and hasattr(value, "get_state_dict"))


def _torchvision(source: Any, pretrained: bool) -> tuple[nn.Module, int | None]:
    models = importlib.import_module("torchvision.models")
    if isinstance(source, str) and "_weights." not in source.lower():
        known = models.list_models(module=models)
        if source not in known:
            close = ", ".join(difflib.get_close_matches(source, known, n=3) or ("resnet50", "vit_b_16"))
            raise ValueError(
                f"Expected a classification model of torchvision, such as {close}, or a name with 'timm:' or 'hf:' in "
                f"front, but got {source!r}."
            )
        weights = models.get_model_weights(source).DEFAULT
        builder = models.get_model_builder(source)
    else:
        try:
            weights = models.get_weight(source) if isinstance(source, str) else source
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"Expected weights of torchvision such as 'ResNet50_Weights.IMAGENET1K_V2', but got {source!r}."
            ) from error
        names = [name for name in models.list_models(module=models) if weights in models.get_model_weights(name)]
        if not names:
            raise ValueError(f"Expected weights of a classification model, but got {weights}.")
        builder = models.get_model_builder(names[0])
    size = getattr(weights.transforms(), "crop_size", [None])[0]
    if not pretrained:
        # These two warn that the default of `init_weights` will change.
        options = {"init_weights": True} if builder.__name__ in ("googlenet", "inception_v3") else {}
        return builder(weights=None, **options), size
    try:
        return builder(weights=weights), size
    except (OSError, pickle.UnpicklingError) as error:
        raise ConnectionError(
            f"Expected the weights {weights} on this machine or a network to download them from, but got "
            f"{type(error).__name__}: {error}. Download {weights.url} into the folder `checkpoints` of "
            "torch.hub.get_dir(), or pass pretrained=False."
        ) from error


def _timm(name: str, pretrained: bool) -> nn.Module:
    timm = _import("timm")
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        close = ", ".join(
            difflib.get_close_matches(name, timm.list_models(), n=3) or ("resnet50", "vit_base_patch16_224")
        )
        raise ValueError(f"Expected a model of timm, such as {close}, but got {name!r}.")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # noqa: BLE001 - it is raised again
        _raise_for(f"timm:{name}", error)
    return model


def _hugging_face(name: str, pretrained: bool) -> nn.Module:
    transformers = _import("transformers")
    try:
        if pretrained:
            model: nn.Module = transformers.AutoModel.from_pretrained(name)
        else:
            model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(name))
    except Exception as error:  # noqa: BLE001 - it is raised again
        _raise_for(f"hf:{name}", error)
    # `from_pretrained` returns it in evaluation mode, which Lightning does not change, so dropout would stay off.
    return model.train()


def _is_network_error(error: BaseException | None) -> bool:
    """Whether an error is due to a missing network or file: the errors of the hubs have an OSError as their cause."""
    while error is not None:
        if isinstance(error, OSError) or "offline" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _raise_for(source: str, error: Exception) -> NoReturn:
    """Raises the error of a library for a name: one for the network, one for the name, or as it is."""
    reason = f"{type(error).__name__}: " + str(error).strip().partition("\n")[0]
    if _is_network_error(error):
        raise ConnectionError(
            f"Expected {source!r} on this machine or a network to download it from, but got {reason} Check the name and"
            " the network. Without a network, download it elsewhere and name its folder ('hf:<folder>'), or build the"
            " model yourself and pass it."
        ) from error
    if isinstance(error, (RuntimeError, ValueError)):
        raise ValueError(f"Expected the name of a model that can be built, but for {source!r} got {reason}") from error
    raise error


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ModuleNotFoundError(_MISSING.format(library=library), name=library) from error
