"""The import finder that resolves `flax` and its submodules to linsey."""

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
    """Remove the served packages from `sys.modules` and return the removed modules."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if is_served(name)}


class Loader(importlib.abc.Loader):
    """Loader that creates the alias of a linsey module."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import linsey's module and return its alias."""
        own = own_name(spec.name)
        assert own is not None
        target = importlib.import_module(own)
        if own != "linsey":  # the package itself loads nothing, not even JAX
            private.add_methods()
            brought.lend()
        return Alias(spec.name, target)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: linsey's module has run already."""


class RealLoader(importlib.abc.Loader):
    """Loader that takes an NNX module from the installed Flax."""

    def __init__(self, real: RealFlax) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the real module in addition to linsey's."""
        module = self.real.load(spec.name)
        # The import system is about to replace the module's spec with this one.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; the module itself has run already."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


class Finder(importlib.abc.MetaPathFinder):
    """Finder that resolves the served packages and their submodules to linsey.

    Args:
        set_aside: the real modules that were imported earlier.
        misuse: the earlier value of the flag `misuse`.
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
            # With a `name`, `from flax import x` would replace this message.
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
    """Return the spec of the linsey module that stands for `name`, or `None`."""
    own = own_name(name)
    if own is None:
        return None
    try:
        return importlib.util.find_spec(own)
    except ModuleNotFoundError:  # its parent package does not exist
        return None
    except ValueError:  # imported already, under a name that no file has any more
        return ModuleSpec(own, None)
