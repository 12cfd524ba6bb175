"""`lightning-hp` from end to end: a real sweep over a LightningCLI config, and a stand-in for all that may go wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import pytorch_lightning as pl
import yaml

from lightning_hp import SweepResult, SweepTrial, cli, sweep
from lightning_hp.cli.fit import package_for
from lightning_hp.cli.lightning_cli import Parsed, command_of, longer_key
from lightning_hp.sweeping.outcome_writer import OutcomeWriter
from lightning_hp.sweeping.process import arguments_of, error_in
from lightning_hp.sweeping.stored import load_result
from tests.sweeping.common import SPACE, TRAINER, Scored, build, loaders

ROOT = Path(__file__).resolve().parents[1]

PARTS = """
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.cli import LightningCLI
    from torch.utils.data import DataLoader, TensorDataset


    class Net(pl.LightningModule):
        def __init__(self, lr: float = 0.5, hidden: list[int] = [2]):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).pow(2).mean()

        def validation_step(self, batch, batch_idx):
            self.log("val_score", 1 - self.hparams.lr, sync_dist=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


    class Data(pl.LightningDataModule):
        def __init__(self, batch_size: int = 4):
            super().__init__()
            self.batch_size = batch_size

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.ones(8, 2)), self.batch_size)

        val_dataloader = train_dataloader


    def main():
        LightningCLI(Net, Data)
    """

BASE = """
    model:
      class_path: tiny.parts.Net
    data:
      class_path: tiny.parts.Data
    trainer:
      max_epochs: 1
      accelerator: cpu
      callbacks:
        class_path: LearningRateMonitor
    """

SWEEP = """
    monitor: val_score
    mode: max
    seeds: [7]
    space:
      trainer.strategy, trainer.devices, model.init_args.lr: [[auto, 1, 1e-1], [ddp, 2, 2e-1]]
    logdir: runs
    """

# Behaves as a LightningCLI without importing it: parses, prints its config, "trains" and writes an outcome.
STAND_IN = """
    import json, os, signal, sys, time

    values = {"lr": 0.1, "mode": "fine"}
    callback = None
    trainer = {"max_epochs": 5, "logger": False}
    for argument in sys.argv[2:]:
        name, _, value = argument.removeprefix("--").partition("=")
        if name == "model.lr":
            values["lr"] = float(value)
        elif name == "model.mode":
            values["mode"] = value
        elif name == "trainer.callbacks+":
            given = json.loads(value)["init_args"]
            callback = given if "path" in given else callback
        elif name.startswith("trainer."):
            trainer[name.removeprefix("trainer.")] = json.loads(value) if value[:1] in "[{0123456789tfn" else value
        elif name not in ("config", "seed_everything", "print_config"):
            sys.exit("usage: x\\nx: error: Parser key \\"" + name + "\\":\\n  No such key\\n  Given value: " + value)
    print("a script may print")
    if "--print_config" in sys.argv:
        print("trainer: " + json.dumps(trainer) + "\\nmodel: " + json.dumps(values))
        sys.exit()
    if values["mode"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if values["mode"] == "bug":
        raise ZeroDivisionError("by zero")
    if values["mode"] == "slow":
        time.sleep(60)
    if values["mode"] != "idle":
        logged = {"nan": [float("nan")], "nothing": []}.get(values["mode"], [values["lr"], values["lr"] / 2])
        outcome = {"values": logged, "logged": ["other"], "seconds": trainer["max_epochs"], "parameters": 3,
                   "latency_ms": None, "used": {}}
        open(callback["path"], "w").write(json.dumps(outcome))
    print("threads", os.environ.get("OMP_NUM_THREADS"))
    """


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(list(arguments))
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


# ---------------------------------------------------------------------------------------------- with real trainings


@pytest.fixture(scope="module")
def swept(tmp_path_factory: Any) -> Any:
    """A sweep of two trainings, one of them on two processes."""
    folder = tmp_path_factory.mktemp("swept")
    write(folder, {"tiny/__init__.py": "", "tiny/parts.py": PARTS, "base.yaml": BASE, "sweep.yaml": SWEEP})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
        yield folder, call("sweep", "--config", "base.yaml", "--sweep", "sweep.yaml")


@pytest.fixture
def in_swept(swept: Any, monkeypatch: Any) -> Path:
    monkeypatch.chdir(swept[0])
    return Path(swept[0])


@pytest.mark.slow
def test_each_training_is_a_process_with_its_own_line_and_folder(swept: Any, in_swept: Path):
    code, out, err = swept[1]

    assert code == 0, err
    assert err == ""
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert len(lines) == 2
    assert lines[0].startswith(
        "[1 of 2] trainer.strategy=auto, trainer.devices=1, model.init_args.lr=0.1, seed 7: 0.9, "
    )
    assert "best 0.9 with trainer.strategy=auto" in lines[1]
    assert "2 trainings; val_score, higher is better" in out

    alone, pair = sorted(path for path in (in_swept / "runs").iterdir() if path.name.startswith("trial"))
    assert "All distributed processes registered. Starting with 2 processes" in (pair / "output.txt").read_text()
    assert "2 processes" not in (alone / "output.txt").read_text()
    config = yaml.safe_load((pair / "config.yaml").read_text())
    assert config["seed_everything"] == 7
    assert config["model"]["init_args"]["lr"] == 0.2
    assert list(pair.glob("events.out.tfevents.*"))
    assert not list((in_swept / "runs").rglob("*.ckpt"))


@pytest.mark.slow
def test_the_report_needs_the_storage_only(swept: Any, in_swept: Path):
    code, out, _ = call("report", "runs")
    assert code == 0
    assert "best, recommended: trainer.strategy=auto, trainer.devices=1, model.init_args.lr=0.1: 0.9" in out
    assert [len(line.split("  ")) > 3 for line in out.splitlines()].count(True) >= 3

    for which in ("best", "recommended"):
        code, printed, _ = call("report", "runs/sweep.db", "--print", which)
        expected = {"trainer": {"strategy": "auto", "devices": 1}, "model": {"init_args": {"lr": 0.1}}}
        assert yaml.safe_load(printed) == expected
    assert (in_swept / "runs" / "summary" / "recommended.yaml").read_text() == printed


@pytest.mark.slow
def test_a_second_call_with_the_found_config_trains_nothing(swept: Any, in_swept: Path):
    _, found, _ = call("report", "runs", "--print", "best")
    (in_swept / "found.yaml").write_text(found)

    code, out, err = call("sweep", "--config", "base.yaml", "--config", "found.yaml", "--sweep", "sweep.yaml")

    assert code == 0, err
    assert "[1 of" not in out
    line, _, rest = out.partition("\n")
    assert line.startswith("2 trainings of this sweep are in ")
    assert line.endswith("sweep.db; only what is missing is trained.")
    assert rest == swept[1][1][swept[1][1].index("Sweep over") :]


@pytest.mark.slow
def test_an_unknown_key_is_refused_by_the_users_own_cli(swept: Any, in_swept: Path):
    wrong = SWEEP.replace("init_args.lr", "rate") + "cli: tiny.parts:main\n"
    write(in_swept, {"other.yaml": "trainer: {max_epochs: 1}", "wrong.yaml": wrong})

    code, out, err = call("sweep", "--config", "other.yaml", "--sweep", "wrong.yaml")

    assert (code, out) == (2, "")
    assert "Expected values that the LightningCLI accepts, but it says: " in err
    assert "model.rate" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_another_config_is_refused_with_the_entry_that_differs(swept: Any, in_swept: Path, monkeypatch: Any):
    write(in_swept, {"two.yaml": BASE.replace("max_epochs: 1", "max_epochs: 2")})
    monkeypatch.setattr("lightning_hp.cli.sweep.parse", lambda command, *_, **__: Parsed(command, {}, {}))

    code, out, err = call("sweep", "--config", "two.yaml", "--sweep", "sweep.yaml")

    assert (code, out) == (2, "")
    assert "but the config is another: `trainer.max_epochs` is 1 there and 2 here" in err


# ------------------------------------------------------------------------------------------------- with a stand-in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with a stand-in for a LightningCLI."""
    write(tmp_path, {"train.py": STAND_IN, "base.yaml": "trainer: {max_epochs: 5}"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str, config: str = "base.yaml", **entries: Any) -> tuple[int, str, str]:
    given = {"monitor": "val", "mode": "max", "cli": "python train.py fit", "logdir": "runs", **entries}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    return call("sweep", "--config", config, "--sweep", "sweep.yaml", *arguments)


def test_processes_that_fail_are_failed_trainings(folder: Path):
    modes = ["fine", "killed", "bug", "idle", "nan"]
    code, out, err = run(folder, space={"model.mode": modes}, workers=2)

    assert (code, err) == (0, "")
    trials = {trial.settings["model.mode"]: trial for trial in load_result("runs/sweep.db").trials}
    assert trials["fine"].score == 0.05
    assert {mode: trial.reason for mode, trial in trials.items()} == {
        "fine": None,
        "killed": "the process was ended by SIGKILL",
        "bug": "ZeroDivisionError: by zero",
        "idle": "the command ended without a training",
        "nan": "val was nan",
    }
    assert "model.mode=bug, seed 0, failed: ZeroDivisionError: by zero" in out
    assert "failed: model.mode=killed, seed 0: the process was ended by SIGKILL" in call("report", "runs")[1]
    assert "ZeroDivisionError" in (next(Path("runs").glob("*bug*")) / "output.txt").read_text()

    again = run(folder, space={"model.mode": ["fine", "bug"]}, on_error="raise")
    assert again[0] == 1
    assert "model.mode=bug, seed 0, failed: ZeroDivisionError: by zero" in again[2]


def test_values_of_any_kind_are_stored_and_printed(folder: Path):
    space = {"model.lr, trainer.x": [[1e-5, [1, 2]], [0.5, {"a": 1}]], "model.mode": ["fine", "other"]}
    code, _, err = run(
        folder, "--trainer.y=3", space=space, strategy="grid", reduce="best", logdir=None, storage="s.db"
    )

    assert (code, err) == (0, "")
    best = {"model": {"lr": 0.5, "mode": "fine"}, "trainer": {"x": {"a": 1}}}
    assert yaml.safe_load(call("report", "s.db", "--print", "best")[1]) == best
    result = load_result("s.db")
    assert result.subjects[0] == (("model.lr", "trainer.x"), ((1e-5, [1, 2]), (0.5, {"a": 1})))
    assert result.best_score == 0.5
    code, _, err = run(folder, space=space, strategy="grid", reduce="best", logdir=None, storage="s.db")
    assert code == 2
    assert "`arguments` is ['--trainer.y=3'] there and None here" in err


def test_options_of_a_sweep(folder: Path):
    space = {"model.lr": [0.1, 0.2, 0.4], "model.mode": ["fine", "good"]}
    code, out, err = run(folder, space=space, order="measured", seeds=2, cost="time", refine=2)
    assert (code, err) == (0, "")
    assert out.count("seed 0, short: ") == 4
    assert out.count(", 1.0 s") == 4  # a fifth of the epochs
    result = load_result("runs/sweep.db", "sweep")
    assert result.order == ("model.lr", "model.mode")
    assert result.cost == "time"
    assert len({trial.seed for trial in result.trials}) == 2
    assert any(trial.stage == "refine" for trial in result.trials)

    code, out, err = run(folder, space=space, strategy="RandomSampler", n_trials=3, name="random", logdir=None)
    assert (code, err) == (0, "")
    assert "Sweep over " in out
    assert run(folder, space={**space, "trainer.max_epochs": [1, 2]}, start={"trainer.max_epochs": 1}, seeds=2)[0] == 0


def test_a_metric_that_is_not_logged_ends_the_sweep(folder: Path):
    code, _, err = run(folder, space={"model.mode": ["nothing", "fine"]})
    assert code == 1
    assert err == "lightning-hp sweep: Expected the training to log `val`, but it logs other.\n"


def test_an_interrupt_ends_the_trainings_that_run(folder: Path, monkeypatch: Any):
    from lightning_hp.sweeping import executors

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(executors.time, "sleep", interrupted)
    started = time.monotonic()
    code, _, err = run(folder, space={"model.mode": ["slow", "fine"]}, workers=2)
    assert code == 130
    assert "the same command continues" in err
    assert time.monotonic() - started < 30


LIST = {"space": {"model.lr": [1]}}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({}, "Expected an entry `space` in sweep.yaml."),
        ({"space": {"model.lr": []}}, "a list of one or more values"),
        ({"space": {"model.lr": [1, 1]}}, "values that differ"),
        ({"space": {"a, b": [1, 2]}}, "values of 2 entries, one per name"),
        ({"space": [1]}, "a dict of subjects and their values"),
        ({"space": {"model.lr": 3}}, "a list of values"),
        ({"space": {"seed_everything": [1]}}, "the sweep sets it itself"),
        ({**LIST, "sedes": 3}, "got 'sedes'"),
        ({**LIST, "seeds": 0}, "an int >= 1"),
        ({**LIST, "mode": "up"}, "'max', 'min'"),
        ({**LIST, "strategy": "random"}, "'one_at_a_time', 'grid'"),
        ({**LIST, "strategy": "TPESampler"}, "`n_trials` with a sampler"),
        ({**LIST, "strategy": "GridSampler", "n_trials": 2}, "a sampler that needs no arguments"),
        ({**LIST, "start": {"b": 1}}, "names of `space`"),
        ({**LIST, "workers": "two"}, "an int >= 1"),
        ({**LIST, "storage": "/proc/nowhere/x.db"}, "that can be written"),
        ({**LIST, "logdir": 3}, "a path, or None"),
        ({**LIST, "cli": 3}, "as in `python train.py fit`"),
        ({**LIST, "cli": "no-such-command fit"}, "a command that can be run"),
        ({**LIST, "cli": "python -c 1"}, "prints no config"),
        ({"space": {"data.size": [1]}}, 'says: Parser key "data.size": No such key\n'),
        ({"space": {"model.lr": ["fast"]}}, "could not convert string to float"),
        ({"space": {"trainer.max_epochs": [1, 2]}, "order": "measured"}, "`order: given`"),
    ],
)
def test_wrong_entries_get_one_sentence(folder: Path, entries: dict[str, Any], sentence: str):
    code, out, err = run(folder, **entries)

    assert code == 2
    assert out == ""
    assert sentence in err
    assert err.startswith("lightning-hp sweep: ")
    assert err.count("\n") == 1
    assert not list(folder.glob("runs/trial*"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Expected a mapping of names and values in base.yaml, got nothing."),
        ("- 1\n", "Expected a mapping of names and values in base.yaml, got [1]."),
        ("a: [\n", "Expected YAML in base.yaml: "),
        (None, "Expected base.yaml to be a file that can be read: No such file or directory."),
    ],
)
def test_wrong_files_get_one_sentence(folder: Path, text: str | None, sentence: str):
    Path("base.yaml").unlink()
    if text is not None:
        Path("base.yaml").write_text(text)

    code, _, err = run(folder, **LIST)

    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1


