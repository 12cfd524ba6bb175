"""Find the head of any classifier by following its output back through the graph of what was computed.

Names do not matter. From the output the graph is walked back to the nearest layers with weights on every path. They are
the head if all of them are linear (or 1x1 convolutions) and as wide as the output, if none feeds another, and if what
happens to their result is no more than what happens to logits: pooling, averaging, a softmax.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_hp.nn.backbone.dry_run import DryRun

_SHAPING = {
    "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "Alias", "AsStrided", "AvgPool1D",
    "AvgPool2D", "AvgPool3D", "Clone", "Expand", "Mean", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze",
    "Stack", "Sum", "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_PROBABILITIES = {"LogSigmoid", "LogSoftmax", "Sigmoid", "Softmax"}
_PROBABILITY_MODULES = (nn.LogSigmoid, nn.LogSoftmax, nn.Sigmoid, nn.Softmax)
_ACTIVATIONS = {
    "Celu", "Clamp", "Elu", "Gelu", "Glu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "Mish", "NativeDropout",
    "PreluKernel", "Relu", "Selu", "Silu", "Softplus", "Tanh",
}  # fmt: skip
_PRODUCTS = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Linear", "Mm", "Mv"}

#: Parts of a name that speak of features rather than of classes.
_FEATURE_WORDS = re.compile(r"proj|embed|feat|neck|encod|latent|backbone|trunk|code", re.IGNORECASE)

# Norms go by their name: every library has its own.
_NOT_A_HEAD = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding,
    nn.EmbeddingBag, nn.Linear, nn.MultiheadAttention, nn.PReLU, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How a model ends.

    Attributes:
        heads: Paths of the modules that are its head; empty if it has none.
        doubt: Why that is not certain, in a few words, or ``None``.

    """

    heads: tuple[str, ...] = ()
    doubt: str | None = None


@dataclass
class _Layer:
    """A layer with weights, called once."""

    name: str
    module: nn.Module
    in_width: int | None
    node: Any


@dataclass
class _Tracer:
    """Notes which node of the graph is the result of which layer, and which of a softmax."""

    layers: dict[Any, _Layer] = field(default_factory=dict)
    probabilities: dict[Any, str] = field(default_factory=dict)
    _inner: list[bool] = field(default_factory=list)

    def attach(self, model: nn.Module) -> None:
        for name, part in model.named_modules():
            if next(part.parameters(recurse=False), None) is not None:
                part.register_forward_pre_hook(lambda *_: self._inner.append(False))
                part.register_forward_hook(lambda part, args, out, name=name: self._note(name, part, args, out))
            elif isinstance(part, _PROBABILITY_MODULES):
                part.register_forward_hook(lambda _, args, out, name=name: self._note_probability(name, out))

    def _note(self, name: str, part: nn.Module, args: Any, output: Any) -> None:
        has_inner = self._inner.pop()
        if self._inner:
            self._inner[-1] = True
        # A module whose own weights frame those of its children is no layer; attention, which calls none, is one.
        if not has_inner:
            came = next(_tensors(args), None)
            width = came.shape[-1] if came is not None and came.ndim else None
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    self.layers[tensor.grad_fn] = _Layer(name, part, width, tensor.grad_fn)

    def _note_probability(self, name: str, output: Tensor) -> None:
        self.probabilities[output.grad_fn] = name


def find_ending(twin: nn.Module, dry_run: DryRun) -> Ending:
    """How the model ends.

    Args:
        twin: A copy of the model that may be changed.
        dry_run: How to run it.

    Returns:
        Its head, that it has none, or a doubt.

    """
    tracer = _Tracer()
    tracer.attach(twin)
    output = dry_run(twin, grad=True)
    if not isinstance(output, Tensor):
        return Ending(doubt=f"it returns {type(output).__name__} and not one tensor. Wrap it")
    if output.grad_fn is None:
        return Ending(doubt="its output cannot be followed back to its layers")
    layers, passed, bare = _walk_back([output.grad_fn], tracer.layers)
    width = output.shape[1] if output.ndim > 1 else 1
    return _judge(twin, layers, passed, bare, width, output.ndim, tracer)


