"""The house rules that a reader relies on, checked on the source itself."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "linsey"
FILES = sorted(SOURCE.rglob("*.py"))

# Imports go downward only: a floor may use the floors under it, and itself.
FLOORS = {
    "core": 1,
    "ops": 1,
    "jax_utils": 2,
    "linen": 2,
    "checkpoint": 3,
    "metrics": 4,
    "treex": 3,
    "optim": 4,
    "training": 4,
    "app": 5,
    "__main__": 5,
}
# `typing` offers the public type names in one place, `FrozenDict` among them, which it
# finds when it is asked for.
EXCEPTIONS = {"linsey.typing": "linsey.core.frozen_dict"}
LONGEST_FILE = 400
FORBIDDEN = {"flax", "treex", "treeo"}


def floor_of(module: str) -> int:
    """The floor of a `linsey...` module; modules beside the packages are floor 0."""
    parts = module.split(".")
    return FLOORS.get(parts[1], 0) if len(parts) > 1 else 0


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, lazily or not, by its absolute name."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_downward(path):
    if module_name(path) == "linsey":
        pytest.skip("the package itself may name any floor")
    here = module_name(path)
    excepted = EXCEPTIONS.get(here, "none")
    upward = {
        name
        for name in imported_modules(path)
        if name.split(".")[0] == "linsey"
        and floor_of(name) > floor_of(here)
        and not name.startswith(excepted)
    }
    assert not upward


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_imports_what_linsey_replaces(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_too_long(path):
    spec = importlib.util.spec_from_file_location(
        "count_code", ROOT / "scripts" / "count_code.py"
    )
    count_code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(count_code)
    assert count_code.count_code(path.read_text()) <= LONGEST_FILE


def modules_after(statement: str) -> set[str]:
    """Top-level modules of a new process after a statement, beyond those of jax."""
    program = (
        "import sys, jax, numpy; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_import_of_the_functional_face_brings_only_jax_and_numpy():
    allowed = {"linsey", "jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "opt_einsum"}
    extra = modules_after("import linsey.linen") - allowed
    assert not extra - set(sys.stdlib_module_names)


def test_import_of_the_command_brings_no_jax():
    program = "import sys, linsey.app.cli; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


def test_submodules_are_imported_when_they_are_asked_for():
    program = (
        "import sys, linsey; before = 'jax' in sys.modules\n"
        "print(before, linsey.traverse_util.__name__, linsey.linen.Dense.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "linsey.traverse_util", "Dense"]
