"""Every public name of every public module has its entry on a page of docs/api."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

import linsey

PAGES = sorted((Path(__file__).parents[2] / "docs" / "api").glob("*.md"))

# Packages that offer their files as import paths, and not only what these hold.
OPEN = set(
    """
    linsey linsey.core linsey.core.nn linsey.errors linsey.linen
    linsey.linen.experimental linsey.metrics linsey.optim linsey.training linsey.treex
    """.split()
)
# Packages that are one file: what it imports for itself is not offered.
ONE_FILE = {"linsey.core.nn"}
# What the command `linsey` is made of: users run it, they do not import it.
COMMAND = {"linsey.__main__", "linsey.app"}


def public_modules(package: types.ModuleType) -> Iterator[str]:
    """The modules that people import from: files of other packages are their inside."""
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if info.name in COMMAND or info.name.rpartition(".")[2].startswith("_"):
            continue
        yield info.name
        if info.name in OPEN:
            yield from public_modules(importlib.import_module(info.name))


def home(value: Any) -> str:
    return str(getattr(value, "__module__", ""))


def public_names(module: types.ModuleType) -> list[str]:
    """What a module lists, else what it defines or, as a package, puts together."""
    if hasattr(module, "__all__"):
        names = [name for name in module.__all__ if not name.startswith("_")]
    else:
        is_package = hasattr(module, "__path__") and module.__name__ not in ONE_FILE
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and home(value).startswith("linsey.")
            and (is_package or home(value) == module.__name__)
        ]
    unlisted = (types.ModuleType, TypeVar)
    return [name for name in names if not isinstance(getattr(module, name), unlisted)]


# -- what the pages hold -------------------------------------------------------------


class Directive(NamedTuple):
    """One directive of a page: `.. kind:: argument`, its options, its lines."""

    kind: str
    argument: str
    options: dict[str, str]
    lines: list[str]


def directives(text: str) -> Iterator[Directive]:
    for match in re.finditer(r"^\.\. (\w+):: ?(\S*)\n((?:(?: .*)?\n)*)", text, re.M):
        body = match[3].rstrip() + "\n"
        options = re.findall(r"^   :([\w-]+):((?:.*\n(?:    .*\n)*))", body, re.M)
        yield Directive(
            match[1],
            match[2],
            {name: " ".join(value.split()) for name, value in options},
            re.findall(r"^   ([\w.]+)$", body, re.M),
        )


def entries(text: str) -> Iterator[str]:
    """The full names of what a page describes."""
    module = ""
    for directive in directives(text):
        if directive.kind == "currentmodule":
            module = directive.argument
        elif directive.kind == "autosummary":
            yield from (f"{module}.{name}" for name in directive.lines)
        elif directive.kind == "automodule":
            names = members(directive.argument, directive.options)
            yield from (f"{directive.argument}.{name}" for name in names)
        elif directive.kind.startswith("auto"):
            yield directive.argument


def members(name: str, options: dict[str, str]) -> list[str]:
    """What `automodule` describes: names with a docstring, those given or all."""
    module = importlib.import_module(name)
    constants = constants_with_docstring(module)
    given = options.get("members")
    if given is None:
        return []
    if given:
        names = listed(given)
    elif hasattr(module, "__all__"):
        names = module.__all__
    else:
        names = [
            name
            for name, value in vars(module).items()
            if home(value) == module.__name__
            or name in constants
            or "imported-members" in options
        ]
    excluded = listed(options.get("exclude-members", ""))
    return [
        name
        for name in names
        if not name.startswith("_")
        and name not in excluded
        and (name in constants or has_docstring(getattr(module, name)))
    ]


def listed(option: str) -> list[str]:
    return option.replace(",", " ").split()


def has_docstring(value: Any) -> bool:
    """Whether `automodule` finds a docstring: that of a class or a function."""
    is_constant = not (inspect.isclass(value) or inspect.isroutine(value))
    return not is_constant and bool(value.__doc__)


def constants_with_docstring(module: types.ModuleType) -> set[str]:
    """The constants of a module that are followed by a docstring."""
    body = ast.parse(inspect.getsource(module)).body
    return {
        target.id
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def find(full_name: str) -> Any:
    """The object with a name such as `linsey.linen.module.Scope`."""
    parts = full_name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if is_module(module := ".".join(parts[:length])):
            value: Any = importlib.import_module(module)
            for part in parts[length:]:
                value = getattr(value, part)
            return value
    raise ImportError(full_name)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def described() -> dict[str, list[Any]]:
    """What the entries describe, by the last part of their names."""
    found: dict[str, list[Any]] = {}
    for page in PAGES:
        for entry in entries(page.read_text()):
            found.setdefault(entry.rpartition(".")[2], []).append(find(entry))
    return found


@pytest.mark.parametrize("name", list(public_modules(linsey)))
def test_every_public_name_has_an_entry(name, described):
    module = importlib.import_module(name)
    missing = [
        public
        for public in public_names(module)
        if getattr(module, public) not in described.get(public, [])
    ]
    assert not missing


def test_no_module_is_described_twice():
    """Sphinx warns of it, and the same name could say two things."""
    modules = [
        directive.argument
        for page in PAGES
        for directive in directives(page.read_text())
        if directive.kind == "automodule"
    ]
    assert sorted(set(modules)) == sorted(modules)
