"""`treex.utils._check_rejit`, which explains why a function is traced again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")


def check_rejit(f: Callable[P, T]) -> Callable[P, T]:
    """Warn when a function is traced again, and say which arguments differ.

    Use it as a decorator below `jax.jit`, where the function runs once for each trace.

    Example:
        >>> import jax.numpy as jnp
        >>> step = jax.jit(check_rejit(lambda x: x + 1))
        >>> step(jnp.ones(2)), step(jnp.zeros(2))
        (Array([2., 2.], dtype=float32), Array([1., 1.], dtype=float32))
    """
    first: list[dict[str, str]] = []

    @functools.wraps(f)
    def traced(*args: P.args, **kwargs: P.kwargs) -> T:
        found = _describe((args, kwargs))
        if not first:
            first.append(found)
        elif found != first[0]:
            names = [
                n for n in {**first[0], **found} if first[0].get(n) != found.get(n)
            ]
            lines = [f"{n}: {first[0].get(n)} -> {found.get(n)}" for n in names]
            warnings.warn(
                f"`{getattr(f, '__name__', f)}` is traced again, because its arguments "
                "differ from those of the first call:\n" + "\n".join(lines),
                stacklevel=2,
            )
        return f(*args, **kwargs)

    return traced


def _describe(tree: Any) -> dict[str, str]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    found = {
        jax.tree_util.keystr(path): jax.typeof(leaf).str_short()
        if hasattr(leaf, "dtype")
        else repr(leaf)
        for path, leaf in leaves
    }
    return {**found, "structure": str(structure)}
