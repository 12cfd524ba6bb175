"""Models by the names that their libraries give them; the library is imported when a name asks for it."""

from __future__ import annotations

import difflib
import importlib
import pickle
from typing import Any

from torch import nn

_MISSING = 'Expected {library} to be installed, but it is not. Install it: pip install "lightning-hp[{library}]".'


def load(source: Any, pretrained: bool) -> tuple[nn.Module, int | None]:
    """The model of a name, in training mode, and the side of the images that its weights were trained on.

    Args:
        source: ``"resnet50"``, ``"ResNet50_Weights.IMAGENET1K_V2"`` or such an entry itself, ``"timm:<name>"``,
            ``"hf:<name or folder>"``.
        pretrained: Whether to load its weights.

    Returns:
        Model and image size, ``None`` where the model knows it itself.

    Raises:
        ValueError: If the library does not know the name.
        ModuleNotFoundError: If the library is not installed.
        ConnectionError: If the weights are not on this machine and cannot be fetched.

    """
    if not isinstance(source, str):
        return _torchvision(source, pretrained)
    library, colon, name = source.partition(":")
    if not colon:
        return _torchvision(source, pretrained)
    if library == "timm":
        return _timm(name, pretrained), None
    if library == "hf":
        return _hugging_face(name, pretrained), None
    raise ValueError(f"Expected the name of a model of torchvision, 'timm:<name>' or 'hf:<name>', but got {source!r}.")


def is_source(value: Any) -> bool:
    """Whether it names a model: a string, or an entry of torchvision's weights."""
    return isinstance(value, str) or (hasattr(value, "get_state_dict") and hasattr(value, "transforms"))


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
        # Inception and GoogLeNet announce that they will draw their weights another way one day.
        options = {"init_weights": True} if names_init_weights(builder) else {}
        return builder(weights=None, **options), size
    try:
        return builder(weights=weights), size
    except (OSError, pickle.UnpicklingError) as error:
        raise ConnectionError(
            f"Expected the weights {weights} on this machine or a network to fetch them, but got "
            f"{type(error).__name__}: {error}. Put the file behind {weights.url} into the folder `checkpoints` of "
            "torch.hub.get_dir(), or pass pretrained=False."
        ) from error


def names_init_weights(builder: Any) -> bool:
    """Whether a builder of torchvision warns when it is not told how to draw its weights."""
    return builder.__name__ in ("googlenet", "inception_v3")


def _timm(name: str, pretrained: bool) -> nn.Module:
    timm = _import("timm")
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        close = ", ".join(
            difflib.get_close_matches(name, timm.list_models(), n=3) or ("resnet50", "vit_base_patch16_224")
        )
        raise ValueError(f"Expected a model of timm, such as {close}, but got {name!r}.")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:
        if not _is_about_the_network(error):
            raise
        raise ConnectionError(_not_here(f"timm:{name}", error)) from error
    return model


def _hugging_face(name: str, pretrained: bool) -> nn.Module:
    transformers = _import("transformers")
    try:
        if pretrained:
            model: nn.Module = transformers.AutoModel.from_pretrained(name)
        else:
            model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(name))
    except Exception as error:
        if not _is_about_the_network(error):
            raise
        raise ConnectionError(_not_here(f"hf:{name}", error)) from error
    # It comes in evaluation mode, and Lightning leaves a mode as it finds it: dropout would never act.
    return model.train()


def _is_about_the_network(error: BaseException | None) -> bool:
    """Hubs raise errors of their own for a missing network; somewhere below they are all an OSError."""
    while error is not None:
        if isinstance(error, OSError) or "offline" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _not_here(source: str, error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return (
        f"Expected {source!r} on this machine or a network to fetch it, but got {type(error).__name__}: {first} Check "
        "the name and the network; offline, fetch it once where there is one, name a folder that holds it "
        "('hf:<folder>'), or build the model yourself and pass it."
    )


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ModuleNotFoundError(_MISSING.format(library=library), name=library) from error
