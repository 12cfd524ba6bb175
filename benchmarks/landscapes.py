"""The time of a loss surface beside loss-landscapes and landscaper, and the accuracy of what saves time.

Every program evaluates the same number of points with the same model, samples and directions, on one thread. The
*floor* is as many forward passes and losses without moving the weights. Programs run in turns (see
:mod:`benchmarks.interleaved`). Values are compared at the same points: loss-landscapes shifts every second row by one
step, landscaper adds noise to the largest loss.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import lightning_hp.functional as hpf
from benchmarks.datasets import mnist
from benchmarks.interleaved import InterleavedRun, median_ratio, run_rounds

SIDE = 11
GRID = np.arange(SIDE) - SIDE // 2
STEP = 0.1  # of the norm of each filter, so the grid reaches half of it
POINTS_A_TURN, SURFACES, ROUNDS = 24, 2, 2

CALLS_A_TURN = 2  # of eigenvalues

OURS, SHIFTING, LANDSCAPER, FLOOR = "hpf.loss_surface", "loss-landscapes", "landscaper", "floor"


def mlp() -> nn.Module:
    """84 000 weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(196, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def cnn(norm: Callable[[int], nn.Module] = lambda channels: nn.Identity()) -> nn.Module:
    """Two convolutions, 1 500 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), norm(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "CNN": cnn,
    "CNN with BatchNorm": partial(cnn, nn.BatchNorm2d),
    "MLP": mlp,
}


@lru_cache
def trained(name: str) -> nn.Module:
    """A model after three epochs on MNIST, in evaluation mode."""
    torch.manual_seed(0)
    model, data = MODELS[name](), mnist()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        for chosen in torch.randperm(len(data.x_train)).split(50):
            nn.functional.cross_entropy(model(data.x_train[chosen]), data.y_train[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def samples(number: int) -> tuple[Tensor, Tensor]:
    data = mnist()
    return data.x_train[:number], data.y_train[:number]


def plane(model: nn.Module) -> list[list[Tensor]]:
    """The two directions of one step."""
    return [[STEP * d for d in direction] for direction in hpf.random_directions(model.parameters())]


# ------------------------------------------------------------------------------------------------ time


Run = Callable[[], Any]
Criterion = Callable[[Tensor, Tensor], Tensor]


def ours(model: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> Run:
    loss, directions = hpf.BatchLoss(model, [(x, y)], criterion), plane(model)
    return lambda: hpf.loss_surface(loss, model.parameters(), directions, GRID, GRID)


def shifting(model: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> Run:
    """loss-landscapes goes from one corner to the two neighbouring corners, on copies of them."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    corners = [moved(model, -(SIDE // 2), -(SIDE // 2)) for _ in range(3)]
    for corner, direction in zip(corners[1:], plane(model), strict=True):
        with torch.no_grad():
            for parameter, d in zip(corner.parameters(), direction, strict=True):
                parameter += SIDE * d
    metric = Loss(criterion, x, y)
    return lambda: loss_landscapes.planar_interpolation(*corners, metric, SIDE, deepcopy_model=True)


def landscaper(model: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> Run:
    from landscaper.compute import compute_loss_landscape

    directions = plane(model)

    def loss(model: nn.Module, data: Any) -> Tensor:
        return criterion(model(data[0]), data[1])

    return lambda: compute_loss_landscape(
        model, (x, y), directions, loss, steps=SIDE, distance=1.0, dim=2, device="cpu"
    )[0]


def floor(model: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> Run:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(SIDE * SIDE):
                criterion(model(x), y)

    return run


def moved(model: nn.Module, x: float, y: float) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, first, second in zip(other.parameters(), *plane(model), strict=True):
            parameter += x * first + y * second
    return other


PROGRAMS: dict[str, Callable[[nn.Module, Tensor, Tensor, Criterion], Run]] = {
    FLOOR: floor, OURS: ours, SHIFTING: shifting, LANDSCAPER: landscaper,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """The time of a point in one program."""

    model: str
    num_samples: int
    program: str
    ms: float
    ratio: tuple[float, float, float]  # to the floor, with its 95% interval


def measure(name: str, num_samples: int) -> list[Cost]:
    model = trained(name)
    batch = samples(num_samples)
    programs = {program: partial(_repeat, program, model, batch) for program in PROGRAMS}
    turns, _ = run_rounds(programs, POINTS_A_TURN, ROUNDS)
    return [
        Cost(
            name, num_samples, program, 1e3 * statistics.median(turns[program]),
            median_ratio(turns[program], turns[FLOOR]),
        )
        for program in PROGRAMS
    ]  # fmt: skip


def _repeat(program: str, model: nn.Module, batch: tuple[Tensor, Tensor], run: InterleavedRun) -> None:
    def criterion(output: Tensor, targets: Tensor) -> Tensor:
        run.tick(program)
        return nn.functional.cross_entropy(output, targets)

    surface = PROGRAMS[program](copy.deepcopy(model), *batch, criterion)
    for _ in range(SURFACES):
        surface()


def largest_difference(name: str, num_samples: int) -> dict[str, float]:
    """The largest relative difference of ours and the others' values at the same points."""
    model, batch = trained(name), samples(num_samples)
    loss = hpf.BatchLoss(model, [batch], nn.functional.cross_entropy)
    wide = np.arange(SIDE + 1) - SIDE // 2
    surface = hpf.loss_surface(loss, model.parameters(), plane(model), wide, wide)  # [y, x]
    theirs = shifting(model, *batch, nn.functional.cross_entropy)()  # [x, y], even rows one step further
    same = np.array([surface[1:, i] if i % 2 == 0 else surface[:-1, i] for i in range(SIDE)])
    found = {SHIFTING: float(np.abs(theirs / same - 1).max())}

    from landscaper import compute

    weights = [p.data for p in model.parameters()]
    steps = []
    for direction in plane(model):
        compute.normalize_direction(direction, weights)
        length = compute.get_model_norm(weights) / (SIDE / 2) / compute.get_model_norm(direction)
        compute.scale_direction(direction, length)
        steps.append(direction)
    surface = hpf.loss_surface(loss, model.parameters(), steps, GRID, GRID).T
    theirs = landscaper(model, *batch, nn.functional.cross_entropy)()
    others = surface < surface.max()  # landscaper adds noise to the largest one
    return {**found, LANDSCAPER: float(np.abs(theirs / surface - 1)[others].max())}


# -------------------------------------------------------------------------------------------- accuracy


@dataclass(frozen=True)
class Errors:
    """Relative errors of a surface of 21 x 21 points within one norm of each filter, worst of three seeds."""

    model: str
    coarse_mean: float
    coarse_largest: float
    by_samples: dict[int, float]  # the mean relative error with fewer samples than 1000


def accuracy(name: str) -> Errors:
    model, grid = trained(name), np.linspace(-1, 1, 21)
    coarse, by_samples = [], {number: [] for number in (64, 128, 256, 512)}
    for seed in range(3):
        directions = hpf.random_directions(model.parameters(), seed=seed)

        def surface(number: int, directions: Any = directions, **options: Any) -> NDArray[np.float64]:
            loss = hpf.BatchLoss(model, [samples(number)], nn.functional.cross_entropy)
            return hpf.loss_surface(loss, model.parameters(), directions, grid, grid, **options)

        exact = surface(1000)
        coarse.append(np.abs(surface(1000, coarse=True) / exact - 1))
        for number, errors in by_samples.items():
            errors.append(float(np.abs(surface(number) / exact - 1).mean()))
    return Errors(
        name,
        max(float(one.mean()) for one in coarse),
        max(float(one.max()) for one in coarse),
        {number: max(errors) for number, errors in by_samples.items()},
    )


# --------------------------------------------------------------------------------------------- Hessian


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue of the Hessian, by both libraries."""

    model: str
    ours: float
    theirs: float
    exact: float
    num_products: int
    ms: float
    ratio: tuple[float, float, float]  # the time of PyHessian by ours


def eigenvalue(name: str) -> Eigenvalue:
    """PyHessian's power iteration and ours, each to a tolerance of 1e-3, on 256 samples."""
    model, batch = trained(name), samples(256)
    loss = hpf.BatchLoss(model, [batch], nn.functional.cross_entropy)
    found = hpf.hessian_eigenvalues(loss, model.parameters())
    exact = hpf.hessian_eigenvalues(loss, model.parameters(), tolerance=1e-6)
    programs = {"ours": partial(_repeat_ours, name), "theirs": partial(_repeat_pyhessian, name)}
    turns, _ = run_rounds(programs, CALLS_A_TURN, 3)
    return Eigenvalue(
        name, float(found.values[0]), _pyhessian(copy.deepcopy(model), batch), float(exact.values[0]),
        found.num_products, 1e3 * statistics.median(turns["ours"]), median_ratio(turns["theirs"], turns["ours"]),
    )  # fmt: skip


def _repeat_ours(name: str, run: InterleavedRun) -> None:
    model, batch = trained(name), samples(256)
    for _ in range(4 * CALLS_A_TURN):
        run.tick("ours")
        loss = hpf.BatchLoss(model, [batch], nn.functional.cross_entropy)
        hpf.hessian_eigenvalues(loss, model.parameters())


def _repeat_pyhessian(name: str, run: InterleavedRun) -> None:
    model, batch = copy.deepcopy(trained(name)), samples(256)
    for _ in range(4 * CALLS_A_TURN):
        run.tick("theirs")
        _pyhessian(model, batch)


def _pyhessian(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    from pyhessian import hessian

    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice against what it does with `.grad`
        values, _ = hessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False).eigenvalues()
    return float(values[0])


# ------------------------------------------------------------------------------------------ components


@dataclass(frozen=True)
class Components:
    """Principal components of many checkpoints."""

    num_checkpoints: int
    num_weights: int
    seconds: float
    processor_seconds: float
    explained: float


def components(num_checkpoints: int = 100, num_weights: int = 10_000_000) -> Components:
    """Of a random walk in five tensors."""
    generator = torch.Generator().manual_seed(0)
    now = [torch.randn(num_weights // 5, generator=generator) for _ in range(5)]
    checkpoints = []
    for _ in range(num_checkpoints):
        now = [w + 0.01 * torch.randn(w.shape, generator=generator) for w in now]
        checkpoints.append(now)
    wall, processor = time.perf_counter(), time.process_time()
    found = hpf.pca_directions(checkpoints)
    return Components(
        num_checkpoints, num_weights, time.perf_counter() - wall, time.process_time() - processor,
        float(found.explained_variance_ratio.sum()),
    )  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All results of this benchmark."""

    costs: list[Cost]
    differences: dict[tuple[str, int], dict[str, float]]
    errors: list[Errors]
    eigenvalues: list[Eigenvalue]
    components: Components


def run_all() -> Report:
    costs, differences = [], {}
    for name in MODELS:
        for number in (256, 1000):
            costs += measure(name, number)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                differences[name, number] = largest_difference(name, number)
            print(f"landscapes: {name}, {number} samples done", flush=True)
    errors = [accuracy(name) for name in MODELS]
    print("landscapes: accuracy done", flush=True)
    eigenvalues = [eigenvalue(name) for name in MODELS]
    print("landscapes: eigenvalues done", flush=True)
    return Report(costs, differences, errors, eigenvalues, components())
