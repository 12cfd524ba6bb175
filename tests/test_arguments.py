"""Wrong arguments of every public constructor and function: a sentence that says what was expected, or a valid result.

Each argument of a valid call is replaced by values of the wrong kind and of the wrong size. Allowed are a ``TypeError``
or ``ValueError`` with the word "expected" and a result. No call may hang or change the global random states.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import random
import signal
import threading
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

import hypothesis.extra.numpy as numpy_strategies
import numpy as np
import optuna
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_hp
from lightning_hp import functional as hpf

SECONDS_PER_CALL = 3
MEMORY_PER_TEST = 4 * 2**30


class Module(lightning_hp.ClassifierMixin, pl.LightningModule):
    """The mixin cannot be constructed without a module."""


class Anything:
    """A class that can be called with any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def anything(*args: Any, **kwargs: Any) -> None:
    """A function that can be called with any arguments."""


# Made once: what it is built from is checked under its own name.
BACKBONE = lightning_hp.Backbone(nn.Linear(4, 8), head=None, example_input=torch.zeros(2, 4))
LRS = np.geomspace(1e-6, 10, 99)
CURVE = {"lrs": LRS, "losses": 2.3 - 2 / (1 + 1e-3 / LRS) + (LRS / 0.3) ** 4}
SPEEDS = {16: 257, 32: 379, 64: 471, 128: 476}
COUNTS = {"class_counts": [20, 20, 10], "min_per_class": 2}


WEIGHT = nn.Parameter(torch.arange(6.0).reshape(2, 3))
BOWL = {"loss": lambda: (WEIGHT**2).sum(), "parameters": [WEIGHT]}
GRID = np.linspace(-1, 1, 7)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def surface_with_gaps() -> np.ndarray:
    surface = np.full((7, 7), np.nan)
    surface[::2, ::2] = 1.0
    return surface


#: For each public constructor and function the arguments of one valid call; those that are missing have a default.
# Names whose calls train or start a cluster: their arguments are tested in tests/sweeping.
ELSEWHERE = {lightning_hp.RayExecutor, lightning_hp.sweep}

