"""The public names: sorted, complete, importable, documented; and what importing them loads, and does not."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from mkdocs.exceptions import PluginError

import lightning_hp
import lightning_hp.callbacks
import lightning_hp.functional

ROOT = Path(__file__).resolve().parents[1]
NAMESPACES = [lightning_hp, lightning_hp.callbacks, lightning_hp.functional]


def run_fresh(code: str) -> str:
    """Run ``code`` in a new interpreter, so that nothing the suite imported is there already."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda module: module.__name__)
def test_all_is_sorted_unique_and_importable(namespace):
    assert list(namespace.__all__) == sorted(set(namespace.__all__))
    for name in namespace.__all__:
        assert getattr(namespace, name) is not None
        assert name in dir(namespace)


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda module: module.__name__)
def test_all_holds_every_public_name_that_is_bound(namespace):
    bound = {
        name
        for name, value in vars(namespace).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("lightning_hp")
    }
    assert bound <= set(namespace.__all__)


def test_every_callback_is_public():
    found = set()
    for info in pkgutil.iter_modules(lightning_hp.callbacks.__path__, "lightning_hp.callbacks."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if inspect.isclass(value) and issubclass(value, pl.Callback) and value.__module__ == info.name:
                found.add(name)
    assert found == set(lightning_hp.callbacks.__all__)
    assert found <= set(lightning_hp.__all__)


@pytest.fixture
def coverage_hook():
    spec = importlib.util.spec_from_file_location("coverage_hook", ROOT / "docs" / "_hooks" / "coverage.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


def test_docs_build_fails_on_a_public_name_without_an_entry(coverage_hook):
    headings = [f'<h3 id="{name}" class="doc">' for name in sorted(coverage_hook.public_names())]
    coverage_hook.on_page_content("".join(headings))
    coverage_hook.on_env(None)

    coverage_hook.on_pre_build()
    coverage_hook.on_page_content("".join(headings).replace("lightning_hp.LRFinder", "elsewhere.LRFinder"))
    with pytest.raises(PluginError, match=r"found none for: lightning_hp\.LRFinder\."):
        coverage_hook.on_env(None)


def test_the_api_page_links_every_public_name_to_the_file_that_defines_it(coverage_hook):
    entries = re.findall(
        r"^- \[`([\w.]+)`\]\(\.\./([^)]+)\)", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(dict(entries)) == len(entries)
    assert coverage_hook.public_names() <= dict(entries).keys()
    for name, file in entries:
        assert inspect.getsourcefile(pkgutil.resolve_name(name)) == str(ROOT / file), name


def test_no_page_shows_the_raw_entries_of_the_builder():
    for page in (ROOT / "docs").rglob("*.md"):
        assert ":::" not in page.read_text(encoding="utf-8"), page


def test_every_card_is_linked_from_the_landing_pages():
    cards = {path.name for path in (ROOT / "docs" / "cards").glob("*.md")}
    for page in ("README.md", "docs/index.md", "mkdocs.yml"):
        linked = set(re.findall(r"cards/(\w+\.md)", (ROOT / page).read_text(encoding="utf-8")))
        assert linked == cards, page


def test_every_public_name_says_what_it_does():
    for namespace in NAMESPACES:
        for name in namespace.__all__:
            assert inspect.getdoc(getattr(namespace, name)), f"{namespace.__name__}.{name} has no docstring"


def test_no_line_of_a_docstring_is_a_quotation_in_markdown():
    """A line that begins with a comparison (`>= 1`) would be shown as a block quotation."""
    for path in (ROOT / "lightning_hp").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = line.strip()
            assert not text.startswith(">") or text.startswith(">>>"), f"{path}:{number}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LRFnder'"):
        _ = lightning_hp.LRFnder


def test_version_is_that_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{lightning_hp.__version__}]" in changelog
    assert f"version: {lightning_hp.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_what_loads_no_lightning():
    """The maths; the package; the mixin; labels and balanced batches, until a callback is asked for."""
    code = """
import sys
def loaded(): return sorted({"lightning", "pytorch_lightning"} & sys.modules.keys())
import lightning_hp.functional
print(loaded())
import lightning_hp
lightning_hp.ClassifierMixin
print(loaded())
from lightning_hp.data import class_counts
assert len(list(lightning_hp.ClassBalancedBatchSampler([0, 1] * 8, 4))) == 4
print(loaded())
lightning_hp.LRFinder
print(loaded())
"""
    assert run_fresh(code).splitlines() == ["[]", "[]", "[]", "['lightning', 'pytorch_lightning']"]


def test_no_drawing_or_writing_library_is_imported_before_it_is_used():
    # torchmetrics imports matplotlib by itself, so what counts is which module asks for it.
    code = """
import builtins
HEAVY = {"matplotlib", "mlxtend", "scipy", "sklearn", "tensorboard"}
original, asked = builtins.__import__, set()
def spy(name, globals=None, locals=None, fromlist=(), level=0):
    by = (globals or {}).get("__name__", "")
    if name.partition(".")[0] in HEAVY and by.partition(".")[0] == "lightning_hp":
        asked.add((by, name))
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = spy
import lightning_hp
for name in lightning_hp.__all__:
    getattr(lightning_hp, name)
print(sorted(asked))
"""
    assert run_fresh(code) == "[]"
