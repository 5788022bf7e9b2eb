"""The house rules that a reader relies on, checked on the source itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules[name] = script
    spec.loader.exec_module(script)
    return script


house = load_script("architecture")
count_code = load_script("count_code")

FILES = list(house.MODULES.values())
ARROWS = house.imports()
# The package itself may name any floor. `typing` offers the public type names in one
# place, `FrozenDict` among them, and `core` offers `nn`: both when they are asked for.
EXCEPTIONS = {
    "linsey": "linsey",
    "linsey.typing": "linsey.core.frozen_dict",
    "linsey.core": "linsey.core.nn",
}
REPLACED = {"flax", "treex", "treeo"}
# What the source may hold at most. A change that needs more has to take it elsewhere,
# or to say in a design note why the house should grow.
LONGEST_FILE = 400
MOST = {"heart": 3300, "any in 1,000 lines": 45, "ignores": 43}


def relative(path: Path) -> str:
    return str(path.relative_to(house.SOURCE))


def within(module: str, room: str) -> bool:
    return f"{module}.".startswith(f"linsey.{room}.")


@pytest.mark.parametrize("module", house.MODULES)
def test_imports_go_downward(module):
    floor = house.room_of(module).floor
    excepted = EXCEPTIONS.get(module, "none")
    upward = {
        other
        for other in ARROWS[module]
        if house.room_of(other).floor > floor and not other.startswith(excepted)
    }
    assert not upward


@pytest.mark.parametrize(("here", "there"), [*house.STRANGERS, *house.FORBIDDEN])
def test_rooms_that_must_not_know_each_other_do_not(here, there):
    known = {
        (module, other)
        for module, others in ARROWS.items()
        for other in others
        if within(module, here) and not within(module, "core.nn")
        if within(other, there)
    }
    assert not known


def test_no_imports_go_in_a_circle():
    """Imports inside of functions and for type checkers alone count too."""
    inside = {
        module: {other for other in others if other not in EXCEPTIONS}
        for module, others in ARROWS.items()
    }
    assert house.circles(inside) == []


def test_circles_are_found_however_long_they_are():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert house.circles(arrows) == [["a", "b", "c"]]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_imports_what_linsey_replaces(path):
    roots = {name.split(".")[0] for name in house.imported_modules(path)}
    assert not roots & REPLACED


@pytest.fixture(scope="module")
def counts():
    return count_code.count_folder(house.SOURCE)


def test_no_file_is_too_long(counts):
    assert {path: n for path, n in counts.items() if n > LONGEST_FILE} == {}


def test_the_heart_of_the_house_stays_small(counts):
    assert count_code.count_heart(counts) <= MOST["heart"]


def test_types_leave_no_more_open_than_they_did(counts):
    lines = sum(counts.values())
    found = count_code.count_any(house.SOURCE)
    assert 1000 * found / lines <= MOST["any in 1,000 lines"]
    assert count_code.count_ignores(house.SOURCE) <= MOST["ignores"]


def test_aliases_of_any_count(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "names.py").write_text(
        "from typing import Any, Union\nLeaf = Any\nArray = Union[int, Any]\n"
    )
    (package / "use.py").write_text(
        "from package.names import Leaf\ndef f(x: Leaf) -> Leaf | None: ...\n"
    )
    # The import, two aliases, the import of one, and two uses of it; an alias counts
    # where it is made as well, by its name and by what it stands for.
    assert count_code.count_any(package) == 8


def test_no_names_are_passed_on_by_locals():
    found = [
        relative(path)
        for path in FILES
        if "**locals()" in path.read_text() or "dict(locals())" in path.read_text()
    ]
    assert not found


def test_contributing_shows_the_floors_as_they_are_checked():
    page = house.CONTRIBUTING.read_text()
    assert house.with_table(page) == page, "run: python scripts/architecture.py --write"


def test_every_room_of_the_table_exists():
    named = {name for room in house.FLOORS for name in room.modules}
    assert {f"linsey.{name}" for name in named} <= house.MODULES.keys()


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
