"""`flax.nnx` of an installed Flax, alongside linsey's Linen.

NNX is a different library in the same package. If Flax is installed, `flax.nnx` is the
real one, which imports its own `flax.core`, `flax.struct` and so on; these have the
same names as the aliases of linsey. So both sets of modules exist, and `sys.modules`
holds the real ones only while code of the real Flax runs an import, be it when a module
is loaded or later inside a function.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.abc
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def is_real(name: str) -> bool:
    """Return whether a module is taken from the real Flax, if that is installed."""
    return name == "flax.nnx" or name.startswith("flax.nnx.")


def _is_flax(name: str) -> bool:
    return name == "flax" or name.startswith("flax.")


class RealFlax:
    """The modules of the installed Flax.

    Args:
        modules: the real modules of the served packages that were imported earlier.
    """

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.modules = modules
        self._lock = threading.RLock()
        self._depth = 0
        self._available: bool | None = None

    def is_loading(self) -> bool:
        """Return whether `sys.modules` holds the real modules now."""
        return self._depth > 0

    def is_available(self) -> bool:
        """Return whether Flax is installed."""
        if "flax" in self.modules:
            # No swap here: it would put NNX back into `sys.modules` while the import
            # system is still looking for it, which would run the module twice.
            return True
        if self._available is None:
            try:
                with self._swapped():
                    self._available = _find("flax") is not None
            except ImportError:  # raised by a finder that refuses the name
                self._available = False
        return self._available

    def load(self, name: str) -> ModuleType:
        """Import a real module."""
        with self._swapped():
            return importlib.import_module(name)

    @contextlib.contextmanager
    def _swapped(self) -> Iterator[None]:
        """Put the real modules into `sys.modules` in place of linsey's."""
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            aliases = _take_out()
            sys.modules.update({n: m for n, m in self.modules.items() if _is_flax(n)})
            finder = _RealFinder(self._import)
            sys.meta_path.insert(0, finder)
            try:
                yield
            finally:
                sys.meta_path.remove(finder)
                loaded = _take_out()
                self.modules.update(loaded)
                sys.modules.update(aliases)
                # Both worlds see the same NNX: pickles look for it there.
                sys.modules.update({n: m for n, m in loaded.items() if is_real(n)})
                self._depth -= 1

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Import a module for code of the real Flax, as its `__import__`."""
        if level == 0 and not _is_flax(name):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = self.modules.get(name) if level == 0 else None
        if found is not None and all(hasattr(found, n) for n in fromlist or ()):
            return found if fromlist else self.modules["flax"]
        with self._swapped():
            return builtins.__import__(name, globals, locals, fromlist or (), level)


def _take_out() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in [*sys.modules] if _is_flax(name)}


def _find(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Find a module with the other finders."""
    for finder in sys.meta_path:
        if isinstance(finder, _RealFinder) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


class _RealFinder(importlib.abc.MetaPathFinder):
    """Finder of real Flax modules, which gives them their own `__import__`."""

    def __init__(self, import_: object) -> None:
        self.import_ = import_

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        spec = _find(fullname, path, target) if _is_flax(fullname) else None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _WithImport(spec.loader, self.import_)
        return spec


class _WithImport(importlib.abc.Loader):
    """A loader whose modules import with a given function."""

    def __init__(self, loader: Any, import_: object) -> None:
        self.loader = loader
        self.import_ = import_

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Functions look up `__import__` in the builtins of their own module.
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self.import_}
        self.loader.exec_module(module)
