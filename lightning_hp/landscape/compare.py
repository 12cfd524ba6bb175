"""Compares the landscapes of several models: same random draws, radius, samples and statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_hp.functional.checks import check_bool, check_callable, check_instance, check_number, wrong_type
from lightning_hp.functional.sharpness.batch_loss import BatchLoss
from lightning_hp.landscape.kept_batches import fingerprint
from lightning_hp.landscape.measure import evaluated, measure
from lightning_hp.landscape.restored import Restored
from lightning_hp.landscape.settings import LandscapeSettings, check_num_samples
from lightning_hp.memory import is_out_of_memory
from lightning_hp.results.landscape import LandscapeComparison, LandscapeResult
from lightning_hp.snapshot import RandomState, Snapshot, Undo

_WHAT = 'a dict of names and models, checkpoints or results, as in {"SGD": first, "SAM": second}'


def compare_landscapes(
    models: Mapping[str, Any],
    data: Iterable[Any] | None = None,
    *,
    module: nn.Module | None = None,
    loss_function: Callable[[Any, Any], Tensor] | None = None,
    metrics: Mapping[str, Callable[[nn.Module], float]] | None = None,
    num_samples: int = 512,
    resolution: int = 21,
    radius: float = 1.0,
    num_pairs: int = 1,
    batch_norm: Literal["running", "batch"] = "running",
    coarse: bool = False,
    num_eigenvalues: int = 1,
    radii: Sequence[float] = (0.05, 0.5),
    seed: int = 0,
    enable_progress_bar: bool = True,
) -> LandscapeComparison:
    """Measures the landscapes of several models alike, for one figure with one colour scale, and one table.

    The random numbers behind the directions are the same for all models; each filter of a direction then has the norm
    of the model's own filter, which makes models of different scales comparable.

    Args:
        models: Models by name, or paths of Lightning's checkpoints, or landscapes that :class:`LossLandscape` measured
            alike.
        data: A loader, or batches: pairs of inputs and targets. The first ``num_samples`` samples are used, whole
            batches. Not with landscapes.
        module: The model that checkpoints are loaded into; a copy of it is used.
        loss_function: Gets the output of the model and the targets and returns the mean loss; ``None``: cross-entropy.
        metrics: Further numbers for the table: functions of a model, such as the accuracy on test data. They get the
            model in evaluation mode, without gradients.
        num_samples: Enough samples, >= 1.
        resolution: Points along each direction, odd, >= 3.
        radius: The surface reaches from -radius to radius, > 0; 1 is the norm of the weights.
        num_pairs: Pairs of random directions, >= 1. One direction alone can mislead; the figure shows the spread.
        batch_norm: ``"running"`` or ``"batch"``: which statistics normalisation layers use at other weights.
        coarse: Whether three quarters of the points are interpolated.
        num_eigenvalues: Leading eigenvalues of the Hessian, >= 0.
        radii: Distances at which the rise of the loss is measured, each > 0.
        seed: Seed of the directions, >= 0.
        enable_progress_bar: Whether a terminal shows a progress bar over the points.

    Returns:
        The landscapes and the metrics of all models.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a value is wrong, there are no samples, a checkpoint does not fit, or landscapes were measured
            differently.

    Note:
        Costs ``resolution**2 x num_pairs`` forward passes over the samples for each model, and less than a quarter of
        that for the numbers. The models, their flags and the random state are as before afterwards.

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.

    Example:
        >>> import torch
        >>> from lightning_hp import compare_landscapes
        >>> small, large = torch.nn.Linear(8, 3), torch.nn.Sequential(torch.nn.Linear(8, 9), torch.nn.Linear(9, 3))
        >>> batches = [(torch.randn(16, 8), torch.randint(0, 3, (16,)))]
        >>> compared = compare_landscapes({"small": small, "large": large}, batches, resolution=5, radii=[0.1])
        >>> header, rows = compared.table()
        >>> header, [row[0] for row in rows]
        (['quantity', 'small', 'large'], ['loss', 'eigenvalue', 'rise_ascent_0.1', 'rise_mean_0.1', 'rise_worst_0.1'])

    """
    radius = check_number("radius", radius, above=0)
    settings = LandscapeSettings(
        "random", radius, resolution, num_pairs, batch_norm, coarse, None, num_eigenvalues, radii, seed
    )
    num_samples = check_num_samples(num_samples)
    check_bool("enable_progress_bar", enable_progress_bar)
    named: Any = models
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        wrong_type("models", _WHAT, models)
    if not models:
        raise ValueError(f"Expected `models` to be {_WHAT}, but got none.")
    functions = _check_metrics(metrics)
    if all(isinstance(model, LandscapeResult) for model in models.values()):
        return _of_results(models, data, functions)
    opened = {name: _open(name, model, module) for name, model in models.items()}
    if data is None:
        raise ValueError("Expected `data` for models and checkpoints: a loader, or pairs of inputs and targets.")
    function: Any = nn.functional.cross_entropy
    if loss_function is not None:
        function = check_callable("loss_function", loss_function, what="a function of outputs and targets")
    results, numbers = {}, {}
    state = RandomState(None)
    try:
        batches = _first(data, num_samples, loss_function is None)
        with _bar(enable_progress_bar, len(opened) * _num_points(settings)) as advance:
            for name, build in opened.items():
                model = build()
                results[name] = _measured(name, model, batches, function, settings, advance)
                numbers[name] = {metric: _metric(metric, model, get) for metric, get in functions.items()}
    finally:
        state.restore()
    return LandscapeComparison(results, numbers)


#: What landscapes have to have in common; `data` differs if the trainings began with other batches.
_ALIKE = ("directions", "batch_norm", "num_samples", "seed", "data", "loss_name", "num_pairs", "radii")


def _stated(result: LandscapeResult, name: str) -> Any:
    if name == "num_pairs":
        return len(result.surfaces)
    return tuple(rise.radius for rise in result.rises) if name == "radii" else getattr(result, name)


def _measured(
    name: str, model: nn.Module, batches: list[Any], function: Any, settings: LandscapeSettings, advance: Any
) -> LandscapeResult:
    """The landscape of one model, which is restored."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise ValueError(f"Expected weights that require gradients in models[{name!r}], but got none.")
    device = weights[0].device
    with Undo() as undo:
        undo.callback(Snapshot(model).restore)
        moved = [_moved(batch, device) for batch in batches]
        loss = BatchLoss(Restored(model), moved, function, batch_norm=settings.batch_norm)
        try:
            evaluated(loss)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"Expected a loss of models[{name!r}] on `data`, but it raised {type(error).__name__}: {error}. Give"
                " a function of outputs and targets as `loss_function`, or other data."
            ) from error
        result = measure(
            loss,
            weights,
            settings,
            advance=advance,
            num_frozen=sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad),
            num_samples=loss.num_samples,
            data=fingerprint(batches),
            loss_name=getattr(function, "__qualname__", type(function).__name__),
        )
    return result  # noqa: RET504 - a `with` block may end without an exception


