"""The state core: variables, who may write them, random streams, lifted transforms.

`filters` selects collections, `rng` derives keys, `scope` is where functions stand,
`lift` transforms such functions, `meta` boxes values with axis names. The core knows no
modules and no layers.
"""

import importlib
from typing import Any

from linsey.core import (
    axes_scan,
    frozen_dict,
    lift,
    meta,
    partial_eval,
    scope,
    spmd,
    tracers,
)
from linsey.core.axes_scan import broadcast
from linsey.core.frozen_dict import (
    FrozenDict,
    copy,
    freeze,
    pop,
    pretty_repr,
    unfreeze,
)
from linsey.core.lift import (
    custom_vjp,
    jit,
    jvp,
    remat,
    remat_scan,
    scan,
    vjp,
    vmap,
    while_loop,
)
from linsey.core.meta import AxisMetadata, map_axis_meta, unbox
from linsey.core.scope import Array, DenyList, Scope, apply, bind, init, lazy_init
from linsey.core.tracers import check_trace_level, current_trace

__all__ = [
    "Array",
    "AxisMetadata",
    "DenyList",
    "FrozenDict",
    "Scope",
    "apply",
    "axes_scan",
    "bind",
    "broadcast",
    "check_trace_level",
    "copy",
    "current_trace",
    "custom_vjp",
    "freeze",
    "frozen_dict",
    "init",
    "jit",
    "jvp",
    "lazy_init",
    "lift",
    "map_axis_meta",
    "meta",
    "partial_eval",
    "pop",
    "pretty_repr",
    "remat",
    "remat_scan",
    "scan",
    "scope",
    "spmd",
    "tracers",
    "unbox",
    "unfreeze",
    "vjp",
    "vmap",
    "while_loop",
]


def __getattr__(name: str) -> Any:
    """Finds `nn`, which stands on the rest, when it is asked for."""
    if name == "nn":
        return importlib.import_module("linsey.core.nn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
