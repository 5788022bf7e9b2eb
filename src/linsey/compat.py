"""Programs that import Flax, run on linsey.

After `install()`, `import flax` and the modules of its Linen side yield linsey's
modules, in this process and for every library in it, whether or not Flax is installed.
It works by a finder in `sys.meta_path`, which `uninstall()` removes again. Nothing is
active until `install()` is called, by a program or by `linsey run SCRIPT`.

Example:
    >>> import linsey.compat
    >>> linsey.compat.install()
    >>> import flax.linen
    >>> flax.linen.Dense.__module__
    'linsey.linen.linear.dense'
    >>> linsey.compat.uninstall()
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

__all__ = ["FLAX_VERSION", "install", "is_installed", "uninstall"]

FLAX_VERSION = "0.12.8"
"""The version of Flax whose Linen side linsey offers."""

# What is linsey's own and no part of Flax.
_OWN = frozenset({"__main__", "app", "compat", "ops", "treex"})


def install() -> None:
    """Make `import flax` yield linsey; modules of Flax imported before are set aside.

    Objects that a program already holds of the real Flax stay what they are, so call
    this before the program's own imports. A second call does nothing.
    """
    if is_installed():
        return
    finder = _Finder(_take_out())
    sys.meta_path.insert(0, finder)


def uninstall() -> None:
    """Make `import flax` find the real Flax again, if it is installed."""
    for finder in [f for f in sys.meta_path if isinstance(f, _Finder)]:
        sys.meta_path.remove(finder)
        _take_out()
        sys.modules.update(finder.set_aside)


def is_installed() -> bool:
    """Return whether `import flax` yields linsey now."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def _take_out() -> dict[str, ModuleType]:
    names = [n for n in sys.modules if n == "flax" or n.startswith("flax.")]
    return {name: sys.modules.pop(name) for name in names}


class _Package(ModuleType):
    """The module `flax`: its attributes are linsey's."""

    __version__ = FLAX_VERSION

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not there: submodules that are not yet imported.
        if name.startswith("__") or name in _OWN or _find("flax." + name) is None:
            raise AttributeError(_sentence(f"flax.{name}"), name=name, obj=self)
        return importlib.import_module(f"flax.{name}")


class _Loader(importlib.abc.Loader):
    """Loads the module of linsey for one of Flax."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == "flax":
            return _Package("flax", "Flax's Linen side, by linsey.")
        module = importlib.import_module(_own_name(spec.name))
        # The import system is about to set the name it was asked for.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None and module.__name__ != "flax":
            module.__spec__ = module.__spec__.loader_state


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `flax` and its submodules in linsey."""

    def __init__(self, set_aside: dict[str, ModuleType]):
        self.set_aside = set_aside

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if fullname == "flax":
            return ModuleSpec("flax", _Loader(), is_package=True)
        if not fullname.startswith("flax."):
            return None
        found = _find(fullname)
        if found is None:
            raise ImportError(_sentence(fullname), name=fullname)
        package = found.submodule_search_locations is not None
        return ModuleSpec(fullname, _Loader(), is_package=package)

    def find_distributions(
        self, context: object = None
    ) -> Iterable[importlib.metadata.Distribution]:
        name = getattr(context, "name", None)
        return [_Distribution()] if name in (None, "flax") else []


class _Distribution(importlib.metadata.Distribution):
    """What `importlib.metadata.version("flax")` reads."""

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: flax\nVersion: {FLAX_VERSION}\n"
        return None

    def locate_file(self, path: object) -> NoReturn:
        raise FileNotFoundError(path)


def _own_name(name: str) -> str:
    return "linsey" + name.removeprefix("flax")


def _find(name: str) -> ModuleSpec | None:
    """Return the spec of linsey's module for one of Flax, `None` if it has none."""
    if name.split(".")[1] in _OWN:
        return None
    try:
        return importlib.util.find_spec(_own_name(name))
    except ModuleNotFoundError:  # the package it would be in
        return None


def _sentence(name: str) -> str:
    reason = (
        "NNX is another library than Linen" if name.startswith("flax.nnx") else
        "no module of that name is on the Linen side of Flax as linsey offers it"
    )  # fmt: skip
    return (
        f"linsey does not offer `{name}`: {reason}. Install Flax and run the program"
        " without `linsey run` or `linsey.compat.install()` if it needs it."
    )
