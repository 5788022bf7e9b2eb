"""Every example runs, in little, and shows what its README says."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.rglob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"examples_{name}", EXAMPLES / name / "train.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_program_and_a_page():
    for folder in EXAMPLES.iterdir():
        assert {"train.py", "README.md"} <= {path.name for path in folder.iterdir()}


def documented() -> set[str]:
    """The modules that the pages of the API list, and the packages they are in."""
    found = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(
            r"^\.\. (?:automodule|currentmodule):: (\S+)", page.read_text(), re.M
        ):
            parts = name.split(".")
            found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return found


def names_used(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a program imports from linsey: modules, and names in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full, "") if full in MODULES else (node.module, alias.name)


MODULES = documented()


@pytest.mark.parametrize(
    "path", PROGRAMS, ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_examples_use_public_names_only(path):
    tree = ast.parse(path.read_text())
    for module, name in names_used(tree):
        if module.partition(".")[0] == "linsey":
            assert module in MODULES, f"no page of the API lists {module}"
            assert not name.startswith("_")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
            is_special = node.attr.startswith("__") and node.attr.endswith("__")
            assert is_own or is_special or not node.attr.startswith("_"), node.attr


def test_batch_norm_learns_digits_sooner(capsys):
    final = load("digits").main(["--steps", "60"])
    assert final[True, 0.01] > final[False, 0.01] + 0.2
    assert final[True, 0.3] > 0.9
    assert capsys.readouterr().out.count("learning rate") == 4
