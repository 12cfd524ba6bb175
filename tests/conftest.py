"""What every test and doctest shares: its own empty working directory, the same seeds, and a look at what it left."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

# Before torch and matplotlib are imported: no screen, and two cores are enough for the suite and its processes.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before CUDA is initialized: cuBLAS is deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch

from tests.devices import figures_of, has_tests_for_accelerators, table_of

torch.set_num_threads(1)


def _open_figures() -> list[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return pyplot.get_fignums() if pyplot is not None else []


class Isolation:
    """What acts on the doctests of the package too, which a conftest of ``tests/`` alone does not reach."""

    @pytest.fixture(autouse=True)
    def same_start(self):
        """The same random streams and the same environment variables for each test, whatever ran before it."""
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        before = dict(os.environ)
        yield
        # Lightning writes seeds, ranks and ports there; the next test must not read them.
        for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
            del os.environ[name]
        os.environ.update(before)

    @pytest.fixture(autouse=True)
    def nothing_left(self, tmp_path_factory, monkeypatch):
        """Run in an empty directory and fail when a file or an open figure is left behind."""
        here: Path = tmp_path_factory.mktemp("cwd")
        monkeypatch.chdir(here)
        figures = _open_figures()
        yield
        left = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
        opened = sorted(set(_open_figures()) - set(figures))
        if opened:
            sys.modules["matplotlib.pyplot"].close("all")
        assert not left, f"Left in the working directory: {left}. Write into `tmp_path`, or switch the writer off."
        assert not opened, f"Left {len(opened)} figure(s) open in pyplot. Close what was drawn."

    def pytest_ignore_collect(self, collection_path, config):
        """With ``-m gpu`` other files are not imported: what they need may not be installed beside an accelerator."""
        is_other = collection_path.suffix == ".py" and not has_tests_for_accelerators(collection_path)
        return True if config.option.markexpr == "gpu" and is_other else None


def pytest_addoption(parser):
    parser.addoption("--accelerator-json", type=Path, help="write what the benchmarks with the mark gpu measure")


def pytest_configure(config):
    config.pluginmanager.register(Isolation(), "lightning_hp-isolation")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an accelerator, and torch sees none here")
    if item.get_closest_marker("exhaustive") and "exhaustive" not in item.config.option.markexpr:
        pytest.skip("every case of what another test samples, or a slow engine: -m exhaustive")


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    path, figures = config.getoption("--accelerator-json"), figures_of(reports)
    if path is not None and figures:
        path.write_text(json.dumps(figures, indent=1) + "\n")
    if lines := table_of(reports):
        terminalreporter.section("on the accelerator")
        terminalreporter.write("\n".join([*lines, ""]))
