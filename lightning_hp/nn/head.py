"""ClassifierHead: from features to logits, with the options that are worth tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_hp.functional.checks import (
    check_array,
    check_bool,
    check_choice,
    check_int,
    check_iterable,
    check_number,
    is_number,
    wrong_value,
)
from lightning_hp.nn.activations import Activation, gain, new_activation

Task = Literal["multiclass", "binary", "multilabel"]
Norm = Literal["batch", "layer"]

# Larger sizes overflow inside torch, or take all memory.
_MAX_WIDTH = 2**31 - 1
_MAX_LAYERS = 1000

_NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class ClassifierHead(nn.Module):
    """Hidden layers and a last linear layer, defined by options that a sweep can vary.

    Each hidden layer consists of a linear layer and then, if asked for, norm, activation and dropout. The last layer
    returns logits; nothing follows it. No two layers share a module, so an activation with parameters (``nn.PReLU()``)
    is learned for each layer.

    Args:
        in_features: Width of the features, >= 1: `feature_dim` of a [`Backbone`][lightning_hp.Backbone].
        num_classes: Number of classes, >= 2; number of labels for ``"multilabel"``, >= 1; 2 (or 1) for ``"binary"``.
        n_hidden_layers: Hidden layers before the last layer, >= 0. With 0 the head is a linear probe.
        n_hidden_units: Width of all hidden layers, >= 1, or a list with one width for each.
        use_dropout: Whether each hidden layer ends in a dropout. A linear probe has none.
        dropout_val: Dropout probability, >= 0 and < 1.
        use_activation_fn: Whether hidden layers have an activation. Without it the head is one linear map.
        activation_fn: An instance (each layer gets a copy), a class, or the name of one in ``torch.nn`` in any case,
            with arguments if it takes some: ``"LeakyReLU(0.2)"``. It has to act elementwise.
        task: ``"multiclass"`` for cross-entropy, ``"multilabel"`` for binary cross-entropy on each label, ``"binary"``
            for binary cross-entropy on one logit.
        norm: ``"batch"`` or ``"layer"`` between linear layer and activation; ``None``: none. ``"batch"`` cannot train
            on a batch of one sample.
        class_prior: Frequencies, all > 0, from which the last bias starts: counts or probabilities of the classes
            (``"multiclass"``), the probability of each label (``"multilabel"``), or that of the positive class
            (``"binary"``). The bias is log p, or log p / (1 - p). ``None``: 0.
        zero_init: Whether the weights of the last layer start at zero, so that the first prediction does not depend on
            the features.

    Attributes:
        hidden: The hidden layers, an ``nn.Sequential``; empty for a linear probe.
        output: The last layer, an ``nn.Linear``.
        in_features: Width of the features.
        out_features: Number of logits.

    Shape:
        From features (batch, in_features) to logits (batch, num_classes), or (batch, 1) for ``"binary"``. Without a
        batch norm there may be any number of axes before the last one.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        Hidden weights are drawn from torch's global random state, with a scale that keeps the input of each activation
        at the variance of the features. The last weights start as in ``nn.Linear``.

        If the features are linearly separable, hidden layers only add cost: begin with ``n_hidden_layers=0``. With
        ``zero_init`` the layers before the last one learn from the second step on.

    References:
        He et al., *Delving Deep into Rectifiers*, 2015 (scale of the weights). Lin et al., *Focal Loss for Dense Object
        Detection*, 2017, section 3.3 (bias from the class prior).

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
        task: Task = "multiclass",
        norm: Norm | None = None,
        class_prior: float | Sequence[float] | Tensor | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = check_int("in_features", in_features, 1, _MAX_WIDTH)
        self.out_features = num_logits(task, num_classes)
        self.task = task
        widths = _hidden_widths(n_hidden_layers, n_hidden_units)
        use_dropout = check_bool("use_dropout", use_dropout)
        dropout_val = check_number("dropout_val", dropout_val, minimum=0, below=1)
        use_activation_fn = check_bool("use_activation_fn", use_activation_fn)
        zero_init = check_bool("zero_init", zero_init)
        activation_gain = gain(new_activation(activation_fn))  # checks it, even if no layer uses it
        norm_class = None if norm is None else _NORMS[check_choice("norm", norm, tuple(_NORMS), also="None")]
        bias = None if class_prior is None else _prior_bias(task, self.out_features, class_prior)

        layers: list[nn.Module] = []
        num_inputs = self.in_features
        # The scale of a layer corrects for the activation before it; there is none before the first layer.
        std = num_inputs**-0.5
        for width in widths:
            activation = new_activation(activation_fn) if use_activation_fn else None
            linear = nn.Linear(num_inputs, width)
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
            parts = [linear, norm_class(width) if norm_class else None, activation]
            layers += [part for part in parts if part is not None]
            if use_dropout:
                layers.append(nn.Dropout(dropout_val))
            num_inputs = width
            std = (activation_gain if use_activation_fn else 1.0) * width**-0.5
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(num_inputs, self.out_features)
        if zero_init:
            nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(torch.zeros(self.out_features) if bias is None else bias)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """Computes the logits of a batch.

        Args:
            features: Shape (batch, in_features).

        Returns:
            Logits of shape (batch, out_features).

        Raises:
            ValueError: If the features have another width.

        """
        if features.shape[-1] != self.in_features:
            raise ValueError(
                f"Expected features of width {self.in_features} (`in_features`), but got {tuple(features.shape)}."
            )
        logits: Tensor = self.output(self.hidden(features))
        return logits


