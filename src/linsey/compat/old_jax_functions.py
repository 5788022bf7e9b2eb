"""Implementations of removed JAX functions that have no direct counterpart today."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from linsey import jax_utils

NINF, PINF, NZERO, PZERO = -np.inf, np.inf, -0.0, 0.0
index = np.s_
not_mapped = None

NOW = {
    "NINF": "-jax.numpy.inf",
    "NZERO": "-0.0",
    "PINF": "jax.numpy.inf",
    "PZERO": "0.0",
    "asscalar": "x.item()",
    "device_put_replicated": "jax.device_put(x, sharding)",
    "device_put_sharded": "jax.device_put(jax.numpy.stack(shards), sharding)",
    "disable_x64": "jax.enable_x64(False)",
    "enable_x64": "jax.enable_x64(True)",
    "host_call": "jax.pure_callback",
    "host_ids": "range(jax.process_count())",
    "id_print": "jax.debug.print",
    "id_tap": "jax.debug.callback",
    "in1d": "jax.numpy.isin",
    "index": "numpy.s_",
    "index_add": "x.at[index].add(y)",
    "index_max": "x.at[index].max(y)",
    "index_min": "x.at[index].min(y)",
    "index_mul": "x.at[index].multiply(y)",
    "index_update": "x.at[index].set(y)",
    "mesh": "jax.sharding.Mesh",
    "msort": "jax.numpy.sort(x, axis=0)",
    "not_mapped": "None",
    "pvary": "jax.lax.pcast(x, axes, to='varying')",
    "raise_to_shaped": "the abstract value",
    "spmd_mode": "nothing",
    "tie_in": "y",
    "xla_computation": "jax.jit(f).lower(...).compiler_ir('hlo')",
}
"""What to write instead, for the message."""


def index_update(x: ArrayLike, idx: Any, y: ArrayLike, *_: Any, **__: Any) -> Array:
    """Replace entries."""
    return jnp.asarray(x).at[idx].set(y)


def index_add(x: ArrayLike, idx: Any, y: ArrayLike, *_: Any, **__: Any) -> Array:
    """Add to entries."""
    return jnp.asarray(x).at[idx].add(y)


def index_mul(x: ArrayLike, idx: Any, y: ArrayLike, *_: Any, **__: Any) -> Array:
    """Multiply entries."""
    return jnp.asarray(x).at[idx].multiply(y)


def index_min(x: ArrayLike, idx: Any, y: ArrayLike, *_: Any, **__: Any) -> Array:
    """Replace entries with their minimum with `y`."""
    return jnp.asarray(x).at[idx].min(y)


def index_max(x: ArrayLike, idx: Any, y: ArrayLike, *_: Any, **__: Any) -> Array:
    """Replace entries with their maximum with `y`."""
    return jnp.asarray(x).at[idx].max(y)


def in1d(
    ar1: ArrayLike, ar2: ArrayLike, assume_unique: bool = False, invert: bool = False
) -> Array:
    """Tell for each entry of the flattened `ar1` whether it is in `ar2`."""
    return jnp.isin(jnp.ravel(ar1), ar2, assume_unique=assume_unique, invert=invert)


def msort(a: ArrayLike) -> Array:
    """Sort along the first axis."""
    return jnp.sort(a, axis=0)


def asscalar(a: Any) -> Any:
    """Return the number in an array of size one."""
    return a.item()


def tie_in(x: Any, y: Any) -> Any:
    """Return the second argument: tracing no longer needs the first."""
    return y


def raise_to_shaped(aval: Any, weak_type: bool | None = None) -> Any:
    """Return the abstract value unchanged: today all of them have shapes."""
    return aval


def pvary(x: Any, axis_name: Any) -> Any:
    """Let a value vary over mapped axes."""
    return jax.lax.pcast(x, axis_name, to="varying")


def host_ids(backend: str | None = None) -> list[int]:
    """List the indices of the processes."""
    return list(range(jax.process_count(backend)))


def device_put_replicated(x: Any, devices: Sequence[jax.Device]) -> Any:
    """Put a copy on each device, stacked along a new first axis."""
    return jax_utils.replicate(x, list(devices))


def device_put_sharded(shards: Sequence[Any], devices: Sequence[jax.Device]) -> Any:
    """Put one shard on each device, stacked along a new first axis."""
    mesh = jax.sharding.Mesh(np.asarray(list(devices)), ("devices",))
    spec = jax.sharding.PartitionSpec("devices")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *shards)
    return jax.device_put(stacked, jax.sharding.NamedSharding(mesh, spec))


def mesh(devices: Any, axis_names: Any) -> jax.sharding.Mesh:
    """Make a mesh, which is a context manager."""
    return jax.sharding.Mesh(devices, axis_names)


def enable_x64(new_val: bool = True) -> Any:
    """Use 64-bit dtypes in a `with` block."""
    return jax.enable_x64(new_val)


def disable_x64() -> Any:
    """Use 32-bit dtypes in a `with` block."""
    return jax.enable_x64(False)


def spmd_mode(mode: str) -> contextlib.AbstractContextManager[None]:
    """Do nothing: every mode is allowed today."""
    return contextlib.nullcontext()


def id_print(x: Any, what: str = "", **_: Any) -> Any:
    """Print a value when the program runs, and return it."""
    jax.debug.callback(lambda value: print(*filter(None, [what]), value), x)
    return x


def id_tap(
    tap_func: Callable[..., Any], arg: Any, *, result: Any = None, **_: Any
) -> Any:
    """Call a function when the program runs, and return the value."""
    jax.debug.callback(lambda value: tap_func(value, ()), arg)
    return arg if result is None else result


def host_call(
    callback: Callable[..., Any], arg: Any, *, result_shape: Any = None, **_: Any
) -> Any:
    """Call a function on the host, and return its result."""
    if result_shape is None:
        jax.debug.callback(callback, arg)
        return None
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result_shape
    )
    return jax.pure_callback(callback, shapes, arg)


def xla_computation(fun: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function that lowers `fun` to HLO for given arguments."""
    static = options.get("static_argnums", ())

    def lower(*args: Any, **kwargs: Any) -> Any:
        lowered = jax.jit(fun, static_argnums=static).lower(*args, **kwargs)
        return lowered.compiler_ir("hlo")

    return lower
