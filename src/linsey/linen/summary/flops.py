"""The number of floating point operations (FLOPs) of a call, estimated by the compiler.

The call is lowered in isolation, with abstract variables; nothing is compiled or run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from linsey.core.filters import Filter
from linsey.linen.module.base import RNGs
from linsey.linen.summary.calls import Arrays, Call, arrays_of, with_arrays
from linsey.ops.cpu.dispatch import by_definition
from linsey.typing import VariableDict


def forward_flops(call: Call, rngs: RNGs, mutable: Filter) -> int | None:
    """Estimate the FLOPs of a call; return `None` if it cannot run in isolation."""
    run, arrays = _as_function(call, rngs, mutable)
    try:
        return _lowered_flops(run, arrays)
    except Exception:
        # The call needs more than its arguments and variables, such as a running method
        # of another module or a traced value in a closure, which users may write.
        return None


def vjp_flops(call: Call, rngs: RNGs, mutable: Filter) -> int | None:
    """Estimate the FLOPs of a call and of its derivative in reverse mode.

    The outputs and the new variables are differentiated with respect to the variables
    and the inputs. The result is 0 if the call cannot be differentiated, and `None` if
    it cannot run in isolation.
    """
    run, arrays = _as_function(call, rngs, mutable)

    def run_and_derive(*arrays: object) -> list[jax.Array]:
        *primals, keys = arrays
        y, pull = jax.vjp(lambda *primals: run(*primals, keys), *primals)
        cotangents = jax.tree.map(_cotangent, y)
        return [g for g in jax.tree.leaves(pull(cotangents)) if g.dtype != _NONE]

    if not any(map(_is_inexact, jax.tree.leaves(arrays[:-1]))):
        return 0
    try:
        return _lowered_flops(run_and_derive, arrays)
    except Exception:  # the call without its derivative shows which case it is
        return None if forward_flops(call, rngs, mutable) is None else 0


_NONE = jax.dtypes.float0


def _is_inexact(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)


def _cotangent(x: jax.Array) -> jax.Array | np.ndarray:
    return x if _is_inexact(x) else np.zeros(x.shape, _NONE)


def _as_function(
    call: Call, rngs: RNGs, mutable: Filter
) -> tuple[Callable[..., Arrays], tuple[object, Arrays, Arrays]]:
    """Turn a call into a function of arrays; return it and its abstract arrays."""
    inputs = (call.args, call.kwargs)

    def run(variables: VariableDict, arrays: Arrays, keys: Arrays) -> Arrays:
        args, kwargs = with_arrays(inputs, arrays)
        apply = functools.partial(call.module.apply, method=call.method)
        streams = with_arrays(rngs, keys)
        y = apply(variables, *args, rngs=streams, mutable=mutable, **kwargs)
        return arrays_of(y)

    return run, (call.variables, arrays_of(inputs), arrays_of(rngs))


def _lowered_flops(fn: Callable[..., object], arrays: tuple[object, ...]) -> int:
    with by_definition():
        cost: Any = jax.jit(fn).lower(*arrays).cost_analysis()
    if isinstance(cost, list):  # one entry per device on some backends
        cost = cost[0] if cost else None
    return int(cost["flops"]) if cost and "flops" in cost else 0