def _judge(
    model: nn.Module, layers: list[_Layer], nodes: list[Any], bare: bool, width: int, ndim: int, tracer: _Tracer
) -> Ending:
    passed = {_operation(node) for node in nodes}
    names = tuple(dict.fromkeys(layer.name for layer in layers))
    shown = ", ".join(f"`{name}`" for name in names)
    if bare and passed & _PRODUCTS:
        return Ending(doubt="it ends in a product with weights that belong to no layer")
    if not layers or not all(_out_width(layer.module) == width for layer in layers):
        if layers and all(_out_width(layer.module) for layer in layers):
            return Ending(doubt=f"it ends in {shown}, which are not as wide as its output of {width}")
        unknown = [layer for layer in layers if not _is_known(layer, width)]
        return Ending(doubt=f"it ends in {_described(unknown)}, which may be a head or not" if unknown else None)
    if any(_feeds(layer, layers, tracer) for layer in layers):
        return Ending()  # a stream of residuals
    convolved = any(not isinstance(layer.module, nn.Linear) for layer in layers)
    told = getattr(model, "num_classes", None) == width
    if passed & _ACTIVATIONS and not (convolved and told):
        # Nobody passes logits through a ReLU but for SqueezeNet, which says how many classes it has.
        return Ending(doubt=f"it ends in {shown} and an activation, which may be a head or not" if convolved else None)
    if bare or (odd := passed - _SHAPING - _PROBABILITIES - _ACTIVATIONS - _averaging(layers)):
        what = "a weight of its own" if bare else ", ".join(sorted(odd))
        return Ending(doubt=f"it ends in {shown}, and then comes {what}, which logits do not go through")
    if "" in names:
        return Ending(doubt="it is one single layer")
    if ndim > 2:
        return Ending(doubt=f"it ends in {shown}, but gives a map of {ndim} axes and not one row for each sample")
    if any(_FEATURE_WORDS.search(_last_word(name)) for name in names):
        return Ending(doubt=f"it ends in {shown}, whose name speaks of features")
    probabilities = [node for node in nodes if _operation(node) in _PROBABILITIES]
    if not all(node in tracer.probabilities for node in probabilities):
        return Ending(
            doubt=f"it ends in {shown}, and makes probabilities of them in its own code. Let it return logits"
        )
    wanted = {*names, *(tracer.probabilities[node] for node in probabilities)}
    return Ending(heads=tuple(name for name, _ in model.named_modules() if name in wanted))


def _walk_back(starts: list[Any], stops: dict[Any, _Layer]) -> tuple[list[_Layer], list[Any], bool]:
    """The nearest layers, the nodes between, and whether a weight without a layer was met."""
    layers: list[_Layer] = []
    passed: list[Any] = []
    bare = False
    seen, todo = set(starts), list(starts)
    while todo:
        node = todo.pop()
        if node in stops:
            layers.append(stops[node])
            continue
        if hasattr(node, "variable"):
            bare = True
            continue
        passed.append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return layers, passed, bare


def _operation(node: Any) -> str:
    """``Relu`` for a ``ReluBackward0``."""
    return re.sub(r"Backward\d*$", "", node.name())


def _feeds(layer: _Layer, others: list[_Layer], tracer: _Tracer) -> bool:
    """Whether the result of another of these layers is part of what this one gets."""
    nodes = {other.node for other in others if other is not layer}
    if not nodes:
        return False
    seen, todo = {layer.node}, [layer.node]
    while todo:
        for following, _ in todo.pop().next_functions:
            if following in nodes:
                return True
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return False


def _last_word(path: str) -> str:
    """The last part of a path that is no number: ``classifier`` of ``net.classifier.6``."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), "")


def _averaging(layers: list[_Layer]) -> set[str]:
    """Several heads may be averaged."""
    return {"Div", "Mul"} if len(layers) > 1 else set()


def _out_width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {1} and module.groups == 1:
        return module.out_channels
    return None


def _is_known(layer: _Layer, width: int) -> bool:
    """Whether it is certain that a layer is no head: by its kind, or since it keeps the width as a norm does."""
    kind = type(layer.module)
    return (
        isinstance(layer.module, _NOT_A_HEAD)
        or any("norm" in base.__name__.lower() for base in kind.__mro__)
        or layer.in_width == width
    )


def _described(layers: list[_Layer]) -> str:
    return ", ".join(dict.fromkeys(f"`{layer.name}` ({type(layer.module).__name__})" for layer in layers))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
