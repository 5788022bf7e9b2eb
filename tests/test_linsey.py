"""The package itself: what it lists is what it has."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import linsey

# What the command is made of: users run it, they do not import it.
COMMAND = {"__main__", "app"}
MODULES = {info.name for info in pkgutil.iter_modules(linsey.__path__)}
FUNCTIONS = {"fit", "load"}  # what the command offers in Python
FILES = {name for name in MODULES - COMMAND if not name.startswith("_")}


def test_every_public_submodule_is_listed():
    assert set(linsey.__all__) - {"__version__"} == FILES | FUNCTIONS
    assert linsey.__all__ == sorted(linsey.__all__)


def test_type_checkers_are_shown_every_public_submodule():
    tree = ast.parse(Path(linsey.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    # `import name as name` says to a type checker that the name is offered.
    names = [(alias.name, alias.asname) for node in imports for alias in node.names]
    assert sorted(names) == [(name, name) for name in sorted(FILES | FUNCTIONS)]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_submodule_is_imported_when_it_is_asked_for(name):
    assert getattr(linsey, name) is importlib.import_module(f"linsey.{name}")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_of_the_command_is_imported_when_it_is_asked_for(name):
    function = getattr(linsey, name)
    assert callable(function) and function.__module__.startswith("linsey.app.")
    assert name in dir(linsey)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'linnen'"):
        linsey.linnen  # noqa: B018


def test_the_package_imports_nothing_heavy():
    program = "import sys, linsey; print('jax' in sys.modules, dir(linsey))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("False") and "'treex'" in done.stdout
