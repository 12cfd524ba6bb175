"""Trainings elsewhere: worker processes, dask, submitit, Ray, forked ranks. Each with the real engine."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch

from lightning_hp import RayExecutor, SweepResult, sweep
from lightning_hp.sweeping import executors
from tests.sweeping.common import TRAINER, Scored, loaders

OPTIONS: dict[str, Any] = {"monitor": "val_score", "mode": "max", "trainer": TRAINER, "logdir": None}
HERE = os.getpid()
PATIENCE = 240.0  # seconds until a test gives up on a busy machine


def until(condition: Any) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE
        time.sleep(0.05)


def noisy(settings: dict[str, Any]) -> Any:
    """A score that depends on the seed; the training with a = 1 fails."""
    if settings["a"] == 1:
        raise UnpicklableError("no such", "layer")
    return Scored(settings["a"] + 0.5 * torch.rand(()).item()), loaders()


class UnpicklableError(Exception):
    def __init__(self, what: str, which: str) -> None:
        super().__init__(f"{what} {which}")
        self.lock = threading.Lock()


def rows(result: SweepResult) -> list[Any]:
    return sorted((trial.settings["a"], trial.seed, trial.status, trial.score, trial.reason) for trial in result.trials)


def in_process(space: dict[str, list[Any]], **options: Any) -> SweepResult:
    return sweep(noisy, space, start={"a": 0}, **{**OPTIONS, **options})


def test_workers_train_as_this_process_does_and_one_that_is_killed_loses_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(executors, "visible_devices", lambda: ["3", "GPU-f00"])
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")

    def build(settings: dict[str, Any]) -> Any:  # a closure
        if os.getpid() != HERE:
            told = f"{os.getpid()} {' '.join(os.environ[name] for name in names)} {torch.get_num_threads()}\n"
            with (tmp_path / "workers").open("a") as file:
                file.write(told)
        if settings["a"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(settings)

    # Round `b` begins with two free workers, of which one was replaced.
    result = sweep(
        lambda settings: build({"a": settings["a"], "b": settings["b"]}),
        {"a": [0, 1, 2, 4], "b": [10, 20, 30]},
        start={"a": 0},
        workers=2,
        pruner=optuna.pruners.ThresholdPruner(upper=4),
        storage=tmp_path / "sweep.journal",
        **OPTIONS,
    )

    assert result.best["a"] == 0
    outcomes = {tuple(trial.settings.values()): trial for trial in result.trials}
    assert outcomes[1, 10].reason == "UnpicklableError: no such layer"
    assert "its process ended with SIGKILL" in outcomes[2, 10].reason
    assert outcomes[4, 10].status == "pruned"
    reference = in_process({"a": [0]}).trials[0].score
    assert [outcomes[0, b].score for b in (10, 20, 30)] == [reference] * 3
    workers = {tuple(line.split()) for line in (tmp_path / "workers").read_text().splitlines()}
    assert sorted(device for _, device, *_ in workers) in (["3", "3", "GPU-f00"], ["3", "GPU-f00", "GPU-f00"])
    assert {(variable, used) for _, _, variable, used in workers} == {("1", "1")}
    assert not any(psutil.pid_exists(int(worker)) for worker, *_ in workers)


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from lightning_hp import sweep
from tests.sweeping.common import Scored, TRAINER, loaders

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
here = Path(sys.argv[1])
main = os.getpid()

def build(settings):  # of `__main__`, which workers do not run again
    if os.getpid() != main:
        (here / f"worker_{os.getpid()}").touch()
        time.sleep(1000)
    return Scored(settings["a"]), loaders()

sweep(build, {"a": [1, 2, 3]}, monitor="val_score", mode="max", trainer=TRAINER, workers=2, logdir=None,
      storage=here / "sweep.journal")
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.exhaustive)])
def test_no_process_outlives_an_interrupted_sweep(ending: signal.Signals, tmp_path: Path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    call = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path], env=environment)
    until(lambda: call.poll() is not None or len(list(tmp_path.glob("worker_*"))) == 2)
    assert call.poll() is None
    children = psutil.Process(call.pid).children(recursive=True)
    assert len(children) >= 2

    call.send_signal(ending)

    assert call.wait(PATIENCE) != 0
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    if ending is signal.SIGINT:
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "sweep.journal"))
        study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
        assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]


class Pending:
    """A future that is done when it is asked for the second time."""

    def __init__(self, value: int) -> None:
        self._value, self.asked, self.is_cancelled = value, 0, False

    def done(self) -> bool:
        self.asked += 1
        return self.asked > 1

    def result(self) -> int:
        return self._value

    def cancel(self) -> None:
        self.is_cancelled = True


class Engine:
    def __init__(self) -> None:
        self.futures: list[Pending] = []

    def submit(self, function: Any, /, *args: Any) -> Pending:
        self.futures.append(Pending(function(*args)))
        return self.futures[-1]


def test_each_result_is_given_once_and_no_more_calls_than_allowed_are_open():
    asked = []

    def arguments() -> Any:
        for number in range(7):
            asked.append(number)
            yield number

    given = []
    for pair in executors.run_all(Engine(), lambda number: 2 * number, arguments(), 3):
        given.append(pair)
        assert len(asked) - len(given) < 3 + 1

    assert sorted(given) == [(number, 2 * number) for number in range(7)]


def test_an_error_cancels_what_is_waiting():
    engine = Engine()
    calls = executors.run_all(engine, lambda number: number, iter(range(4)), 2)
    assert [next(calls)[0] for _ in range(3)] == [0, 1, 2]

    calls.close()

    assert [future.asked > 1 or future.is_cancelled for future in engine.futures] == [True] * 4


def test_threads_are_refused():
    with (
        concurrent.futures.ThreadPoolExecutor(2) as pool,
        pytest.raises(ValueError, match=r"executor` of processes.*Use `workers`"),
    ):
        in_process({"a": [0]}, executor=pool)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_dask(num_workers: int):
    distributed = pytest.importorskip("distributed")
    space = {"a": [0, 1, 2, 3]}
    # Two threads in each worker: they train one after the other, since they share the random generators.
    cluster = distributed.LocalCluster(n_workers=num_workers, threads_per_worker=2, dashboard_address=None)
    with cluster, cluster.get_client() as client:
        result = in_process(space, executor=client.get_executor(), seeds=2)

    reference = in_process(space, seeds=2)
    assert rows(result) == rows(reference)
    assert result.best == reference.best == {"a": 3}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("values", [[0], pytest.param([0, 2], marks=pytest.mark.exhaustive)])
def test_submitit(values: list[int], tmp_path: Path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(tmp_path, cluster="local")
    executor.update_parameters(timeout_min=10)

    def build(settings: dict[str, Any]) -> Any:
        if settings["a"] == 2 and os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(settings)

    result = sweep(build, {"a": values}, start={"a": 0}, executor=executor, **OPTIONS)

    assert result.trials[0].score == in_process({"a": [0]}).trials[0].score
    for killed in result.trials[1:]:
        assert killed.status == "failed"
        assert killed.reason.startswith("UncompletedJobError: ")


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_ray_runs_a_training_again_whose_node_is_lost(tmp_path: Path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    def build(settings: dict[str, Any]) -> Any:
        if os.getpid() != HERE:
            (tmp_path / ray.get_runtime_context().get_node_id()).touch()
            until((tmp_path / "go").exists)
        return noisy(settings)

    def lose_a_node() -> None:
        """When both nodes train."""
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        cluster.remove_node(lost, allow_graceful=False)
        (tmp_path / "go").touch()

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        lost = cluster.add_node(**size)
        ray.init(address=cluster.address, log_to_driver=False)
        helper = threading.Thread(target=lose_a_node)
        helper.start()
        result = sweep(build, {"a": [0, 1, 2, 3]}, start={"a": 0}, executor=RayExecutor({"max_retries": 2}), **OPTIONS)
        helper.join()
    finally:
        ray.shutdown()
        cluster.shutdown()

    assert rows(result) == rows(in_process({"a": [0, 1, 2, 3]}))


class Constant(Scored):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_score", self.score, sync_dist=True)


def test_forked_ranks_are_scored_and_pruned_as_one_process(tmp_path: Path):
    found = []
    for name, ranks in (("one", {}), ("forked", {"strategy": "ddp_fork", "devices": 2})):
        result = sweep(
            lambda settings: (Constant(settings["a"]), loaders()),
            {"a": [4, 3, 2]},
            **{**OPTIONS, "trainer": {**TRAINER, "max_epochs": 3, **ranks}},
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
            storage=tmp_path / f"{name}.journal",
            cost="latency",
        )
        assert all(trial.latency_ms > 0 for trial in result.trials)
        found.append(
            [
                (trial.status, trial.score, frozen.intermediate_values)
                for trial, frozen in zip(result.trials, result.study.trials, strict=True)
            ]
        )

    assert found[0] == found[1]
    assert found[0] == [("complete", 4, {0: 4, 1: 4, 2: 4}), ("pruned", 3, {0: 3}), ("pruned", 2, {0: 2})]


def test_an_error_of_a_forked_rank_is_the_reason(tmp_path: Path):
    ranks = {**TRAINER, "strategy": "ddp_fork", "devices": 2}

    class Failing(Constant):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("no such layer")

    with pytest.raises(Exception, match="the first one: RuntimeError: no such layer"):
        sweep(lambda s: (Failing(s["a"]), loaders()), {"a": [1]}, **{**OPTIONS, "trainer": ranks})


def test_a_pruner_needs_a_storage_that_all_processes_see():
    pruner = optuna.pruners.MedianPruner()
    for options in (
        {"workers": 2},
        {"workers": 2, "storage": optuna.storages.InMemoryStorage()},
        {"trainer": {**TRAINER, "strategy": "ddp_fork", "devices": 2}},
    ):
        with pytest.raises(ValueError, match="`storage` on disk with a `pruner` and several processes"):
            in_process({"a": [0]}, pruner=pruner, **options)


@pytest.mark.parametrize("name", ["build", "trainer"])
def test_what_cannot_be_sent_to_workers_is_named(name: str):
    lock = threading.Lock()

    def holds(settings: dict[str, Any]) -> Any:
        assert lock is not None
        return noisy(settings)

    callback = Holding(lock)
    options = {"trainer": {**TRAINER, "callbacks": [callback]}} if name == "trainer" else {}
    with pytest.raises(TypeError, match=f"Expected a `{name}` that can be sent to worker processes"):
        sweep(holds if name == "build" else noisy, {"a": [0]}, workers=2, **{**OPTIONS, **options})


class Holding:
    def __init__(self, lock: Any) -> None:
        self._lock = lock


@pytest.mark.parametrize(
    ("module", "extra", "options"),
    [
        ("optuna", "sweep", {}),
        ("loky", "workers", {"workers": 2}),
        ("cloudpickle", "workers", {"workers": 2}),
    ],
)
def test_a_missing_library_is_named_before_any_training(
    module: str, extra: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    asked = []
    expected = rf"Expected `{module}`, but it is not installed. Run: pip install 'lightning-hp\[{extra}\]'"
    with pytest.raises(ModuleNotFoundError, match=expected):
        sweep(asked.append, {"a": [0]}, **OPTIONS, **options)
    assert not asked


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"Run: pip install 'lightning-hp\[ray\]'"):
        RayExecutor()


def test_more_devices_than_a_worker_sees_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["lightning_hp.sweeping.refusals"], "visible_devices", lambda: ["0", "1", "2"])
    options = {**OPTIONS, "trainer": {**TRAINER, "devices": 2}}
    with pytest.raises(ValueError, match=r"sees one of the 3 accelerators, but got devices=2\. Use `workers=1`"):
        sweep(noisy, {"a": [0]}, workers=2, **options)
