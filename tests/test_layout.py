"""The folders of the package: each imports only from itself and from those below it in docs/architecture.md."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_hp"
PAGE = ROOT / "docs" / "architecture.md"

WITHOUT_LIGHTNING = ("functional", "snapshot", "nn", "data", "memory")
LIGHTNING = ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning")

# The only exemption from the order: `result.plot()` imports `plotting`, which names the result classes in annotations.
UPPER_TWIN, LOWER_TWIN = "results", "plotting"
_DRAWING = (("plot",), ("to_html",))


@dataclass(frozen=True)
class Import:
    """One imported module, and where the statement stands."""

    path: Path
    line: int
    module: str
    """The full name; for ``from a import b`` it is ``a.b`` if that is a module, else ``a``."""
    functions: tuple[str, ...]
    """The functions around the statement, outermost first."""
    for_typing: bool
    """Whether the statement stands under ``if TYPE_CHECKING``."""

    @property
    def is_top_level(self) -> bool:
        """Whether it runs when the file is imported."""
        return not self.functions and not self.for_typing


def read_picture(page: str) -> dict[str, list[str]]:
    """The folders of the package picture from top to bottom, each with its subfolders."""
    block = re.search(rf"^```text\n{PACKAGE}/\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert block, f"Expected a code block in docs/architecture.md that begins with ```text and `{PACKAGE}/`."
    folders: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        match = re.fullmatch(r"(  |    )(\w+)/ +\S.*", line)
        assert match, (
            f"docs/architecture.md, package picture, line {line!r}: expected a folder, indented by two spaces, or a"
            " subfolder, indented by four, as in `  nn/    what it holds`."
        )
        if match[1] == "  ":
            folders[match[2]] = []
        else:
            folders[list(folders)[-1]].append(match[2])
    return folders


def find_folders(package: Path) -> dict[str, list[str]]:
    """The folders that exist, each with its subfolders; caches and folders without Python files are left out."""

    def inside(folder: Path) -> list[Path]:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.rglob("*.py"))]

    return {path.name: [below.name for below in inside(path)] for path in inside(package)}


def find_imports(package: Path) -> list[Import]:
    """Every import statement of the package, and every ``import_module("literal")``."""
    modules = {_module_name(package, path): path for path in package.rglob("*.py")}
    return [
        found
        for module, path in sorted(modules.items())
        for found in _imports_of(ast.parse(path.read_text(encoding="utf-8")), path, module, modules)
    ]


def _module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports_of(tree: ast.AST, path: Path, module: str, modules: dict[str, Path]) -> Iterator[Import]:
    def visit(node: ast.AST, functions: tuple[str, ...], for_typing: bool) -> Iterator[Import]:
        for name in _imported_names(node, path, module, modules):
            yield Import(path, node.lineno, name, functions, for_typing)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            functions = (*functions, getattr(node, "name", "lambda"))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, functions, True)
            for child in node.orelse:
                yield from visit(child, functions, for_typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, functions, for_typing)

    return visit(tree, (), False)


def _imported_names(node: ast.AST, path: Path, module: str, modules: dict[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
        names = [f"{base}.{alias.name}" for alias in node.names]
        return list(dict.fromkeys(name if name in modules else base for name in names))
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = ast.unparse(node.func).rpartition(".")[2]
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def check_direction(package: Path, order: list[str]) -> list[str]:
    """Imports from a folder above, one sentence for each."""
    errors = []
    for found in find_imports(package):
        source, target = _folder(package, found.path), found.module.split(".")
        if source is None or target[0] != package.name or source not in order:
            continue
        where = f"{found.path.relative_to(package.parent)}:{found.line}"
        if len(target) == 1 or target[1] not in order:
            errors.append(f"{where}: imports `{found.module}` itself; import from the folder that defines the name.")
        elif order.index(target[1]) < order.index(source) and not _is_twin_for_typing(source, target[1], found):
            hint = (
                "put the import under `if TYPE_CHECKING` and move what is needed at run time to a lower folder"
                if (source, target[1]) == (LOWER_TWIN, UPPER_TWIN)
                else f"move what is needed from {target[1]}/ to {source}/ or below, or pass it as an argument"
            )
            errors.append(f"{where}: {source}/ imports `{found.module}`, which is above it; {hint}.")
        elif (source, target[1]) == (UPPER_TWIN, LOWER_TWIN) and found.functions[-1:] not in _DRAWING:
            errors.append(
                f"{where}: {source}/ imports `{found.module}` outside of `plot` or `to_html`; move the import there, so"
                " that a result does not load what draws it."
            )
    return errors


def _folder(package: Path, path: Path) -> str | None:
    """The folder of a file; ``None`` in the root of the package, which may import everything."""
    parts = path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else None


def _is_twin_for_typing(source: str, target: str, found: Import) -> bool:
    return (source, target) == (LOWER_TWIN, UPPER_TWIN) and found.for_typing


def check_circles(package: Path) -> list[str]:
    """Circles of top-level imports between the files of one folder, one sentence for each."""
    modules = {_module_name(package, path): path for path in package.rglob("*.py")}
    edges: dict[Path, dict[Path, int]] = {}
    for found in find_imports(package):
        target = modules.get(found.module)
        if target is None or not found.is_top_level or target == found.path:
            continue
        if _folder(package, target) == _folder(package, found.path):
            edges.setdefault(found.path, {}).setdefault(target, found.line)
    return [
        "Circle of imports: "
        + ", ".join(
            f"{path.relative_to(package.parent)}:{edges[path][after]} imports {after.relative_to(package.parent)}"
            for path, after in zip(circle, [*circle[1:], circle[0]], strict=True)
        )
        + "; move what both need into a file of its own."
        for circle in _circles(edges)
    ]


def _circles(edges: dict[Path, dict[Path, int]]) -> list[list[Path]]:
    """The circles that a depth-first search meets, each once; it meets one if there is one."""
    found: dict[frozenset[Path], list[Path]] = {}
    done: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> None:
        if path in trail:
            circle = trail[trail.index(path) :]
            found.setdefault(frozenset(circle), circle)
        elif path not in done:
            for after in edges.get(path, {}):
                visit(after, [*trail, path])
            done.add(path)

    for path in sorted(edges):
        visit(path, [])
    return list(found.values())


def check_lightning(package: Path, folders: tuple[str, ...]) -> list[str]:
    """Imports of Lightning in folders that have to work without it, one sentence for each."""
    return [
        f"{found.path.relative_to(package.parent)}:{found.line}: {_folder(package, found.path)}/ imports"
        f" `{found.module}` and has to work without Lightning; move the code to trainer/ or above, or pass what is"
        " needed as an argument."
        for found in find_imports(package)
        if _folder(package, found.path) in folders and found.module.split(".")[0] in LIGHTNING
    ]


def check_functional(package: Path) -> list[str]:
    """Imports in ``functional/`` of another part of the package, one sentence for each."""
    return [
        f"{found.path.relative_to(package.parent)}:{found.line}: functional/ imports `{found.module}`; the mathematics"
        " imports nothing else of the package, so move it to functional/ or pass it as an argument."
        for found in find_imports(package)
        if _folder(package, found.path) == "functional"
        and found.module.split(".")[0] == package.name
        and found.module.split(".")[1:2] != ["functional"]
    ]


@pytest.fixture(scope="module")
def picture() -> dict[str, list[str]]:
    return read_picture(PAGE.read_text(encoding="utf-8"))


def test_picture_names_every_folder(picture):
    existing = find_folders(ROOT / PACKAGE)
    assert {name: sorted(below) for name, below in picture.items()} == existing, (
        "docs/architecture.md has to name exactly the folders and subfolders of lightning_hp/, each in its place in the"
        " order of imports, with what it holds."
    )


def test_imports_go_down(picture):
    errors = check_direction(ROOT / PACKAGE, list(picture))
    assert not errors, "\n" + "\n".join(errors)


def test_no_circles_between_files():
    errors = check_circles(ROOT / PACKAGE)
    assert not errors, "\n" + "\n".join(errors)


def test_lower_folders_import_no_lightning():
    errors = check_lightning(ROOT / PACKAGE, WITHOUT_LIGHTNING)
    assert not errors, "\n" + "\n".join(errors)


def test_functional_imports_nothing_else_of_the_package():
    errors = check_functional(ROOT / PACKAGE)
    assert not errors, "\n" + "\n".join(errors)


# --------------------------------------------------------------------------- the checker, on a small package


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))
        for above in path.parents:
            if above == folder:
                break
            (above / "__init__.py").touch()
    return folder / "pkg"


ORDER = ["callbacks", "nn", "results", "plotting", "functional"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import pkg.callbacks.sam\n", "pkg/nn/head.py:1: nn/ imports `pkg.callbacks.sam`, which is above it"),
        ("from pkg.callbacks import sam\n", "pkg/nn/head.py:1: nn/ imports `pkg.callbacks.sam`"),
        ("from pkg import callbacks\n", "`pkg.callbacks`, which is above it; move what is needed"),
        ("from ..callbacks.sam import SAM\n", "`pkg.callbacks.sam`, which is above it"),
        ("def f():\n    from pkg.callbacks.sam import SAM\n", "pkg/nn/head.py:2:"),
        ("if TYPE_CHECKING:\n    from pkg.callbacks.sam import SAM\n", "pkg/nn/head.py:2:"),
        ('import_module("pkg.callbacks.sam")\n', "pkg/nn/head.py:1:"),
        ("from pkg import SAM\n", "imports `pkg` itself; import from the folder that defines the name"),
    ],
)
def test_checker_reports_an_upward_import(tmp_path, code, words):
    package = write_tree(tmp_path, {"pkg/callbacks/sam.py": "", "pkg/nn/head.py": code, "pkg/functional/maths.py": ""})
    (error,) = check_direction(package, ORDER)
    assert words in error


def test_checker_accepts_what_goes_down_and_the_root(tmp_path):
    files = {
        "pkg/root.py": "from pkg.callbacks import sam",
        "pkg/callbacks/sam.py": "import pkg.nn.head\nfrom pkg.functional import maths\nimport torch",
        "pkg/nn/head.py": "from pkg.nn.deep.inner import x",
        "pkg/nn/deep/inner.py": "from pkg.functional.maths import y",
        "pkg/functional/maths.py": "",
        "pkg/results/one.py": "class R:\n    def plot(self):\n        from pkg.plotting.one import draw",
        "pkg/plotting/one.py": "if TYPE_CHECKING:\n    from pkg.results import R",
    }
    package = write_tree(tmp_path, files)
    assert check_direction(package, ORDER) == []
    assert check_circles(package) == []
    assert check_functional(package) == []
    assert check_lightning(package, ("nn", "functional")) == []
    assert find_folders(package) == {"callbacks": [], "functional": [], "nn": ["deep"], "plotting": [], "results": []}


def test_checker_holds_the_twins_to_their_exemption(tmp_path):
    files = {
        "pkg/results/one.py": "from pkg.plotting.one import draw",
        "pkg/plotting/one.py": "def draw():\n    from pkg.results.one import R",
    }
    drawing, result = check_direction(write_tree(tmp_path, files), ORDER)
    assert drawing.startswith("pkg/plotting/one.py:2: plotting/ imports `pkg.results.one`, which is above it; put the")
    assert result.startswith("pkg/results/one.py:1: results/ imports `pkg.plotting.one` outside of `plot` or `to_html`")


def test_checker_reports_a_circle_once(tmp_path):
    files = {
        "pkg/nn/a.py": "import torch\nfrom pkg.nn.b import x",
        "pkg/nn/b.py": "from pkg.nn import c",
        "pkg/nn/c.py": "from pkg.nn.a import y",
        "pkg/nn/d.py": "from pkg.nn.a import y",
        "pkg/nn/e.py": "def f():\n    from pkg.nn.f import z",
        "pkg/nn/f.py": "from pkg.nn.e import f",
    }
    (error,) = check_circles(write_tree(tmp_path, files))
    assert error == (
        "Circle of imports: pkg/nn/a.py:2 imports pkg/nn/b.py, pkg/nn/b.py:1 imports pkg/nn/c.py, pkg/nn/c.py:1 imports"
        " pkg/nn/a.py; move what both need into a file of its own."
    )


def test_checker_reports_lightning_and_the_rest_of_the_package(tmp_path):
    files = {
        "pkg/functional/maths.py": "import lightning.pytorch as pl\nfrom pkg.nn import head",
        "pkg/nn/head.py": "def f():\n    from pytorch_lightning import Trainer",
        "pkg/callbacks/sam.py": "import pytorch_lightning",
    }
    package = write_tree(tmp_path, files)
    first, second = check_lightning(package, ("functional", "nn"))
    assert first.startswith("pkg/functional/maths.py:1: functional/ imports `lightning.pytorch`")
    assert second.startswith("pkg/nn/head.py:2: nn/ imports `pytorch_lightning`")
    (only,) = check_functional(package)
    assert only.startswith("pkg/functional/maths.py:2: functional/ imports `pkg.nn.head`")


def test_picture_has_to_have_folders_and_what_they_hold():
    page = "# Title\n\n```text\nlightning_hp/\n  nn/         heads\n    backbone/ models\n  functional/ maths\n```\n"
    assert read_picture(page) == {"nn": ["backbone"], "functional": []}
    with pytest.raises(AssertionError, match="expected a folder, indented by two spaces"):
        read_picture(page.replace("heads", ""))
    with pytest.raises(AssertionError, match="Expected a code block"):
        read_picture("# Title\n")