def test_a_short_key_gets_a_hint():
    assert longer_key({"model": {"class_path": "a.B", "init_args": {"lr": 1}}}, "model.lr") == "model.init_args.lr"
    assert longer_key({"model": {"rate": 1}}, "model.lr") is None


def test_report_refuses_what_is_no_sweep(tmp_path: Path):
    storage = tmp_path / "sweep.db"
    for name in ("one", "two"):
        sweep(
            build,
            {"a": [1], "b": SPACE["b"]},
            monitor="val_score",
            mode="max",
            trainer=TRAINER,
            storage=storage,
            logdir=None,
            name=name,
        )
    assert "a: 1" in call("report", str(tmp_path), "--name", "two", "--print", "best")[1]
    optuna.create_study(storage=f"sqlite:///{tmp_path}/other.db", study_name="mine")
    (tmp_path / "empty").mkdir()
    for arguments, sentence in {
        (str(tmp_path),): "the name of one of the sweeps in",
        (str(tmp_path), "--name", "three"): "a sweep of the name 'three'",
        (str(tmp_path / "other.db"),): "Expected a sweep in",
        (str(tmp_path / "empty"),): "a folder with sweep.db or sweep.journal",
        (str(tmp_path / "nothing"),): "the storage of a sweep, or its folder",
        (str(tmp_path), "extra"): "no further arguments, got extra",
    }.items():
        code, out, err = call("report", *arguments)
        assert (code, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1
    assert call("report", str(tmp_path), "--print", "worst")[0] == 2
    assert call("frobnicate")[0] == 2


PARSER_ERROR = """usage: x
error: Parser key "model":
  Does not validate against any
    - Problem with 'a.B':
        Option 'lrr' is not accepted
    - Expected a <class 'NoneType'>
  Given value: 3
"""


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", ""),
        ("a\nValueError: no\n", "ValueError: no"),
        (
            PARSER_ERROR,
            "Parser key \"model\": Problem with 'a.B': Option 'lrr' is not accepted",
        ),
    ],
)
def test_the_error_in_an_output_is_one_line(output: str, error: str):
    assert error_in(output) == error


