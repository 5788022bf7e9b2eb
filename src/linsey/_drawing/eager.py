"""Random initial values of any shape, drawn outside of a trace.

For each shape, XLA compiles a new program that draws random numbers, which takes longer
than drawing them (`benchmarks/first_step.py`). Here arrays are drawn in chunks of a
fixed size, by programs that take the position as an input and serve every shape. The
values are the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from linsey._drawing.recipes import Recipe

CHUNKS = 2**12, 2**16
"""Entries that are drawn at once, of small and of large arrays."""
LARGE = 2**14


def draw_now(recipe: Recipe, key: jax.Array) -> Any:
    """Run an initializer with a key, in chunks if that is possible."""
    return jax.tree_util.tree_unflatten(recipe.structure, [array_now(recipe, key)])


def array_now(recipe: Recipe, key: jax.Array) -> jax.Array:
    """Draw the array in the result of an initializer."""
    n = recipe.size
    size = CHUNKS[n > LARGE]
    parts = recipe.parts(size) if is_on_one_cpu(key) else None
    if parts is None:
        return recipe.array(key)
    inputs = [*parts.keys(key), *parts.constants]
    values = _aligned(n, recipe.dtype)
    for start in range(0, n, size):
        chunk = parts.part(np.uint32(start), inputs)
        if isinstance(chunk, jax.core.Tracer):  # a constant key inside a trace
            return recipe.array(key)
        values[start : start + size] = np.asarray(chunk)[: n - start]
    return jax.device_put(values.reshape(recipe.shape), may_alias=True)


def is_on_one_cpu(key: jax.Array) -> bool:
    """Return whether a key is concrete, and everything is on one CPU."""
    if not isinstance(key, jax.Array) or isinstance(key, jax.core.Tracer):
        return False
    config: Any = jax.config
    device, *others = key.devices()
    free = not (others or key.committed or config.jax_default_device)
    return free and device.platform == "cpu"


def _aligned(n: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array, in memory that XLA can use without a copy."""
    n_bytes = n * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + n_bytes].view(dtype)
