"""ClassifierHead: from features to logits, with the knobs that are worth sweeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_hp.functional.checks import check_whole, is_number
from lightning_hp.nn.activations import Activation, gain, new_activation

Task = Literal["multiclass", "binary", "multilabel"]
Norm = Literal["batch", "layer"]

_NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class ClassifierHead(nn.Module):
    """A stack of hidden layers and a last linear one, set by a dictionary of options that can be swept.

    Each hidden layer is linear, then norm, activation and dropout where asked for. Nothing follows the last layer: it
    gives logits. No two layers share a module, so an activation with weights of its own (``nn.PReLU()``) is learned for
    each.

    Args:
        in_features: Width of the features, >= 1: `feature_dim` of a [`Backbone`][lightning_hp.Backbone].
        num_classes: Number of classes, or of labels for ``"multilabel"``, >= 1; two for ``"binary"``.
        n_hidden_layers: Hidden layers before the last one, >= 0. With 0 the head is a linear probe.
        n_hidden_units: Width of the hidden layers, >= 1, or one width for each of them.
        use_dropout: Put dropout behind each hidden layer; a linear probe has none.
        dropout_val: Its probability, from 0 up to, not including, 1.
        use_activation_fn: Put the activation behind each hidden layer. Without it the whole is one linear map.
        activation_fn: An instance (each layer gets a copy of it), a class, or the name of one in ``torch.nn`` in any
            case, with arguments if it takes some: ``"LeakyReLU(0.2)"``. It has to act on each number by itself.
        norm: ``"batch"`` or ``"layer"`` between linear and activation; ``None``: none. ``"batch"`` cannot train on a
            batch of one sample.
        task: ``"multiclass"`` for cross-entropy, ``"multilabel"`` for binary cross-entropy on each label, ``"binary"``
            for binary cross-entropy on one logit.
        zero_init: Start the last layer at zero, so that the first prediction does not depend on the features.
        class_prior: How frequent the classes are, all > 0: counts or probabilities for each class (``"multiclass"``),
            the probability of each label (``"multilabel"``), that of the positive class (``"binary"``). The last bias
            starts at log p, or at log p / (1 - p), so that the first steps are not spent on learning it.

    Attributes:
        hidden: The hidden layers, an ``nn.Sequential``; empty for a linear probe.
        output: The last layer, an ``nn.Linear``.
        in_features: Width of the features.
        out_features: Number of logits.

    Shape:
        Features (batch, in_features) to logits (batch, num_classes), or (batch, 1) for ``"binary"``. Without a batch
        norm there may be any axes before the last.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If it is out of its range.

    Costs ``in_features * n_hidden_units`` weights and more, drawn from torch's random stream. Hidden weights start with
    the scale that keeps what goes into the activations at the variance of the features; the last layer starts as torch
    draws it, with a bias of zero.

    Where it does not help: on features that are linearly separable already, a hidden layer only costs; begin with
    ``n_hidden_layers=0``. With ``zero_init`` the layers below learn from the second step on.

    Source: He et al., *Delving Deep into Rectifiers*, 2015 (scale of the weights); Lin et al., *Focal Loss for Dense
    Object Detection*, 2017, section 3.3 (the bias that starts at the prior).

    Example:
        >>> nn_options_dict = {
        ...     "n_hidden_layers": 1,
        ...     "n_hidden_units": 64,
        ...     "use_dropout": False,
        ...     "dropout_val": 0.2,
        ...     "use_activation_fn": True,
        ...     "activation_fn": nn.ReLU(),
        ... }
        >>> head = ClassifierHead(512, 10, **nn_options_dict)
        >>> head(torch.zeros(8, 512)).shape
        torch.Size([8, 10])
        >>> probe = ClassifierHead(512, 3, n_hidden_layers=0, zero_init=True, class_prior=[80, 15, 5])
        >>> probe(torch.rand(1, 512)).softmax(-1)
        tensor([[0.8000, 0.1500, 0.0500]], grad_fn=<SoftmaxBackward0>)

    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        n_hidden_layers: int = 1,
        n_hidden_units: int | Sequence[int] = 256,
        use_dropout: bool = False,
        dropout_val: float = 0.2,
        use_activation_fn: bool = True,
        activation_fn: Activation = nn.ReLU(),  # noqa: B008 - copied for each layer, never used itself
        *,
        norm: Norm | None = None,
        task: Task = "multiclass",
        zero_init: bool = False,
        class_prior: float | Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _whole("in_features", in_features, least=1)
        self.out_features = num_logits(task, num_classes)
        self.task = task
        widths = _widths(n_hidden_layers, n_hidden_units)
        for name, flag in {
            "use_dropout": use_dropout,
            "use_activation_fn": use_activation_fn,
            "zero_init": zero_init,
        }.items():
            if not isinstance(flag, bool):
                raise TypeError(f"Expected `{name}` to be True or False, but got {flag!r}.")
        if not is_number(dropout_val) or not 0 <= dropout_val < 1:
            raise ValueError(f"Expected `dropout_val` to be a number >= 0 and < 1, but got {dropout_val!r}.")
        if norm is not None and norm not in _NORMS:
            raise ValueError(f"Expected `norm` to be 'batch', 'layer' or None, but got {norm!r}.")
        bias = None if class_prior is None else _prior_bias(task, self.out_features, class_prior)

        scale = gain(new_activation(activation_fn))  # made even where no layer uses it: it is refused here
        layers: list[nn.Module] = []
        inputs = self.in_features
        # A layer makes up for the activation that its input went through; that of the first went through none of ours.
        std = inputs**-0.5
        for width in widths:
            activation = new_activation(activation_fn) if use_activation_fn else None
            linear = nn.Linear(inputs, width)
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
            parts = [linear, _NORMS[norm](width) if norm else None, activation]
            layers += [part for part in parts if part is not None]
            if use_dropout:
                layers.append(nn.Dropout(float(dropout_val)))
            inputs = width
            std = (scale if use_activation_fn else 1.0) * width**-0.5
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(inputs, self.out_features)
        if zero_init:
            nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(torch.zeros(self.out_features) if bias is None else bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of shape (batch, out_features) for features of shape (batch, in_features)."""
        if features.shape[-1] != self.in_features:
            raise ValueError(
                f"Expected features of width {self.in_features} (`in_features`), but got {tuple(features.shape)}."
            )
        logits: Tensor = self.output(self.hidden(features))
        return logits


def _whole(name: str, value: Any, least: int) -> int:
    if not is_number(value):
        raise TypeError(f"Expected `{name}` to be an int >= {least}, but got {value!r}.")
    return check_whole(name, value, least=least)


def num_logits(task: Task, num_classes: int) -> int:
    """How many logits a task has.

    Raises:
        TypeError: If ``num_classes`` is no number.
        ValueError: If the two do not go together.

    """
    if task not in get_args(Task):
        raise ValueError(f"Expected `task` to be one of {', '.join(get_args(Task))}, but got {task!r}.")
    count = _whole("num_classes", num_classes, least=1)
    if task == "binary":
        if count > 2:
            raise ValueError(f"Expected `num_classes` to be 2 (or 1) for task 'binary', but got {count}.")
        return 1
    if task == "multiclass" and count == 1:
        raise ValueError("Expected `num_classes` >= 2, but got 1. For one logit choose task='binary'.")
    return count


def _widths(n_hidden_layers: int, n_hidden_units: Any) -> list[int]:
    count = _whole("n_hidden_layers", n_hidden_layers, least=0)
    if isinstance(n_hidden_units, str):
        raise TypeError(f"Expected `n_hidden_units` to be an int or one for each layer, but got {n_hidden_units!r}.")
    if not isinstance(n_hidden_units, Sequence):
        return [_whole("n_hidden_units", n_hidden_units, least=1)] * count
    if len(n_hidden_units) != count:
        raise ValueError(
            f"Expected `n_hidden_units` to be an int or a list of {count} (`n_hidden_layers`), but got "
            f"{list(n_hidden_units)}."
        )
    return [_whole("n_hidden_units", units, least=1) for units in n_hidden_units]


def _prior_bias(task: Task, count: int, class_prior: float | Sequence[float] | Tensor) -> Tensor:
    """Log p for a softmax, log p / (1 - p) for each logit of its own."""
    prior = torch.as_tensor(class_prior, dtype=torch.float64, device="cpu").reshape(-1)
    kind = {
        "multiclass": f"{count} counts or probabilities, finite and > 0, one for each class",
        "multilabel": f"{count} probabilities > 0 and < 1, one for each label",
        "binary": "the probability of the positive class, > 0 and < 1",
    }[task]
    values: Iterator[float] = iter(prior.tolist())
    most = float("inf") if task == "multiclass" else 1.0
    if len(prior) != count or not all(0 < value < most for value in values):
        raise ValueError(f"Expected `class_prior` to be {kind}, but got {class_prior!r}.")
    return (prior / prior.sum()).log() if task == "multiclass" else torch.logit(prior)
