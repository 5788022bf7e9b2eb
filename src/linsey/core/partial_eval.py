"""Computing the part of a function that does not depend on its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from linsey import errors

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr

T = TypeVar("T")


def evaluate_known(
    fn: Callable[..., T],
    on_unknown: Callable[[jax.ShapeDtypeStruct], Exception] = errors.LazyInitError,
) -> Callable[..., T]:
    """Evaluate `fn` for abstract arguments, on which its results must not depend.

    The results may depend on arguments that are arrays, because these have values.

    Args:
        fn: a function of arrays. It is traced once.
        on_unknown: makes the exception for a result that depends on an argument.

    Returns:
        A function of arrays or `ShapeDtypeStruct`s that gives the results of `fn`. Only
        the operations that the results need are executed, also inside compiled
        functions, loops and branches.
    """

    def wrapper(*args: object, **kwargs: object) -> T:
        from jax.extend import core as jex_core  # slow to import, rarely needed

        leaves, tree = jax.tree_util.tree_flatten((args, kwargs))
        abstract = {
            i: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for i, x in enumerate(leaves)
            if hasattr(x, "shape") and hasattr(x, "dtype") and not _is_array(x)
        }

        def of_arrays(arrays: dict[int, jax.Array]) -> T:
            inputs = [arrays.get(i, x) for i, x in enumerate(leaves)]
            args, kwargs = jax.tree_util.tree_unflatten(tree, inputs)
            return fn(*args, **kwargs)

        closed, out_shape = jax.make_jaxpr(of_arrays, return_shape=True)(abstract)
        shapes, out_tree = jax.tree_util.tree_flatten(out_shape)
        jaxpr = _without_unneeded(closed.jaxpr)
        pruned, is_used = dce_jaxpr(jaxpr, [True] * len(shapes))
        if any(is_used):
            raise on_unknown(_first_unknown(jaxpr, shapes))
        program = jex_core.ClosedJaxpr(pruned, closed.consts)
        return jax.tree_util.tree_unflatten(out_tree, jex_core.jaxpr_as_fun(program)())

    return wrapper


def _is_array(value: object) -> bool:
    """Return whether a value is an array or a NumPy scalar."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def lazy_init(fn: Callable[..., T]) -> Callable[..., T]:
    """Evaluate a function of abstract arguments; see `evaluate_known`."""
    return evaluate_known(fn)


def _without_unneeded(jaxpr: Jaxpr) -> Jaxpr:
    """Drop equations that no result needs, including effects such as debug prints."""
    # Only literals have a `val`; they are not computed.
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if not hasattr(v, "val"))
            eqns.append(eqn)
    return jaxpr.replace(eqns=eqns[::-1])


def _first_unknown(
    jaxpr: Jaxpr, shapes: list[jax.ShapeDtypeStruct]
) -> jax.ShapeDtypeStruct:
    """Return the shape of the first result that depends on an argument."""
    numbers = range(len(shapes))
    used_by = (dce_jaxpr(jaxpr, [k == i for k in numbers])[1] for i in numbers)
    return next(shape for shape, used in zip(shapes, used_by, strict=True) if any(used))
