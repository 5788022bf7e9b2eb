"""linsey: neural networks for JAX, two faces on one state core.

- `linsey.linen`: modules whose variables travel outside them.
- `linsey.treex`: modules that are pytrees and carry their variables.
- `linsey.optim`: the classic `Optimizer` API.

Submodules are imported when they are first asked for, so that `import linsey` is cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from linsey.version import __version__

_SUBMODULES = {m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != "_"}

# Every public submodule; a test compares the list with the files. `app` is the command.
__all__ = [
    "__version__",
    "compat",
    "config",
    "configurations",
    "core",
    "cursor",
    "errors",
    "ids",
    "io",
    "jax_utils",
    "linen",
    "metrics",
    "ops",
    "optim",
    "serialization",
    "struct",
    "traceback_util",
    "training",
    "traverse_util",
    "treex",
    "typing",
    "version",
]

if TYPE_CHECKING:
    from linsey import (
        compat,
        config,
        configurations,
        core,
        cursor,
        errors,
        ids,
        io,
        jax_utils,
        linen,
        metrics,
        ops,
        optim,
        serialization,
        struct,
        traceback_util,
        training,
        traverse_util,
        treex,
        typing,
        version,
    )
else:

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return importlib.import_module(f"linsey.{name}")
        raise AttributeError(f"module 'linsey' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
