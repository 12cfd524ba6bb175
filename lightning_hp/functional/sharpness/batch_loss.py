"""The mean loss of a model over some batches, as a function of its present weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_hp.functional.checks import check_callable, check_choice, check_instance, check_iterable, wrong_type
from lightning_hp.functional.norm_layers import has_running_statistics, norm_layers
from lightning_hp.functional.sharpness.weights import scalar_of

_MODES = ("running", "batch")


class BatchLoss:
    """The mean loss of a model over some batches: a function of its present weights.

    The model is evaluated as in validation: dropout is off. Each call restores the training flags of all modules and
    the buffers of normalisation layers; what the model itself writes in its ``forward`` stays.

    Args:
        model: The model. It may be training; its flags are set for each call and restored.
        batches: Pairs of inputs and targets, on the device of the model. The model is called with the inputs. The
            batches are kept, an iterator is read once.
        loss_function: Gets the output of the model and the targets, returns the mean loss over the samples of the
            batch, a tensor of one number.
        batch_norm: What layers such as BatchNorm normalise with: ``"running"``: their running statistics, as in
            validation; ``"batch"``: the statistics of each batch, as in training. At other weights the running
            statistics do not fit the activations, so the two give different surfaces.

    Attributes:
        num_samples: Number of samples in all batches.

    Raises:
        TypeError: If an argument is of the wrong type, or a batch is no pair.
        ValueError: If there are no batches or no samples.

    Note:
        Batches are weighted by their number of samples, which is the length of the targets, or of the first tensor if
        the targets are several ones, so that a shorter last batch counts less. A batch that the model writes to is
        copied for each evaluation. Autograd is neither switched on nor off. ``"batch"`` copies the buffers of the
        normalisation layers once a batch; the layers never write to the model's own.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
        >>> batches = [(torch.ones(8, 4), torch.zeros(8, dtype=torch.long)), (torch.ones(2, 4), torch.ones(2).long())]
        >>> loss = BatchLoss(model, batches, nn.functional.cross_entropy)
        >>> loss.num_samples, loss().shape, model.training
        (10, torch.Size([]), True)

    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Any, Any]],
        loss_function: Callable[[Any, Any], Tensor],
        *,
        batch_norm: Literal["running", "batch"] = "running",
    ) -> None:
        check_instance("model", model, nn.Module, "a module")
        self.model = model
        self.loss_function: Callable[[Any, Any], Any] = check_callable("loss_function", loss_function)
        self.batch_norm = check_choice("batch_norm", batch_norm, _MODES)
        self.batches = [_pair(number, batch) for number, batch in enumerate(_check_batches(batches))]
        self._sizes = [_size(number, *batch) for number, batch in enumerate(self.batches)]
        # Whether evaluating a batch writes to it, which the first evaluation shows; it then gets a copy each time.
        self._is_written: dict[int, bool] = {}
        self.num_samples = sum(self._sizes)
        if not self.num_samples:
            raise ValueError("Expected `batches` to hold samples, but got none.")
        self._modules = list(model.modules())
        self._norm_layers = [layer for _, layer in norm_layers(model)] if self.batch_norm == "batch" else []
        #: Layers whose buffers a forward pass would update.
        self._updated = [layer for layer in self._norm_layers if has_running_statistics(layer)]

    def __call__(self) -> Tensor:
        """The mean loss at the present weights, shape ``()``, on the device of the model.

        Raises:
            TypeError: If ``loss_function`` returns no number.
            ValueError: If it returns several numbers.

        """
        total = self._share(0)
        for number in range(1, len(self.batches)):
            total = total + self._share(number)
        return total

    def parts(self) -> list[Callable[[], Tensor]]:
        """For each batch its share of the loss; their sum is the loss. Gradients then need the memory of one batch."""
        return [partial(self._share, number) for number in range(len(self.batches))]

    def _share(self, number: int) -> Tensor:
        """The share of one batch, in evaluation mode."""
        inputs, targets = self.batches[number]
        is_known = number in self._is_written
        if self._is_written.get(number, True):
            inputs, targets = copy.deepcopy((inputs, targets))
        training = [module for module in self._modules if module.training]
        buffers: list[tuple[nn.Module, str, Tensor]] = []
        try:
            for module in training:
                module.training = False
            if self._norm_layers:
                self._use_batch_statistics(buffers)
            value = scalar_of(self.loss_function(self.model(inputs), targets))
        finally:
            for layer, name, buffer in buffers:
                setattr(layer, name, buffer)
            for layer in self._norm_layers:
                layer.training = False
            for module in training:
                module.training = True
        if not is_known:
            self._is_written[number] = not _are_equal(self.batches[number], (inputs, targets))
        if len(self.batches) == 1:
            return value
        if value.dtype in (torch.float16, torch.bfloat16):
            value = value.float()
        return value * (self._sizes[number] / self.num_samples)

    def _use_batch_statistics(self, buffers: list[tuple[nn.Module, str, Tensor]]) -> None:
        """Training mode for normalisation layers, on copies of their buffers; notes the buffers."""
        for layer in self._norm_layers:
            layer.training = True
        for layer in self._updated:
            for name, buffer in layer.named_buffers(recurse=False):
                buffers.append((layer, name, buffer))
                setattr(layer, name, buffer.clone())


def _check_batches(batches: Any) -> list[Any]:
    what = "an iterable of pairs of inputs and targets"
    if isinstance(batches, Tensor):
        wrong_type("batches", what, batches)
    several = check_iterable("batches", batches, what)
    if not several:
        raise ValueError(f"Expected `batches` to be {what}, at least one, but got none.")
    return several


def _pair(number: int, batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        wrong_type(f"batches[{number}]", "a pair of inputs and targets", batch)
    return batch[0], batch[1]


def _size(number: int, inputs: Any, targets: Any) -> int:
    """The length of the targets; of several tensors, or objects without a length, that of the first tensor."""
    if not isinstance(targets, (Tensor, range)):
        tensors = [leaf for leaf in tree_leaves((inputs, targets)) if isinstance(leaf, Tensor) and leaf.ndim]
        if tensors:
            return len(tensors[0])
    try:
        return len(targets)
    except TypeError:
        wrong_type(f"batches[{number}][1]", "targets with a length, which is the number of samples", targets)


def _are_equal(first: Any, second: Any) -> bool:
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))
