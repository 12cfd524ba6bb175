"""The mean loss of a model over some batches, as a function of its present weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_hp.functional.checks import check_callable, check_choice, check_instance, check_iterable, wrong_type
from lightning_hp.functional.norm_layers import has_running_statistics, norm_layers
from lightning_hp.functional.sharpness.weights import scalar_of

_MODES = ("running", "batch")


class BatchLoss:
    """The mean loss of a model over some batches: a function of its present weights that leaves no trace.

    The model is evaluated as in validation: dropout is off. Each call restores the training flags of all modules and
    the buffers of normalisation layers.

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
        Batches are weighted by their number of samples, which is ``len(targets)``, so that a shorter last batch counts
        less. Autograd is neither switched on nor off. ``"batch"`` copies the buffers of the normalisation layers once a
        batch; the layers never write to the model's own.

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
        self._sizes = [_size(number, targets) for number, (_, targets) in enumerate(self.batches)]
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
        first, *others = self.parts()
        total = first()
        for part in others:
            total = total + part()
        return total

    def parts(self) -> list[Callable[[], Tensor]]:
        """For each batch its share of the loss; their sum is the loss. Gradients then need the memory of one batch."""
        return [partial(self._share, number) for number in range(len(self.batches))]

    def _share(self, number: int) -> Tensor:
        inputs, targets = self.batches[number]
        with self._evaluation():
            value = scalar_of(self.loss_function(self.model(inputs), targets))
        if len(self.batches) == 1:
            return value
        if value.dtype in (torch.float16, torch.bfloat16):
            value = value.float()
        return value * (self._sizes[number] / self.num_samples)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Evaluation mode; with ``"batch"`` training mode for normalisation layers, on copies of their buffers."""
        flags = [(module, module.training) for module in self._modules]
        buffers: list[tuple[nn.Module, str, Tensor]] = []
        try:
            for module, is_training in flags:
                if is_training:
                    module.training = False
            for layer in self._norm_layers:
                layer.training = True
            for layer in self._updated:
                for name, buffer in layer.named_buffers(recurse=False):
                    buffers.append((layer, name, buffer))
                    setattr(layer, name, buffer.clone())
            yield
        finally:
            for layer, name, buffer in buffers:
                setattr(layer, name, buffer)
            for module, is_training in flags:
                if module.training != is_training:
                    module.training = is_training


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


def _size(number: int, targets: Any) -> int:
    try:
        return len(targets)
    except TypeError:
        wrong_type(f"batches[{number}][1]", "targets with a length, which is the number of samples", targets)
