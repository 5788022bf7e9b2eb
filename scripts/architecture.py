"""The floors of the packages, and the imports that are allowed between them.

`FLOORS` is the only list of them: the tests check the source against it, and
`python scripts/architecture.py --write` writes it into CONTRIBUTING.md as a table.
Without `--write` the command prints the table, and any circular imports.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "linsey"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
START, END = "<!-- floors: python scripts/architecture.py --write -->", "<!-- end -->"


class Room(NamedTuple):
    """Packages or modules, the floor they are on, and their purpose."""

    floor: int
    modules: tuple[str, ...]
    what: str


FLOORS = [
    Room(7, ("app", "__main__"), "the `linsey` command"),
    Room(5, ("batch_stats",), "tools that inspect, repair and use running statistics"),
    Room(5, ("models",), "architectures that pretrained weights exist for"),
    Room(5, ("weights",), "weights of other libraries, both ways, with a proof"),
    Room(5, ("interop",), "bridges to and from Equinox and Haiku"),
    Room(5, ("fine_tuning",), "layers of a trained model replaced, adapted and frozen"),
    Room(4, ("treex",), "the object face: modules that are pytrees"),
    Room(4, ("optim",), "the classic optimizers, on optax"),
    Room(4, ("compat",), "`import flax` and `import treex` served by linsey"),
    Room(3, ("training",), "train state, schedules, Flax's checkpoint interface"),
    Room(
        3,
        ("checkpoint",),
        "checkpoints with verified arrays; independent of the command",
    ),
    Room(3, ("metrics",), "metric writers"),
    Room(2, ("linen",), "the functional face: modules, transforms, layers"),
    Room(2, ("core.nn",), "layers as functions of scopes"),
    Room(2, ("jax_utils", "cursor"), "helpers on the states of models"),
    Room(1, ("core",), "state without modules; does not import `ops`"),
    Room(1, ("ops",), "arrays without state; does not import `core`"),
    Room(1, ("_drawing",), "random initial values, drawn by few compiled programs"),
    Room(0, (), "everything else: `struct`, `serialization`, `errors`, `config`, ..."),
]
# Packages of one floor that must not import each other.
STRANGERS = [("core", "ops"), ("ops", "core")]
# Parts of one package that must not import each other: importer and imported.
FORBIDDEN = [("linen.module", "linen.summary"), ("linen.module", "linen.transforms")]


def room_of(module: str) -> Room:
    """Return the entry of `FLOORS` with the longest name that contains a module."""
    parts = module.split(".")[1:]
    for size in range(len(parts), 0, -1):
        name = ".".join(parts[:size])
        for room in FLOORS:
            if name in room.modules:
                return room
    return FLOORS[-1]


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """Return every module that a file imports, anywhere in it or for type checkers.

    An import of a name from a package counts as an import of the module `package.name`
    if that exists, and of the package otherwise.
    """
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
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                names.add(inner if inner in MODULES else module)
    return names


def imports() -> dict[str, set[str]]:
    """Return the modules of linsey that each module of linsey imports."""
    return {
        name: {other for other in imported_modules(path) if other in MODULES} - {name}
        for name, path in MODULES.items()
    }


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules with circular imports (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            place = stack.index(module)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def table() -> str:
    """Return the floors as a Markdown table, the highest first."""
    rows = ["| floor | where | what |", "|---|---|---|"]
    for room in FLOORS:
        folders = ", ".join(f"`{name.replace('.', '/')}`" for name in room.modules)
        rows.append(f"| {room.floor} | {folders or 'the other files'} | {room.what} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Return a page with the current table between its two marks."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Print the table, or write it into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--write", action="store_true", help="write the table into CONTRIBUTING.md"
    )
    if parser.parse_args().write:
        CONTRIBUTING.write_text(with_table(CONTRIBUTING.read_text()))
        return
    print(table())
    for group in circles(imports()):
        print("circle:", *group)


if __name__ == "__main__":
    main()
