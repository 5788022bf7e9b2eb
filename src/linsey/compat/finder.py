"""The finder: `import flax` and what is under it is found in linsey."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType

from linsey.compat import brought, private
from linsey.compat.aliases import Alias
from linsey.compat.metadata import distributions
from linsey.compat.packages import is_served, own_name, refusal
from linsey.compat.real import RealFlax, is_real


def take_out() -> dict[str, ModuleType]:
    """Remove the served packages from `sys.modules` and return what was there."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if is_served(name)}


class Loader(importlib.abc.Loader):
    """Makes the alias of a module of linsey."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import linsey's module, and make one that shows it."""
        own = own_name(spec.name)
        assert own is not None
        target = importlib.import_module(own)
        if own != "linsey":  # which loads nothing, not even JAX
            private.add_methods()
            brought.lend()
        return Alias(spec.name, target)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: linsey's module has run."""


class RealLoader(importlib.abc.Loader):
    """Takes a module of NNX from the Flax that is installed."""

    def __init__(self, real: RealFlax) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the real module, beside linsey's."""
        module = self.real.load(spec.name)
        # The import system is about to set the spec by which it was found here.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; it has run."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


class Finder(importlib.abc.MetaPathFinder):
    """Finds the served packages and their submodules in linsey.

    Args:
        set_aside: the real modules that were imported before.
        misuse: the flag `misuse` as it was before.
    """

    def __init__(self, set_aside: dict[str, ModuleType], misuse: str) -> None:
        self.real = RealFlax(set_aside)
        self.misuse = misuse

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """Find a module of a served package.

        Raises:
            ModuleNotFoundError: linsey offers no such module.
        """
        if not is_served(fullname) or self.real.is_loading():
            return None
        if is_real(fullname) and self.real.is_available():
            return ModuleSpec(fullname, RealLoader(self.real))
        found = _find(fullname)
        if found is None:
            # With a `name`, `from flax import x` would replace the sentence.
            raise ModuleNotFoundError(refusal(fullname))
        folders = found.submodule_search_locations
        is_package = folders is not None
        spec = ModuleSpec(
            fullname, Loader(), origin=found.origin, is_package=is_package
        )
        spec.has_location = found.origin is not None
        if folders is not None:
            spec.submodule_search_locations = list(folders)
        return spec

    def find_distributions(
        self, context: object = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """List the distributions of the served packages."""
        return distributions(getattr(context, "name", None))


def _find(name: str) -> ModuleSpec | None:
    """Return the spec of linsey's module for another, `None` if it has none."""
    own = own_name(name)
    if own is None:
        return None
    try:
        return importlib.util.find_spec(own)
    except ModuleNotFoundError:  # the package it would be in
        return None
    except ValueError:  # imported, under a name that no file has any more
        return ModuleSpec(own, None)
