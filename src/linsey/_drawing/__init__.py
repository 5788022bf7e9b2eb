"""Random initial values, drawn by only a few compiled programs.

`draw` runs an initializer. Outside of a trace, it draws in chunks, with programs that
serve every shape (`eager`). Inside `collected`, which `Module.init` uses, all arrays
are drawn together by a few loops (`traced`). How an initializer draws is read from its
program (`recipes`). In all other cases, and if an initializer is not from JAX, it runs
unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from linsey._drawing import eager, filled, recipes, traced
from linsey._drawing.recipes import Recipe
from linsey._drawing.traced import collected as collected
from linsey.core.rng import LazyRng

HOME = "jax._src.nn.initializers"
"""The module whose initializers depend on nothing but their arguments."""
WRAPPERS = {"linsey.core.meta", "linsey.linen.linear.dense"}
"""Modules whose wrappers are pure if the initializer that they wrap is."""

FILLED: dict[Any, Callable[..., jax.Array]] = {
    jax.nn.initializers.zeros: filled.zeros,
    jax.nn.initializers.ones: filled.ones,
}


def draw(
    init_fn: Callable[..., Any],
    key: LazyRng | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Return the value of `init_fn(key, *args, **kwargs)`, equal in every bit.

    Args:
        init_fn: an initializer.
        key: its key, or `None` if it takes none.
        args: its other arguments, such as a shape and a dtype.
        kwargs: its keyword arguments.
    """
    if key is None:
        fill = FILLED.get(init_fn)
        if fill is None or len(args) != 2 or kwargs:
            return init_fn(None, *args, **kwargs)
        return fill(*args)
    if _is_pure(init_fn) and _is_threefry(key.rng):
        collector = traced.collector_of(key.rng)
        recipe = None
        if collector is not None or eager.is_on_one_cpu(key.rng):
            recipe = _recipe(init_fn, key.rng, args, kwargs)
        if recipe is not None:
            if collector is not None:
                return collector.draw(recipe, key)
            return eager.draw_now(recipe, key.as_jax_rng())
    return init_fn(key.as_jax_rng(), *args, **kwargs)


def _is_pure(init_fn: Any) -> bool:
    """Return whether an initializer is known to depend only on its arguments."""
    # `__module__` does not tell: `functools.wraps` copies it to functions of users.
    name = getattr(init_fn, "__globals__", {}).get("__name__")
    return name == HOME or (
        name in WRAPPERS and _is_pure(getattr(init_fn, "__wrapped__", None))
    )


def _recipe(
    init_fn: Callable[..., Any],
    key: jax.Array,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Recipe | None:
    x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    given = tuple(args), tuple(kwargs.items())
    with contextlib.suppress(TypeError):  # unhashable arguments
        return recipes.recipe(init_fn, (key.shape, key.dtype), *given, x64)
    return None


def _is_threefry(key: jax.Array) -> bool:
    """Return whether a key is a threefry key and no mesh is set."""
    config: Any = jax.config
    impl = config.jax_default_prng_impl
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(key))
    return (
        impl == "threefry2x32"
        and config.jax_threefry_partitionable
        and jax.sharding.get_abstract_mesh().empty
    )
