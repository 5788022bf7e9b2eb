"""Modules of other packages that Flax imports, so that programs do not have to.

After `import flax.training.checkpoints`, a plain `import orbax` makes
`orbax.checkpoint` available, since Flax has imported it. linsey imports such modules
late or not at all, so while the aliases are installed, a submodule is imported when it
is first accessed as an attribute of its package.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

BROUGHT = {
    "orbax": "checkpoint",
    "jax.experimental": "array_serialization layout multihost_utils pjit shard_map",
    "jax.scipy": "special stats",
}
"""The names of submodules, by package."""

_before: dict[str, Any] = {}  # the `__getattr__` of a package that was changed


def lend() -> None:
    """Make the packages import these submodules on first access."""
    for package, names in BROUGHT.items():
        if package not in _before and importlib.util.find_spec(package) is not None:
            module = importlib.import_module(package)
            _before[package] = vars(module).get("__getattr__")
            vars(module)["__getattr__"] = _getter(
                module, frozenset(names.split()), _before[package]
            )


def take_back() -> None:
    """Restore the packages to their original state."""
    for package, getter in _before.items():
        module = importlib.import_module(package)
        if getter is None:
            vars(module).pop("__getattr__", None)
        else:
            vars(module)["__getattr__"] = getter
    _before.clear()


def _getter(
    module: ModuleType, names: frozenset[str], before: Callable[[str], Any] | None
) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        if name in names:
            return importlib.import_module(f"{module.__name__}.{name}")
        if before is not None:
            return before(name)
        text = f"module {module.__name__!r} has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=module)

    return get
