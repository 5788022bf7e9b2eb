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


def load(folder: str, name: str = "train") -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"examples_{folder}_{name}", EXAMPLES / folder / f"{name}.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_program_and_a_page():
    for folder in EXAMPLES.iterdir():
        assert (folder / "README.md").is_file() and [*folder.glob("*.py")]


def documented() -> set[str]:
    """The modules that the pages of the API list, and the packages they are in."""
    found = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(
            r"^\.\. (?:auto\w+|currentmodule):: (\S+)", page.read_text(), re.M
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


def test_figure_of_2015(capsys, tmp_path):
    picture = tmp_path / "figure.svg"
    command = ["--steps", "300", "--every", "100", "--out", str(picture)]
    curves = load("batch_norm_2015").main(command)
    assert curves[True].accuracy[-1] > 0.9 > 0.5 > curves[False].accuracy[-1]
    assert curves[True].steps == [100, 200, 300]
    assert picture.read_text().startswith("<?xml")
    assert "0.9 never" in capsys.readouterr().out


def test_each_program_about_state_is_listed():
    page = (EXAMPLES / "state" / "README.md").read_text()
    programs = {path.name for path in (EXAMPLES / "state").glob("*.py")}
    assert set(re.findall(r"examples/state/(\w+\.py)", page)) == programs


def test_dropped_updates_are_named():
    assert load("state", "audit").main() == ["never_updated"]


@pytest.mark.slow
def test_recalibration_brings_evaluation_to_training():
    before, after = load("state", "recalibrate").main()
    assert after < before / 50


@pytest.mark.slow
def test_folding_leaves_fewer_arrays():
    before, after, difference = load("state", "fold").main()
    assert after == before / 2 and difference < 1e-5


@pytest.mark.slow
def test_accumulation_is_exact_where_sums_are_not():
    naive, exact = load("state", "accumulate").main()
    assert naive > 0.01 and exact < 1e-5


@pytest.mark.filterwarnings("ignore:`BatchNorm` has momentum=0.1")
def test_an_inverted_momentum_is_found():
    assert load("state", "proof").main() == ["momentum inverted"]


def test_equal_blocks_are_traced_once():
    assert load("state", "first_step").main(4) == {False: 4, True: 1}