def num_logits(task: Task, num_classes: int) -> int:
    """The number of logits for a task.

    Args:
        task: ``"multiclass"``, ``"binary"`` or ``"multilabel"``.
        num_classes: Number of classes or labels, >= 1.

    Returns:
        1 for ``"binary"``, else ``num_classes``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or the two do not fit together.

    """
    task = check_choice("task", task, get_args(Task))
    count = check_int("num_classes", num_classes, 1, _MAX_WIDTH)
    if task == "binary":
        if count > 2:
            raise ValueError(f"Expected `num_classes` to be 2 (or 1) for task 'binary', but got {count}.")
        return 1
    if task == "multiclass" and count == 1:
        raise ValueError("Expected `num_classes` >= 2, but got 1. For one logit choose task='binary'.")
    return count


def _hidden_widths(n_hidden_layers: int, n_hidden_units: Any) -> list[int]:
    count = check_int("n_hidden_layers", n_hidden_layers, 0, _MAX_LAYERS)
    if is_number(n_hidden_units):
        return [check_int("n_hidden_units", n_hidden_units, 1, _MAX_WIDTH)] * count
    widths = check_iterable("n_hidden_units", n_hidden_units, "an int >= 1, or a list with one for each hidden layer")
    if len(widths) != count:
        wrong_value("n_hidden_units", f"an int or a list of {count} (`n_hidden_layers`)", widths)
    return [check_int("n_hidden_units", width, 1, _MAX_WIDTH) for width in widths]


def _prior_bias(task: Task, count: int, class_prior: Any) -> Tensor:
    """The bias of the last layer: log p for a softmax, log p / (1 - p) for independent logits."""
    expected = {
        "multiclass": f"{count} counts or probabilities, finite and > 0, one for each class",
        "multilabel": f"{count} probabilities > 0 and < 1, one for each label",
        "binary": "the probability of the positive class, > 0 and < 1",
    }[task]
    prior = torch.from_numpy(check_array("class_prior", class_prior, expected)).reshape(-1)
    maximum = torch.inf if task == "multiclass" else 1.0
    if len(prior) != count or not all(0 < value < maximum for value in prior.tolist()):
        wrong_value("class_prior", expected, class_prior)
    return (prior / prior.sum()).log() if task == "multiclass" else torch.logit(prior)