VALID: dict[Callable[..., Any], Callable[[], dict[str, Any]]] = {
    lightning_hp.Backbone: lambda: {"model": network(), "example_input": torch.zeros(2, 4)},
    lightning_hp.BackboneFreezing: dict,
    lightning_hp.BatchSizeScaler: dict,
    lightning_hp.ClassBalancedBatchSampler: lambda: {
        "labels": [0, 1] * 8,
        "batch_size": 4,
        "num_replicas": 2,
        "rank": 0,
    },
    lightning_hp.Classifier: lambda: {"backbone": BACKBONE, "num_classes": 3, "head_options": {"n_hidden_units": 4}},
    lightning_hp.ClassifierHead: lambda: {"in_features": 4, "num_classes": 3, "n_hidden_units": 4},
    lightning_hp.ClassifierMixin: lambda: {"num_classes": 3},
    lightning_hp.GradientNoiseScale: dict,
    lightning_hp.HParamsLogger: dict,
    lightning_hp.LRFinder: dict,
    lightning_hp.LossLandscape: dict,
    lightning_hp.PruningCallback: lambda: {"trial": optuna.trial.FixedTrial({}), "monitor": "val_loss"},
    lightning_hp.SAM: dict,
    lightning_hp.compare_landscapes: lambda: {
        "models": {"a": network()},
        "data": [(torch.ones(4, 4), torch.zeros(4, dtype=torch.long))],
        "resolution": 3,
        "num_eigenvalues": 0,
        "radii": [0.1],
    },
    hpf.BatchLoss: lambda: {
        "model": network(),
        "batches": [(torch.ones(4, 4), torch.zeros(4, dtype=torch.long))],
        "loss_function": nn.functional.cross_entropy,
    },
    hpf.NoiseScaleEstimator: dict,
    hpf.Perturbation: lambda: {"parameters": list(network().parameters())},
    hpf.ascent_rise: lambda: {**BOWL, "radius": 0.1},
    hpf.batch_size_for_average: lambda: {**COUNTS},
    hpf.batch_size_for_coverage: lambda: {"coverage": 0.9, **COUNTS},
    hpf.batch_size_for_share: lambda: {"share": 0.9, **COUNTS},
    hpf.coarse_points: lambda: {"num_x": 7, "num_y": 9},
    hpf.compare_settings: lambda: {"scores": [[0.1, 0.2], [0.3, 0.5]]},
    hpf.choose_rate: lambda: {
        "losses": {0.01: [2.3, 2.0, 1.9], 0.1: [2.3, 1.8, 1.5], 1.0: [2.3, 2.2]},
        "num_steps": 3,
        "untrained": [2.3, 2.31, 2.29],
        "doublings": 1.0,
        "decays": True,
        "passes": 12.0,
        "lengthening": 2.0,
    },
    hpf.coverage_probability: lambda: {"batch_size": 16, **COUNTS},
    hpf.covered_share: lambda: {"batch_size": 16, **COUNTS},
    hpf.fill_surface: lambda: {"x": GRID, "y": GRID, "surface": surface_with_gaps()},
    hpf.gradient_and_noise: lambda: {
        "small_square": 9.0,
        "large_square": 3.0,
        "small_batch": 8,
        "large_batch": 32,
    },
    hpf.gradient_norm: lambda: {"gradients": [torch.ones(3), torch.ones(2, 2)]},
    hpf.hessian_eigenvalues: lambda: {**BOWL},
    hpf.hessian_product: lambda: {**BOWL, "vector": [torch.ones(2, 3)]},
    hpf.hessian_trace: lambda: {**BOWL, "num_samples": 2},
    hpf.loss_line: lambda: {**BOWL, "direction": [torch.ones(2, 3)], "coordinates": GRID},
    hpf.loss_path: lambda: {**BOWL, "end": [torch.ones(2, 3)], "coordinates": GRID},
    hpf.loss_surface: lambda: {
        **BOWL,
        "directions": [[torch.ones(2, 3)], [torch.eye(2, 3)]],
        "x": GRID,
        "y": GRID,
    },
    hpf.is_stuck: lambda: {"first_losses": [2.31, 2.33], "loss": 2.3, "num_classes": 10},
    hpf.lr_range: lambda: {"min_lr": 1e-4, "max_lr": 1.0, "num_training_steps": 5},
    hpf.minimum_lr: lambda: {**CURVE},
    hpf.next_rung: lambda: {"samples_per_second": SPEEDS, "max_val": 4096, "min_val": 8},
    hpf.norm_parameters: lambda: {"module": network()},
    hpf.pca_directions: lambda: {"checkpoints": [[torch.eye(2)], [torch.ones(2, 2)], [torch.zeros(2, 2)]]},
    hpf.perturbation_radius: lambda: {"step": 3, "rho": 0.4, "warmup": 0.5, "num_training_steps": 8},
    hpf.predict_batch_size: lambda: {"points": [(4, 580), (8, 899), (16, 1537)], "budget": 5495},
    hpf.predict_peak: lambda: {"points": [(16, 1537), (32, 2849)], "batch_size": 64},
    hpf.project_weights: lambda: {
        "checkpoints": [[torch.ones(2)]],
        "origin": [torch.zeros(2)],
        "directions": [[torch.tensor([1.0, 0.0])]],
    },
    hpf.random_directions: lambda: {"parameters": [torch.ones(2, 3), torch.ones(2)]},
    hpf.random_rise: lambda: {**BOWL, "radius": 0.1},
    hpf.scale_lr: lambda: {"base_lr": 0.1, "batch_size": 256, "base_batch_size": 32},
    hpf.scaling_advice: lambda: {
        "batch_size": 1024,
        "base_batch_size": 32,
        "rule": "linear",
        "num_training_steps": 100,
        "optimizer": "SGD",
        "has_warmup": True,
    },
    hpf.scaling_rule: lambda: {"optimizer": "SGD"},
    hpf.search_batch_size: lambda: {"fits": lambda batch_size: batch_size <= 20, "max_val": 64},
    hpf.slide_lr: lambda: {**CURVE},
    hpf.steep_lr: lambda: {**CURVE},
    hpf.steepest_lr: lambda: {**CURVE},
    hpf.suggest_lr: lambda: {**CURVE},
    hpf.throughput_is_flat: lambda: {"samples_per_second": SPEEDS},
    hpf.throughput_knee: lambda: {"samples_per_second": SPEEDS},
    hpf.valley_lr: lambda: {**CURVE},
    hpf.warmup_lr: lambda: {"step": 3, "base_lr": 0.1, "scaled_lr": 0.8, "num_warmup_steps": 10},
    hpf.warmup_steps: lambda: {
        "batch_size": 1024,
        "base_batch_size": 32,
        "rule": "linear",
        "num_training_steps": 1000,
        "steps_per_epoch": 50,
    },
}

