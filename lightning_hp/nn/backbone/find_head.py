"""Find the head of a classifier by following its output back through the autograd graph; names do not matter.

heads = the nearest layers with weights on every path back from the output
if they are linear layers or 1x1 convolutions, as wide as the output,
and none is an input of another,
and only operations that suit logits follow them (pooling, averaging, softmax): they are the head
elif they are layers that end a feature extractor (norm, convolution, attention, residuals): there is no head
else: it is not certain
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_hp.functional.norm_layers import is_norm_layer
from lightning_hp.nn.backbone.dry_run import DryRun
from lightning_hp.nn.backbone.pooling import states_of

# Operations of the autograd graph, without "Backward0".
_RESHAPING_AND_AVERAGING = {
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

#: Parts of a name that suggest features and not classes.
_FEATURE_NAMES = re.compile(r"proj|embed|feat|neck|encod|latent|backbone|trunk|code", re.IGNORECASE)

# Layers that are no head if they are not as wide as the output.
_FEATURE_LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding,
    nn.EmbeddingBag, nn.Linear, nn.MultiheadAttention, nn.PReLU, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


@dataclass(frozen=True)
class HeadSearch:
    """The result of `find_head`.

    Attributes:
        paths: Paths of the modules that are the head; empty if there is none.
        doubt: Why this is not certain, as part of a sentence, or ``None``.

    """

    paths: tuple[str, ...] = ()
    doubt: str | None = None


@dataclass
class _Call:
    """One call of a layer with weights."""

    path: str
    module: nn.Module
    in_width: int | None
    node: Any


@dataclass
class _Tracer:
    """Records which nodes of the graph are the outputs of which layers, and of which softmax modules."""

    calls: dict[Any, _Call] = field(default_factory=dict)
    probabilities: dict[Any, str] = field(default_factory=dict)
    # For each module that is being called: whether it has called another module with weights.
    _has_inner: list[bool] = field(default_factory=list)

    def attach(self, model: nn.Module) -> None:
        for path, part in model.named_modules():
            if next(part.parameters(recurse=False), None) is not None:
                part.register_forward_pre_hook(lambda *_: self._has_inner.append(False))
                part.register_forward_hook(lambda part, args, out, path=path: self._record(path, part, args, out))
            elif isinstance(part, _PROBABILITY_MODULES):
                part.register_forward_hook(lambda _, args, out, path=path: self._record_probability(path, out))

    def _record(self, path: str, part: nn.Module, args: Any, output: Any) -> None:
        has_inner = self._has_inner.pop()
        if self._has_inner:
            self._has_inner[-1] = True
        # A module that calls other modules with weights is not a layer; attention, which calls none, is one.
        if not has_inner:
            first = next(_tensors(args), None)
            width = first.shape[-1] if first is not None and first.ndim else None
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    self.calls[tensor.grad_fn] = _Call(path, part, width, tensor.grad_fn)

    def _record_probability(self, path: str, output: Tensor) -> None:
        self.probabilities[output.grad_fn] = path


def find_head(copied: nn.Module, dry_run: DryRun) -> HeadSearch:
    """The head of a model.

    Args:
        copied: A copy of the model, made by the dry run; it gets hooks.
        dry_run: How to run it.

    Returns:
        The paths of the head, none if there is no head, or a doubt.

    """
    tracer = _Tracer()
    tracer.attach(copied)
    output = dry_run(copied, grad=True)
    if isinstance(output, Mapping) and {"last_hidden_state", "logits"} & output.keys():
        output = states_of(output)
    if not isinstance(output, Tensor):
        return HeadSearch(doubt=f"it returns {type(output).__name__} and not one tensor. Wrap it")
    if output.grad_fn is None:
        return HeadSearch(doubt="its output cannot be followed back to its layers")
    calls, nodes, meets_bare_weight = _walk_back([output.grad_fn], tracer.calls)
    width = output.shape[1] if output.ndim > 1 else 1
    return _judge(copied, calls, nodes, meets_bare_weight, width, output.ndim, tracer)


def others_at_the_end(copied: nn.Module, dry_run: DryRun, head: str, **kwargs: Any) -> list[str]:
    """The layers, outside a module that is said to be the head, that the output comes from.

    Args:
        copied: A copy of the model, made by the dry run; it gets hooks.
        dry_run: How to run it.
        head: The path of that module.
        **kwargs: Further arguments of the model.

    Returns:
        Their paths: none if the module is the head, or if the output cannot be followed back.

    """
    tracer = _Tracer()
    tracer.attach(copied)
    part = copied.get_submodule(head)

    def record(_: nn.Module, args: Any, output: Any) -> None:
        tracer.calls.update({tensor.grad_fn: _Call(head, part, None, tensor.grad_fn) for tensor in _tensors(output)})

    part.register_forward_hook(record)
    output = dry_run(copied, grad=True, **kwargs)
    output = states_of(output) if isinstance(output, Mapping) else output
    starts = [tensor.grad_fn for tensor in _tensors(output) if tensor.grad_fn is not None]
    calls, _, _ = _walk_back(starts, tracer.calls)
    paths = dict.fromkeys(call.path for call in calls)
    return [path for path in paths if path != head and not path.startswith(f"{head}.")]


def _judge(
    model: nn.Module,
    calls: list[_Call],
    nodes: list[Any],
    meets_bare_weight: bool,
    width: int,
    ndim: int,
    tracer: _Tracer,
) -> HeadSearch:
    operations = {_operation(node) for node in nodes}
    paths = tuple(dict.fromkeys(call.path for call in calls))
    shown = ", ".join(f"`{path}`" for path in paths)
    if meets_bare_weight and operations & _PRODUCTS:
        return HeadSearch(doubt="it ends in a product with weights that belong to no layer")
    if not calls or not all(_out_width(call.module) == width for call in calls):
        if calls and all(_out_width(call.module) for call in calls):
            return HeadSearch(doubt=f"it ends in {shown}, which are not as wide as its output of {width}")
        unknown = [call for call in calls if not _is_feature_layer(call, width)]
        return HeadSearch(doubt=f"it ends in {_described(unknown)}, which may be a head or not" if unknown else None)
    if any(_is_fed_by_another(call, calls) for call in calls):
        return HeadSearch()  # a sum of residuals
    is_convolution = any(not isinstance(call.module, nn.Linear) for call in calls)
    is_num_classes = getattr(model, "num_classes", None) == width
    if operations & _ACTIVATIONS and not (is_convolution and is_num_classes):
        # Logits do not pass through a ReLU, except in SqueezeNet, which has an attribute with its number of classes.
        doubt = f"it ends in {shown} and an activation, which may be a head or not"
        return HeadSearch(doubt=doubt if is_convolution else None)
    averaging_of_heads = {"Div", "Mul"} if len(calls) > 1 else set()
    unusual = operations - _RESHAPING_AND_AVERAGING - _PROBABILITIES - _ACTIVATIONS - averaging_of_heads
    if meets_bare_weight or unusual:
        what = "a weight of its own" if meets_bare_weight else ", ".join(sorted(unusual))
        return HeadSearch(doubt=f"it ends in {shown}, and then comes {what}, which logits do not go through")
    if "" in paths:
        return HeadSearch(doubt="it is one single layer")
    if ndim > 2:
        return HeadSearch(doubt=f"it ends in {shown}, but gives a map of {ndim} axes and not one row for each sample")
    if any(_FEATURE_NAMES.search(_last_name(path)) for path in paths):
        return HeadSearch(doubt=f"it ends in {shown}, whose name suggests features")
    probabilities = [node for node in nodes if _operation(node) in _PROBABILITIES]
    if not all(node in tracer.probabilities for node in probabilities):
        return HeadSearch(
            doubt=f"it ends in {shown}, and makes probabilities of them in its own code. Let it return logits"
        )
    heads = {*paths, *(tracer.probabilities[node] for node in probabilities)}
    return HeadSearch(paths=tuple(path for path, _ in model.named_modules() if path in heads))


def _walk_back(starts: list[Any], calls: dict[Any, _Call]) -> tuple[list[_Call], list[Any], bool]:
    """The nearest calls of layers, the nodes after them, and whether a weight outside all layers is used."""
    nearest: list[_Call] = []
    nodes: list[Any] = []
    meets_bare_weight = False
    seen, stack = set(starts), list(starts)
    while stack:
        node = stack.pop()
        if node in calls:
            nearest.append(calls[node])
            continue
        if hasattr(node, "variable"):
            meets_bare_weight = True
            continue
        nodes.append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return nearest, nodes, meets_bare_weight


def _operation(node: Any) -> str:
    """``Relu`` for a ``ReluBackward0``."""
    return re.sub(r"Backward\d*$", "", node.name())


def _is_fed_by_another(call: _Call, calls: list[_Call]) -> bool:
    """Whether the output of another of these calls is part of the input of this one."""
    others = {other.node for other in calls if other is not call}
    if not others:
        return False
    seen, stack = {call.node}, [call.node]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following in others:
                return True
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return False


def _last_name(path: str) -> str:
    """The last part of a path that is no number: ``classifier`` of ``net.classifier.6``."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), "")


def _out_width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {1} and module.groups == 1:
        return module.out_channels
    return None


def _is_feature_layer(call: _Call, width: int) -> bool:
    """Whether a layer is certainly no head: by its class, or because it keeps the width of its input."""
    return isinstance(call.module, _FEATURE_LAYERS) or is_norm_layer(call.module) or call.in_width == width


def _described(calls: list[_Call]) -> str:
    return ", ".join(dict.fromkeys(f"`{call.path}` ({type(call.module).__name__})" for call in calls))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
