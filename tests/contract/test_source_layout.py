"""The shape of the source: sizes of files, classes and functions, levels of imports, no hidden state."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import snn_energy as se

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "snn_energy"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LARGEST_FILE, LARGEST_CLASS, LARGEST_FUNCTION = 450, 250, 60
LEVELS = 9
TYPED = ("pricing", "profiler/values", "core/kinds.py")
MUTABLE_CALLS = {"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_classes_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LARGEST_FILE
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef):
            assert lines_of(node) <= LARGEST_CLASS, node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of(node) <= LARGEST_FUNCTION, node.name


@pytest.mark.parametrize("place", TYPED)
def test_where_numbers_are_made_nothing_is_any(place: str) -> None:
    files = [PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).rglob("*.py"))
    assert files
    for path in files:
        names = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
        assert "Any" not in names, path


def module_state(path: Path) -> Iterator[str]:
    """Names of module-level values that code could fill: empty or changed containers, called constructors of them."""
    tree = tree_of(path)
    changed = {
        node.func.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.attr in {"append", "add", "update", "setdefault", "extend", "pop", "clear", "insert"}
    } | {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and isinstance(node.value, ast.Name)
    }
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if not isinstance(target, ast.Name):
                continue
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            is_container = isinstance(value, ast.Dict | ast.List | ast.Set) or (
                isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE_CALLS
            )
            local = {
                name.id
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef)
                for name in ast.walk(function)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
            if is_container and target.id in changed and target.id not in local:
                yield target.id


REGISTRIES = {"profiler/rules/registry.py"}  # filled by decorators while modules are imported, never afterwards


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_keeps_state(path: Path) -> None:
    assert str(path.relative_to(PACKAGE)) in REGISTRIES or not list(module_state(path))
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree_of(path)))


def imports_between_packages() -> dict[str, set[str]]:
    """Package of snn_energy -> the packages that it imports; imports for type checking alone left out."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        parts = path.relative_to(PACKAGE).parts
        if len(parts) < 2:
            continue
        tree = tree_of(path)
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing_only:
                names = node.module.split(".")
                if names[0] == "snn_energy" and len(names) > 1 and names[1] != parts[0]:
                    found.setdefault(parts[0], set()).add(names[1])
    return found


def test_packages_are_in_few_levels_and_no_circle() -> None:
    imports = imports_between_packages()

    def level(package: str, above: tuple[str, ...] = ()) -> int:
        assert package not in above, " -> ".join([*above, package])
        return 1 + max((level(p, (*above, package)) for p in imports.get(package, ())), default=0)

    assert max(map(level, imports)) <= LEVELS


def test_no_package_bears_the_name_of_a_public_function() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {
        path.stem for path in PACKAGE.glob("*.py")
    }
    functions = {name for name in se.__all__ if callable(getattr(se, name)) and not isinstance(getattr(se, name), type)}
    assert not packages & functions


def test_importing_the_package_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, snn_energy, snn_energy.cli.commands; "
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_import_contracts_hold() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
