"""The order of the layers: imports run downward only, and sit at the top of their modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "thunder"
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_id(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported_modules(node: ast.AST) -> list[str]:
    """The absolute names that one import statement brings in; relative ones count as thunder's own."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["thunder" if node.level else str(node.module)]
    return []


def is_thunder(name: str) -> bool:
    return name == "thunder" or name.startswith("thunder.")


def test_layers_import_downward_only(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_interpreter_loads_without_torch():
    """The interpreter is tested alone on every Python version: importing it must not load torch."""
    source = "\n".join(
        [
            "import sys, types",
            # The package's own __init__ is the public API, which does need torch: stand in for it.
            "package = types.ModuleType('thunder')",
            f"package.__path__ = [{str(PACKAGE)!r}]",
            "sys.modules['thunder'] = package",
            "import thunder.interpreter",
            "sys.exit('torch' in sys.modules)",
        ]
    )
    finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr or "thunder.interpreter imports torch"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_of_thunder_stand_at_the_top_of_the_module(path: Path):
    """An import inside a function hides a cycle between modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    hidden = [
        f"{module_id(path)}:{node.lineno}"
        for function in functions
        for node in ast.walk(function)
        if any(is_thunder(name) for name in imported_modules(node))
    ]
    assert not hidden


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=module_id)
def test_package_init_only_reexports(path: Path):
    """`__init__.py` holds a docstring, imports and names, so that nothing has two homes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"{module_id(path)}:{node.lineno}" for node in tree.body if not reexports(node)] == []


def reexports(node: ast.stmt) -> bool:
    """Imports, names and texts; also imports for type checkers, and names that are imported when first used."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING" and all(map(reexports, node.body))
    if isinstance(node, ast.FunctionDef):
        return node.name in ("__getattr__", "__dir__")
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign))


def test_no_module_is_a_drawer_for_everything():
    assert [module_id(path) for path in MODULES if path.name in ("utils.py", "common.py", "helpers.py")] == []
