"""The private names of other libraries that the package uses: all are listed, all are used, all exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.private_names import PRIVATE, Private

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_hp"

# Public in spite of the underscore, by the documentation of `collections.namedtuple`.
_OF_NAMED_TUPLES = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
# Methods of `str` whose argument is a part of a text, as in `name.endswith("_loss")`.
_TEXT_METHODS = {"endswith", "join", "partition", "removeprefix", "removesuffix", "replace", "split", "startswith"}
_LIBRARIES = {"lightning": "Lightning", "lightning_fabric": "Lightning", "pytorch_lightning": "Lightning"}


def is_private(name: Any) -> bool:
    """Whether a text is a name with a leading underscore that neither Python nor this package defines the use of."""
    return (
        isinstance(name, str)
        and re.fullmatch(r"_+[A-Za-z]\w*", name) is not None
        and not name.endswith("__")
        and "lightning_hp" not in name
        and name not in _OF_NAMED_TUPLES
    )


class Definitions(ast.NodeVisitor):
    """The private names that a file defines: attributes of its classes, and all of them."""

    def __init__(self, tree: ast.AST) -> None:
        self.attributes: set[str] = set()
        self.all: set[str] = set()
        self.visit(tree)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.attributes.add(part.name)
            for target in _targets(part):
                if isinstance(target, ast.Name):
                    self.attributes.add(target.id)
                    if target.id == "__slots__":
                        self.attributes |= {text.value for text in ast.walk(part) if isinstance(text, ast.Constant)}
        self.all |= {node.name, *self.attributes}
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.all.add(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.all.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if _is_set(node) and _is_own_object(node.value):
            self.attributes.add(node.attr)
            self.all.add(node.attr)
        self.generic_visit(node)


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _is_own_object(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def find_private_uses(package: Path) -> dict[str, list[str]]:
    """Each private name of other libraries that a package uses, with ``file:line`` of its uses.

    Not counted are attributes that the same file defines on a class of its own, attributes of ``self`` and ``cls`` that
    any file defines, texts that name one of these or anything that the same file defines, and imports from the package.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    defined = {path: Definitions(tree) for path, tree in trees.items()}
    own_attributes = set().union(*(one.attributes for one in defined.values()))
    uses: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        parts_of_texts = set(_parts_of_texts(tree))
        for node in ast.walk(tree):
            for name in _names(node, package.name, parts_of_texts):
                if isinstance(node, ast.Attribute):
                    is_own = name in (own_attributes if _is_own_object(node.value) else defined[path].attributes)
                else:
                    is_own = isinstance(node, ast.Constant) and name in own_attributes | defined[path].all
                if is_private(name) and not is_own:
                    uses[name].append(f"{path.relative_to(package.parent)}:{node.lineno}")
    return dict(uses)


