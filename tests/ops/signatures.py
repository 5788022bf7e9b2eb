"""Signatures of the face of `linsey.ops`, and functions that enforce them."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jax
import jaxtyping


def resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, which imports jaxtyping for type checkers only."""
    plain = inspect.unwrap(function)
    return typing.get_type_hints(plain, {**vars(jaxtyping), **plain.__globals__})


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but for calls that do not keep what its signature promises.

    It runs where JAX promotes neither dtypes nor ranks.
    """
    plain = inspect.unwrap(function)
    copy = types.FunctionType(
        plain.__code__,
        plain.__globals__,
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    copy.__annotations__ = resolved_hints(function)
    checking = jaxtyping.jaxtyped(copy, typechecker=beartype.beartype)

    @functools.wraps(plain)
    def strict(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return checking(*args, **kwargs)

    return strict