# Their parameters are random numbers, so a call that succeeds advances the random state.
DRAWS_WEIGHTS = (lightning_hp.Classifier, lightning_hp.ClassifierHead)

#: Values by their description, each made anew for every call. Every argument gets all of them.
WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "'no'": lambda: "no",
    "'3'": lambda: "3",
    "''": lambda: "",
    "b'x'": lambda: b"x",
    "3.0": lambda: 3.0,
    "-1": lambda: -1,
    "0": lambda: 0,
    "-0.5": lambda: -0.5,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "1e-320": lambda: 1e-320,
    "10**400": lambda: 10**400,
    "-10**400": lambda: -(10**400),
    "2**63": lambda: 2**63,
    "Fraction(1, 3)": lambda: Fraction(1, 3),
    "1j": lambda: 1j,
    "[]": list,
    "{}": dict,
    "()": tuple,
    "[None]": lambda: [None],
    "['no']": lambda: ["no"],
    "[-1, nan]": lambda: [-1, math.nan],
    "[10**400]": lambda: [10**400],
    "[[1], [1, 2]]": lambda: [[1], [1, 2]],
    "[object()]": lambda: [object()],
    "{'no': object()}": lambda: {"no": object()},
    "{3: None}": lambda: {3: None},
    "object()": object,
    "a class": lambda: Anything,
    "a function": lambda: anything,
    "an empty iterator": lambda: iter(()),
    "an iterator": lambda: iter([1, 2]),
    "a generator": lambda: (x for x in "ab"),
    "np.int64(-1)": lambda: np.int64(-1),
    "np.float32(nan)": lambda: np.float32(math.nan),
    "np.bool_(True)": lambda: np.bool_(True),
    "np.str_('no')": lambda: np.str_("no"),
    "np.array(3)": lambda: np.array(3),
    "np.array([])": lambda: np.array([]),
    "np.array([1.0, nan])": lambda: np.array([1.0, math.nan]),
    "np.array(['a', 'b'])": lambda: np.array(["a", "b"]),
    "np.array([1, None])": lambda: np.array([1, None], dtype=object),
    "torch.tensor(3.0)": lambda: torch.tensor(3.0),
    "torch.tensor(True)": lambda: torch.tensor(True),
    "torch.empty(0)": lambda: torch.empty(0),
    "torch.ones(2)": lambda: torch.ones(2),
    "torch.ones(2, requires_grad=True)": lambda: torch.ones(2, requires_grad=True),
    "torch.ones(2, device='meta')": lambda: torch.ones(2, device="meta"),
    "torch.tensor([1j])": lambda: torch.tensor([1j]),
}

GENERATED = st.one_of(
    st.integers(-100, 100),
    st.floats(),
    st.text("ab3_- é", max_size=3),
    st.lists(st.one_of(st.integers(-3, 300), st.floats(), st.none(), st.booleans()), max_size=4),
    st.dictionaries(st.one_of(st.integers(-3, 300), st.sampled_from(["a", "lr"])), st.floats(), max_size=3),
    numpy_strategies.arrays(
        st.one_of(numpy_strategies.floating_dtypes(), numpy_strategies.integer_dtypes(), st.just(np.dtype(object))),
        numpy_strategies.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
    ),
)


