"""The choice of the dtype in which a layer computes.

It is a given dtype, or that of the layer's inputs and parameters. Arrays that already
agree are returned unchanged: nothing is traced, and no promotion rule is looked up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.errors import OptionError
from linsey.promotion import promote_types, result_type
from linsey.typing import Dtype as Dtype
from linsey.typing import PromoteDtypeFn as PromoteDtypeFn


def canonicalize_dtype(
    *args: Any, dtype: Dtype | None = None, inexact: bool = True
) -> Dtype:
    """Choose the dtype of a computation.

    Args:
        *args: arrays, numbers or `None`; their common dtype is the default.
        dtype: the dtype to use. If `None`, it is inferred from the arguments.
        inexact: whether integers are promoted to floating point numbers.

    Returns:
        The dtype, as it was given or as a numpy dtype.

    Raises:
        OptionError: if `inexact` and `dtype` is neither floating point nor complex.
        ValueError: if there is nothing to infer the dtype from.

    Example:
        >>> canonicalize_dtype(jnp.ones(2, jnp.int8), None)
        dtype('float32')
        >>> canonicalize_dtype(jnp.ones(2, jnp.float16), dtype=jnp.complex64).__name__
        'complex64'
    """
    if dtype is None:
        dtype = _agreed_dtype(args)
        if dtype is None:
            lists = (list, tuple)
            values = (jnp.asarray(x) if isinstance(x, lists) else x for x in args)
            dtype = result_type(*(x for x in values if x is not None))
        if inexact and not _is_inexact(dtype):
            dtype = promote_types(jnp.float32, dtype)
    elif inexact and not _is_inexact(dtype):
        raise OptionError(
            f"Dtype must be inexact: {dtype}",
            "Layers divide, and integers cannot hold the result.",
            "Use `dtype=jnp.float32`, or `dtype=None` to infer it from the inputs.",
        )
    return dtype


def promote_dtype(
    *args: Any, dtype: Dtype | None = None, inexact: bool = True
) -> list[Any]:
    """Convert arrays to the dtype that `canonicalize_dtype` chooses for them.

    Args:
        *args: arrays, numbers or `None`.
        dtype: the dtype to use. If `None`, the dtype that all arguments promote to.
        inexact: whether integers are promoted to floating point numbers.

    Returns:
        The arguments in order, converted; `None` is returned as it is.

    Example:
        >>> x, bias = promote_dtype(jnp.ones(2, jnp.int8), None)
        >>> x.dtype, bias
        (dtype('float32'), None)
    """
    agreed = _agreed_dtype(args)
    if agreed is not None and dtype in (None, agreed):
        if not inexact or _is_inexact(agreed):
            return list(args)
    dtype = canonicalize_dtype(*args, dtype=dtype, inexact=inexact)
    return [None if x is None else _convert(x, dtype) for x in args]


def _agreed_dtype(args: tuple[Any, ...]) -> Any:
    """Return the dtype if all arguments are JAX arrays with the same strong dtype."""
    agreed = None
    for x in args:
        if x is None:
            continue
        aval = getattr(x, "aval", None)
        if aval is None or aval.weak_type:
            return None
        if agreed is None:
            agreed = aval.dtype
        elif aval.dtype != agreed:
            return None
    return agreed


def _convert(x: Any, dtype: Dtype) -> Array:
    if isinstance(x, Array):
        return lax.convert_element_type(x, dtype)
    return jnp.asarray(x, dtype)


@lru_cache
def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)
