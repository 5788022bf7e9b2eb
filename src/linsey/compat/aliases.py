"""The modules that programs import: `flax.linen` as an alias of `linsey.linen`.

An *alias* shows the names of a linsey module. It reads them on demand and forwards
assignments, so that patching `flax.linen.X` patches linsey. It also has the private
names of `private.py`, which linsey's module lacks. Classes and functions are looked up
once and kept; values that may change are read again at each access.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from linsey.compat import borrowed, private
from linsey.compat.packages import PACKAGES, alias_of, own_name, refusal

MISSING = "missing"

used: dict[str, str] = {}
"""Names that the program has used, each with the adapter that provides it: '' if linsey
has the name itself, `MISSING` if it does not."""

# The real dictionary of a module; the `__dict__` of an alias shows linsey's names.
_dict_of: Callable[[ModuleType], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__


class Alias(ModuleType):
    """A module of a served package that shows the names of a linsey module."""

    def __init__(self, name: str, target: ModuleType) -> None:
        super().__init__(name, target.__doc__)
        own = _dict_of(self)
        own["_target"] = target
        for key in ("__file__", "__path__"):
            if hasattr(target, key):
                own[key] = getattr(target, key)
        package = PACKAGES[name.partition(".")[0]]
        if name.count(".") == 0 or name.endswith(".version"):
            own["__version__"] = package.version

    @property
    def __dict__(self) -> dict[str, Any]:
        own = _dict_of(self)
        names = vars(own["_target"])
        return {**{k: v for k, v in names.items() if not _is_private(k)}, **own}

    def __dir__(self) -> list[str]:
        hidden = PACKAGES[self.__name__].hidden if "." not in self.__name__ else ()
        names = dir(_dict_of(self)["_target"])
        offered = [n for n in names if not _is_private(n) and n not in hidden]
        return sorted({*offered, *private.names_in(self.__name__)})

    def __reduce__(self) -> tuple[Any, ...]:
        # For cloudpickle: functions of a script refer to the modules they use.
        return _restore, (self.__name__,)

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are not in the real dictionary.
        full = f"{self.__name__}.{name}"
        adapter = private.find(full)
        try:
            value = self._read(name) if adapter is None else private.load(adapter)
        except AttributeError:
            if not name.startswith("__"):
                used.setdefault(full, MISSING)
            raise
        if not (name.startswith("__") and name.endswith("__")):
            if not isinstance(value, ModuleType):
                used.setdefault(full, adapter or "")
            if callable(value) or isinstance(value, Alias):
                _dict_of(self)[name] = value
        return value

    def _read(self, name: str) -> Any:
        full = f"{self.__name__}.{name}"
        if "." not in self.__name__ and own_name(full) is None:
            raise AttributeError(refusal(full), name=name, obj=self)
        target = _dict_of(self)["_target"]
        if _is_private(name) or not hasattr(target, name):
            return self._read_module(full, name)
        value = getattr(target, name)
        if isinstance(value, ModuleType):
            root = self.__name__.partition(".")[0]
            alias = alias_of(value.__name__, root)
            return value if alias is None else importlib.import_module(alias)
        return value

    def _read_module(self, full: str, name: str) -> Any:
        """Return a submodule, or a name that the Flax module merely imports."""
        is_root = "." not in self.__name__
        if "__path__" in _dict_of(self) and not name.startswith("_"):
            try:
                return importlib.import_module(full)
            except ImportError:
                if is_root:
                    text = refusal(full)
                    raise AttributeError(text, name=name, obj=self) from None
        try:
            return borrowed.find(self.__name__, name)
        except LookupError:
            pass
        text = f"module {self.__name__!r} has no attribute {name!r}"
        if _is_private(name):
            text += (
                ". It is a private name of Flax; linsey offers those in "
                "`linsey.compat.private.PRIVATE`"
            )
        raise AttributeError(text, name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> None:
        own = _dict_of(self)
        is_module = isinstance(value, ModuleType) and f"{self.__name__}.{name}" == (
            value.__name__
        )
        if (
            name.startswith("__")
            or is_module
            or private.find(f"{self.__name__}.{name}")
        ):
            own[name] = value
        else:
            own.pop(name, None)
            setattr(own["_target"], name, value)

    def __delattr__(self, name: str) -> None:
        own = _dict_of(self)
        kept = own.pop(name, None)
        if kept is None or name in vars(own["_target"]):
            delattr(own["_target"], name)


def _restore(name: str) -> ModuleType:
    """Import an alias, or linsey's module if this process has no aliases."""
    home = f"{__package__}.finder"  # which imports this file
    is_installed = any(type(finder).__module__ == home for finder in sys.meta_path)
    return importlib.import_module(name if is_installed else own_name(name) or name)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