def test_a_key_comes_before_those_within_it():
    names = {"model.name": "null", "model.size": None}
    settings = {"optimizer.init_args.lr": 0.5, "optimizer": {"class_path": "SGD"}, **names}
    assert arguments_of(settings) == [
        '--optimizer={"class_path": "SGD"}',
        "--model.name=null",
        "--model.size=null",
        "--optimizer.init_args.lr=0.5",
    ]
    trial = SweepTrial(0, settings, 0, "grid", "complete", 1.0)
    subjects = tuple(((name,), ((value,),)) for name, value in settings.items())
    text = SweepResult((trial,), subjects, (0,), "val", "max").to_yaml()
    assert yaml.safe_load(text) == {
        "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.5}},
        "model": {"name": "null", "size": None},
    }
    assert settings["optimizer"] == {"class_path": "SGD"}


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_package_of_the_model(tmp_path: Path, package: str):
    path = tmp_path / "base.yaml"
    path.write_text(f"model: {{class_path: {package}.demos.boring_classes.BoringModel}}")
    assert package_for(["fit", "--config", str(path), "--trainer.max_epochs=1"]) == package


def test_a_training_whose_sweep_is_gone_ends(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "outcome.json"
    writer = OutcomeWriter("val_score", str(path), sweep_process=gone.pid)
    trainer = pl.Trainer(
        **TRAINER,
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    with pytest.raises(RuntimeError, match="The sweep that started this training has ended"):
        trainer.fit(Scored(1.0), *loaders())
    assert "has ended" in json.loads(path.read_text())["reason"]


def test_the_outcome_of_a_training(tmp_path: Path):
    path = tmp_path / "outcome.json"
    writer = OutcomeWriter("val_score", str(path), latency=True)
    trainer = pl.Trainer(
        **TRAINER,
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scored(1.5), *loaders())

    outcome = json.loads(path.read_text())
    assert set(outcome["values"]) == {1.5}
    assert outcome["logged"] == ["draw", "val_score"]
    assert outcome["parameters"] == 6
    assert outcome["latency_ms"] > 0


def test_the_interpreter_of_a_command():
    command, code = command_of("python train.py fit")
    assert command.command == (sys.executable, "train.py", "fit")
    assert code == ["python train.py fit"]
    assert len(command_of("python -m lightning_hp.cli fit")[1]) == 2