def _of_results(models: Mapping[str, Any], data: Any, functions: Mapping[str, Any]) -> LandscapeComparison:
    if data is not None or functions:
        raise ValueError("Expected no `data` and no `metrics` with landscapes that are measured already.")
    first, *others = models.values()
    for other in others:
        for name in _ALIKE:
            if _stated(first, name) != _stated(other, name):
                raise ValueError(
                    f"Expected landscapes that were measured alike, but `{name}` is {_stated(first, name)!r} and"
                    f" {_stated(other, name)!r}. Give the models instead."
                )
        alike = (first.x.shape, first.y.shape) == (other.x.shape, other.y.shape)
        if first.directions != "random" or not (alike and (first.x == other.x).all() and (first.y == other.y).all()):
            raise ValueError(
                "Expected landscapes in random directions with the same points, but got others, which cannot be"
                " compared point by point. Give the models instead."
            )
    return LandscapeComparison(dict(models))


def _open(name: str, model: Any, module: Any) -> Callable[[], nn.Module]:
    """A function that gives the model; a checkpoint is read when it is needed, and checked now."""
    if isinstance(model, nn.Module):
        return lambda: model
    if not isinstance(model, (str, PathLike)):
        what = "a model, the path of a checkpoint, or in all entries a LandscapeResult"
        if isinstance(model, Mapping):
            what += " (of a dict that `to_dict` returned: `LandscapeResult.from_dict`)"
        wrong_type(f"models[{name!r}]", what, model)
    if module is None:
        raise ValueError(f"Expected `module`, the model that the checkpoint models[{name!r}] is loaded into.")
    check_instance("module", module, nn.Module, "a module")
    checkpoint = torch.load(model, map_location="cpu", weights_only=False, mmap=True)
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        raise ValueError(f"Expected a checkpoint of Lightning in {model}, but it holds no 'state_dict'.")
    loaded = copy.deepcopy(module)
    try:
        loaded.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"Expected a checkpoint that fits `module`, but {model} does not: {error}") from error
    return lambda: loaded


