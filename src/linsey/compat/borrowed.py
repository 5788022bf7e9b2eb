"""Names that a Flax module has only because it uses them, such as `linen.linear.jnp`.

Programs import types and even third-party modules from there: `from
flax.linen.normalization import Array, Axes`. The aliases of such modules look these
names up in linsey, the standard library and JAX.
"""

from __future__ import annotations

import importlib
from typing import Any

# Packages, which declare all of their names and borrow none.
_PACKAGES = {
    "flax",
    "flax.core",
    "flax.core.nn",
    "flax.errors",
    "flax.linen",
    "flax.linen.experimental",
    "flax.metrics",
    "flax.training",
    "flax.version",
}

_MODULES = {
    "core": "jax.core",
    "flax": "flax",
    "jnp": "jax.numpy",
    "jtu": "jax.tree_util",
    "linen_module": "flax.linen.module",
    "logging": "logging",
    "lu": "jax.extend.linear_util",
    "module_lib": "flax.linen.module",
    "nn": "flax.linen",
    "np": "numpy",
    "ocp": "orbax.checkpoint",
    "pe": "jax.interpreters.partial_eval",
    "random": "jax.random",
    "tpe": "typing_extensions",
}
"""Modules that are imported under a name other than their own."""

_OF_JAX = ("lax", "tree_util", "monitoring", "dtypes")
_OF_FLAX = (
    "axes_scan config errors ids io jax_utils lift meta module partial_eval"
    " serialization spmd struct tracers traceback_util transforms traverse_util"
    " initializers kw_only_dataclasses activation dtypes"
).split()
_PLAIN = (
    "abc collections concurrent contextlib dataclasses enum functools hashlib inspect"
    " io itertools jax msgpack numpy optax os re rich sys threading time typing"
    " warnings weakref yaml"
).split()

# Where names are looked for, in this order.
_OWNERS = (
    "linsey.typing",
    "linsey.core",
    "linsey.core.scope",
    "linsey.core.filters",
    "linsey.linen.module",
    "linsey.linen.dtypes",
    "linsey.linen.initializers",
    "linsey.linen",
    "linsey.linen.module.functional",
    "linsey.ids",
    "linsey.errors",
    "typing",
    "collections.abc",
    "dataclasses",
    "functools",
    "contextlib",
    "types",
    "enum",
    "abc",
    "jax",
    "jax.core",
)


def find(module: str, name: str) -> Any:
    """Return the object that a Flax module uses under a name.

    Raises:
        LookupError: the module uses nothing under that name.
    """
    if module in _PACKAGES or not module.startswith("flax.") or name.startswith("_"):
        raise LookupError(name)
    if name == "PyTree":
        return Any
    for path in _candidates(module, name):
        try:
            return importlib.import_module(path)
        except ImportError:
            continue
    for owner in _OWNERS:
        found = getattr(importlib.import_module(owner), name, LookupError)
        if found is not LookupError:
            return found
    raise LookupError(name)


def _candidates(module: str, name: str) -> list[str]:
    """List the modules that a name may stand for."""
    paths = []
    if name == "core" and module.startswith(("flax.linen", "flax.training")):
        paths.append("flax.core")
    if name == "config":
        paths.append("flax.configurations")
    elif name in _OF_FLAX and not (name == "io" and "." in module[5:]):
        paths += [f"flax.{name}", f"flax.core.{name}", f"flax.linen.{name}"]
    if name in _MODULES:
        paths.append(_MODULES[name])
    if name in _OF_JAX:
        paths.append(f"jax.{name}")
    if name in _PLAIN:
        paths.append(name)
    return paths