def _names(node: ast.AST, package: str, parts_of_texts: set[ast.AST]) -> Iterator[str]:
    """The names in a node that may be private: an attribute, the parts of an import, a text that is a name."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Import):
        yield from (
            part for alias in node.names for part in alias.name.split(".") if alias.name.split(".")[0] != package
        )
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] != package:
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts_of_texts:
        parts = node.value.split(".")
        if all(part.isidentifier() for part in parts):
            yield from parts


def _parts_of_texts(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from node.values
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT_METHODS:
            yield from node.args


def expand(holder: str) -> list[str]:
    """A holder in each Lightning package that is installed; in none if it is an optional library that is not."""
    if importlib.util.find_spec(re.split("[.:]", holder)[0]) is None:
        return []
    twins = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}
    top, _, rest = holder.partition(".")
    if top in twins and importlib.util.find_spec("lightning") is not None:
        return [holder, f"{twins[top]}.{rest}"]
    return [holder]


def has_name(holder: str, name: str) -> bool:
    """Whether a class or module defines a name: as an attribute, or on its instances, by its source.

    In the source of a class and its bases an assignment to ``self.name`` counts. In that of a module an assignment to
    any attribute and the name as a text count, for names that it sets on other objects.
    """
    try:
        found = pkgutil.resolve_name(holder)
    except (ImportError, AttributeError):
        return False
    if hasattr(found, name):
        return True
    if inspect.isclass(found):
        return any(name in _instance_attributes(base) for base in found.__mro__)
    return name in _names_in(holder)


@cache
def _instance_attributes(cls: type) -> frozenset[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # written in C
        return frozenset()
    in_body = {target.id for part in tree.body[0].body for target in _targets(part) if isinstance(target, ast.Name)}
    return frozenset(in_body | {node.attr for node in ast.walk(tree) if _is_set(node) and _is_own_object(node.value)})


@cache
def _names_in(module: str) -> frozenset[str]:
    nodes = list(ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(texts | {node.attr for node in nodes if _is_set(node)})


def _is_set(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def explain(entry: Private, holder: str, uses: list[str]) -> str:
    """What to do about a name that is gone."""
    top = holder.partition(".")[0].partition(":")[0]
    version = importlib.import_module(top).__version__
    owner = holder.rpartition(":")[2] if ":" in holder else holder
    files = ", ".join(dict.fromkeys(use.rpartition(":")[0] for use in uses))
    return (
        f"{_LIBRARIES.get(top, top)} {version} has no {owner}.{entry.name}, which {files} uses to {entry.reason}: find"
        " out what this release has instead, and change these files and tests/private_names.py. Until then keep the"
        " upper pin in pyproject.toml below this release."
    )


@pytest.fixture(scope="module")
def uses() -> dict[str, list[str]]:
    return find_private_uses(PACKAGE)


def test_every_private_name_is_listed(uses):
    listed = {entry.name for entry in PRIVATE}
    missing = {name: places for name, places in uses.items() if name not in listed}
    assert not missing, "\n" + "\n".join(
        f"{', '.join(places)}: uses the private name `{name}`, which tests/private_names.py does not list. Use a public"
        " name, or add an entry with its holder and the reason. If another file of this package defines the name, make"
        " it public."
        for name, places in missing.items()
    )


def test_every_listed_name_is_used_and_listed_once(uses):
    names = [entry.name for entry in PRIVATE]
    assert len(names) == len(set(names))
    unused = sorted(set(names) - set(uses))
    assert not unused, f"No file of the package uses {', '.join(unused)}: remove the entries of tests/private_names.py."


@pytest.mark.parametrize("entry", PRIVATE, ids=lambda entry: entry.name)
def test_installed_releases_have_the_name(entry, uses):
    for holder in entry.holders:
        for one in expand(holder):
            assert has_name(one, entry.name), explain(entry, one, uses[entry.name])


# ----------------------------------------------------------------------------------- the scan and the check itself


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("loop._data_source = 1", ["_data_source"]),
        ("trainer.fit_loop._a._b", ["_a", "_b"]),
        ("getattr(loop, '_data_source', None)", ["_data_source"]),
        ("vars(loop).pop('_data_source')", ["_data_source"]),
        ("attrgetter('loop._data_source')", ["_data_source"]),
        ("from torch.utils._pytree import tree_map", ["_pytree"]),
        ("from torch.nn.modules.batchnorm import _NormBase", ["_NormBase"]),
        ("import torch._dynamo", ["_dynamo"]),
        ("class A:\n    def f(self):\n        return self._apply", ["_apply"]),
        ("class A:\n    def __init__(self):\n        self._own = 1\n    def f(self, other):\n        other._own", []),
        ("def _version(x):\n    return x._version", ["_version"]),
        ("class A:\n    __slots__ = ('_own',)\ndef f(a):\n    return a._own", []),
        ("from pkg.other import _helper", []),
        ("thing._replace(x=1), thing.__dict__, name.endswith('_loss'), f'{name}_loss', '_', '_two words'", []),
    ],
)
def test_scan_finds_private_names(tmp_path, code, names):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "file.py").write_text(code)
    assert sorted(find_private_uses(package)) == sorted(names)


def test_scan_reports_a_private_attribute_of_another_file(tmp_path):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "one.py").write_text("class A:\n    def __init__(self):\n        self._own = 1\n")
    (package / "two.py").write_text("def f(a):\n    return a._own\nclass B(A):\n    def g(self):\n        self._own\n")
    assert find_private_uses(package) == {"_own": ["pkg/two.py:2"]}


def test_a_missing_name_fails_with_a_sentence():
    fit_loop = "pytorch_lightning.loops.fit_loop:_FitLoop"
    entry = Private("_data_fountain", (fit_loop,), "read the loaders of a loop")
    assert has_name(fit_loop, "_data_source")
    assert not has_name(fit_loop, entry.name)
    assert not has_name("pytorch_lightning.loops.no_such_loop:_FitLoop", "_data_source")
    message = explain(entry, fit_loop, ["lightning_hp/a.py:1", "lightning_hp/a.py:2"])
    assert re.match(
        r"Lightning [\d.]+\S* has no _FitLoop._data_fountain, which lightning_hp/a.py uses to read the"
        " loaders of a loop: find out what",
        message,
    )
