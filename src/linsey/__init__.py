"""linsey: neural networks for JAX, two faces on one state core.

- `linsey.linen`: modules whose variables travel outside them.
- `linsey.treex`: modules that are pytrees and carry their variables.
- `linsey.optim`: the classic `Optimizer` API.
- `linsey.fit`: the command `linsey train` as a function.
- `linsey.load`: loads a model that the command `linsey train` has trained.

Submodules are imported on first access, so that `import linsey` is cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from linsey.version import __version__ as __version__

_SUBMODULES = {m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != "_"}

_COMMAND = {"app"}  # the implementation of the command `linsey`, which users run
# The functions of the command in Python, and their modules.
_FUNCTIONS = {"fit": "linsey.app.fit", "load": "linsey.app.predictor"}

if TYPE_CHECKING:
    from linsey import batch_stats as batch_stats
    from linsey import checkpoint as checkpoint
    from linsey import compat as compat
    from linsey import config as config
    from linsey import configurations as configurations
    from linsey import core as core
    from linsey import cursor as cursor
    from linsey import datasets as datasets
    from linsey import distributed as distributed
    from linsey import errors as errors
    from linsey import extras as extras
    from linsey import files as files
    from linsey import fine_tuning as fine_tuning
    from linsey import ids as ids
    from linsey import interop as interop
    from linsey import io as io
    from linsey import jax_utils as jax_utils
    from linsey import linen as linen
    from linsey import metrics as metrics
    from linsey import models as models
    from linsey import msgpack_format as msgpack_format
    from linsey import ops as ops
    from linsey import optim as optim
    from linsey import promotion as promotion
    from linsey import schema as schema
    from linsey import serialization as serialization
    from linsey import specs as specs
    from linsey import struct as struct
    from linsey import traceback_util as traceback_util
    from linsey import training as training
    from linsey import traverse_util as traverse_util
    from linsey import treex as treex
    from linsey import typing as typing
    from linsey import version as version
    from linsey import weights as weights
    from linsey.app.fit import fit as fit
    from linsey.app.predictor import load as load
else:
    __all__ = ["__version__", *sorted({*_SUBMODULES, *_FUNCTIONS} - _COMMAND)]

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return importlib.import_module(f"linsey.{name}")
        if name in _FUNCTIONS:
            return getattr(importlib.import_module(_FUNCTIONS[name]), name)
        raise AttributeError(f"module 'linsey' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_FUNCTIONS})