def _name(subject: Any) -> str:
    return str(subject.__name__)


def _is_result(value: Any) -> bool:
    return inspect.ismodule(value) or (inspect.isclass(value) and dataclasses.is_dataclass(value))


def _is_exception(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _signature(subject: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(subject).parameters
    return {name: one for name, one in parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}


SUBJECTS = pytest.mark.parametrize("subject", VALID, ids=_name)


class TookTooLongError(BaseException):
    """Not an ``Exception``, so that no code between catches it."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _memory_limit() -> Iterator[None]:
    """A huge argument is to fail by itself, and not to take the memory of the machine."""
    try:
        import resource
        from pathlib import Path

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # no such limit here
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_PER_TEST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _random_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def find_fault(subject: Callable[..., Any], replaced: dict[str, Any]) -> str | None:
    """Calls with some arguments replaced, and says what is wrong with the outcome."""
    return outcome(subject, replaced)[0]


def outcome(subject: Callable[..., Any], replaced: dict[str, Any]) -> tuple[str | None, Exception | None]:
    """What is wrong with a call, and the exception that it raised."""
    target = Module if subject is lightning_hp.ClassifierMixin else subject
    arguments = {**VALID[subject](), **replaced}
    before = _random_states()
    refusal: Exception | None = None
    try:
        with _time_limit(SECONDS_PER_CALL), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)
            target(**arguments)
    except (TypeError, ValueError) as error:
        refusal = error
        if "expected" not in str(error).lower():
            return f"raises {_short(error)}", error
    except TookTooLongError:
        return f"takes more than {SECONDS_PER_CALL} s", None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any other exception is the fault that is looked for
        return f"raises {_short(error)}", None
    if _random_states() != before and (refusal is not None or subject not in DRAWS_WEIGHTS):
        return "changes a global random state", refusal
    return None, refusal


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:110]}"


def _report(faults: list[str]) -> str:
    return f"{len(faults)} wrong arguments get no sentence with 'expected':\n" + "\n".join(faults)


def test_every_public_name_is_in_the_table():
    public = {
        getattr(module, name)
        for module in (lightning_hp, hpf)
        for name in module.__all__
        if not _is_result(getattr(module, name)) and not _is_exception(getattr(module, name))
    }
    missing = sorted(map(_name, public - VALID.keys() - ELSEWHERE))
    assert not missing, f"Give `VALID` the arguments of a valid call of {', '.join(missing)}."
    assert VALID.keys() | ELSEWHERE == public


@SUBJECTS
def test_the_call_in_the_table_is_valid(subject):
    assert outcome(subject, {}) == (None, None)
    required = {name for name, one in _signature(subject).items() if one.default is one.empty}
    assert required <= VALID[subject]().keys() <= _signature(subject).keys()


@SUBJECTS
def test_each_wrong_value_of_each_argument(subject):
    faults = [
        f"  {_name(subject)}({argument}={description}) {fault}"
        for argument in _signature(subject)
        for description, make in WRONG.items()
        if (fault := find_fault(subject, {argument: make()}))
    ]
    assert not faults, _report(faults)


# The values are small, so a failing example is not made smaller, which takes many more calls.
GENERATE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def check_generated_values(subject, data):
    arguments = data.draw(
        st.lists(st.sampled_from(sorted(_signature(subject))), min_size=1, max_size=2, unique=True), "arguments"
    )
    replaced = {}
    for argument in arguments:
        description = data.draw(st.one_of(st.none(), st.sampled_from(sorted(WRONG))), argument)
        replaced[argument] = data.draw(GENERATED, argument) if description is None else WRONG[description]()
    fault = find_fault(subject, replaced)
    assert fault is None, f"{_name(subject)}({', '.join(f'{k}={v!r}' for k, v in replaced.items())}) {fault}"


@SUBJECTS
@given(data=st.data())
@GENERATE
def test_generated_values_of_one_or_two_arguments(subject, data):
    check_generated_values(subject, data)


@pytest.mark.exhaustive
@SUBJECTS
@given(data=st.data())
@settings(GENERATE, max_examples=60)
def test_more_generated_values_of_one_or_two_arguments(subject, data):
    check_generated_values(subject, data)


# --------------------------------------------- arguments whose annotation is made of numbers, texts and None alone


def scalar_kinds(subject: Callable[..., Any], argument: str) -> set[type] | None:
    """What the annotation of an argument allows, out of int, float, bool, str and NoneType; ``None`` if more."""
    function = subject.__init__ if inspect.isclass(subject) else subject
    names = {**vars(typing), **inspect.unwrap(function).__globals__}
    # Some names are imported for type checking only; they are none of the scalars.
    try:
        annotation = eval(_signature(subject)[argument].annotation, names)
    except NameError:
        return None
    kinds = set(_kinds(annotation))
    return kinds if kinds <= {int, float, bool, str, type(None)} else None


def _kinds(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) in (typing.Union, types.UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield type(None) if annotation is None else annotation


#: Wrong values whose kind no conversion makes right, and the annotations that allow them.
ALLOWED_BY: dict[str, set[type]] = {
    "None": {type(None)},
    "True": {bool},
    "'no'": {str},
    "'3'": {str},
    "3.0": {float},
    "1.5": {float},
    **{text: {int, float} for text in ("-1", "0", "2**63", "np.int64(-1)")},
    **{text: set() for text in ("b'x'", "1j", "[]", "{}", "()", "[None]", "{3: None}", "object()", "a class")},
    **{text: set() for text in ("a function", "an iterator", "np.array([])", "torch.empty(0)", "torch.ones(2)")},
}


@SUBJECTS
def test_a_wrong_type_is_a_type_error(subject):
    faults = []
    for argument in _signature(subject):
        kinds = scalar_kinds(subject, argument)
        if kinds is None:
            continue
        for description, allowed in ALLOWED_BY.items():
            if allowed & kinds:
                continue
            refusal = outcome(subject, {argument: WRONG[description]()})[1]
            if not isinstance(refusal, TypeError):
                got = "is accepted" if refusal is None else f"raises {_short(refusal)}"
                faults.append(f"  {_name(subject)}({argument}={description}) {got}")
    assert not faults, f"{len(faults)} wrong kinds raise no TypeError:\n" + "\n".join(faults)


# ----------------------------------------------------------------------------------------- the checker itself


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda x: (_ for _ in ()).throw(ValueError("Expected `x` to be 1.")), None),
        (lambda x: x, None),
        (lambda x: int("no"), "raises ValueError: invalid literal"),
        (lambda x: {}["no"], "raises KeyError"),
        (lambda x: exit(3), "raises SystemExit"),
        (lambda x: np.float64(1) / np.float64(0), "raises RuntimeWarning"),
        (lambda x: torch.rand(1), "changes a global random state"),
        (lambda x: random.random(), "changes a global random state"),
        (lambda x: bytearray(2**62), "raises MemoryError"),
    ],
)
def test_checker_tells_faults_from_sentences(monkeypatch, function, fault):
    monkeypatch.setitem(VALID, function, lambda: {"x": 1})
    found = find_fault(function, {"x": 2})
    assert found is None if fault is None else found.startswith(fault)


def test_checker_ends_a_call_that_hangs(monkeypatch):
    def hang(x: int) -> None:
        while True:
            pass

    monkeypatch.setitem(VALID, hang, lambda: {"x": 1})
    monkeypatch.setattr("tests.test_arguments.SECONDS_PER_CALL", 0.05)
    assert find_fault(hang, {}) == "takes more than 0.05 s"


def test_kinds_are_read_from_annotations():
    assert scalar_kinds(lightning_hp.LRFinder, "num_training_steps") == {int, type(None)}
    assert scalar_kinds(lightning_hp.LRFinder, "mode") == {str}
    assert scalar_kinds(lightning_hp.LRFinder, "milestones") is None
    assert scalar_kinds(hpf.suggest_lr, "bandwidth") == {float}