def _check_metrics(metrics: Any) -> dict[str, Callable[[Any], Any]]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        wrong_type("metrics", "a dict of names and functions of a model, or None", metrics)
    if own := [name for name in metrics if str(name).startswith(("loss", "eigenvalue", "rise_"))]:
        raise ValueError(f"Expected names in `metrics` that the table does not have already, but got {own[0]!r}.")
    return {
        str(name): check_callable(f"metrics[{name!r}]", get, what="a function of a model")
        for name, get in metrics.items()
    }


def _first(data: Any, num_samples: int, is_classification: bool) -> list[Any]:
    """The first batches with enough samples."""
    batches: list[Any] = []
    counted = 0
    try:
        iterator = iter(data)
    except TypeError:
        wrong_type("data", "a loader, or an iterable of pairs of inputs and targets", data)
    for batch in iterator:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            wrong_type(f"data[{len(batches)}]", "a pair of inputs and targets, as in data=[(inputs, targets)]", batch)
        if is_classification and _is_regression(batch[1]):
            raise ValueError(
                "Expected class indices or one column per class as targets of the cross-entropy, but got one number of"
                f" type {batch[1].dtype} per sample. Give another loss as `loss_function`."
            )
        batches.append(batch)
        counted += len(batch[1])
        if counted >= num_samples:
            break
    return batches


def _is_regression(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point() and (targets.ndim < 2 or targets.shape[1] == 1)


def _moved(batch: Any, device: torch.device) -> Any:
    from torch.utils._pytree import tree_map

    return tree_map(lambda entry: entry.to(device) if isinstance(entry, Tensor) else entry, tuple(batch))


def _metric(name: str, model: nn.Module, get: Callable[[Any], Any]) -> float:
    """A metric of the model in evaluation mode; its flags are restored."""
    flags = [(layer, layer.training) for layer in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            value = get(model)
        try:
            return float(value)
        except (TypeError, ValueError):
            return wrong_type(f"metrics[{name!r}]", "a function that returns a number", value)
    finally:
        for layer, is_training in flags:
            layer.training = is_training


def _num_points(settings: LandscapeSettings) -> int:
    side = settings.resolution
    return settings.num_pairs * (((side + 1) // 2) ** 2 if settings.coarse else side**2)


@contextmanager
def _bar(is_shown: bool, total: int) -> Iterator[Callable[[], None]]:
    from tqdm.auto import tqdm

    with tqdm(desc="landscapes", total=total, unit=" points", leave=False, disable=None if is_shown else True) as bar:

        def advance() -> None:
            bar.update()

        yield advance
