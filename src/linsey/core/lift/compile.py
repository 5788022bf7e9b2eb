"""`jit` and `remat` of functions of scopes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from linsey.core.filters import Filter
from linsey.core.lift.split import Lifted


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=[], meta_fields=["value"]
)
class Static:
    """A value that leaves a jitted function as part of its structure, untraced."""

    def __init__(self, value: Any):
        self.value = value


def jit(
    fn: Callable[..., Any],
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: Any = None,
    backend: str | None = None,
) -> Callable[..., Any]:
    """Compiles `fn(scope, *args)`; calls with an equal plan share the compiled program.

    Keys drawn inside come from keys drawn at the call, so they do not depend on what
    the process ran earlier.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        static_argnums: positions of compile-time constant arguments; the scope is 0.
        static_argnames: names of such keyword arguments.
        donate_argnums: positions of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """

    # Position 0 of `fn` is the scope; here three arguments stand in its place.
    def shift(argnums: int | Iterable[int]) -> tuple[int, ...]:
        return tuple(i + 2 for i in _as_tuple(argnums) if i > 0)

    @functools.partial(
        jax.jit,
        static_argnums=(0, *shift(static_argnums)),
        static_argnames=static_argnames,
        donate_argnums=shift(donate_argnums),
        **({} if device is None else {"device": device}),
        **({} if backend is None else {"backend": backend}),
    )
    def compiled(plan: Any, variables: Any, rngs: Any, *args: Any, **kw: Any) -> Any:
        y, out = plan.pure(fn)(variables, rngs, *args, **kw)
        return y, out, Static(_Counters(plan.counters))

    def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        keys = lifted.forked_rngs()
        y, out, after = compiled(
            lifted.plan.detached(), lifted.variables, keys, *args, **kwargs
        )
        for scope, counters in zip(lifted.roots, after.value.trees, strict=True):
            _replay(scope.rng_counters, counters)
        lifted.merge(out)
        return y

    return call


class _Counters:
    """Counters as they were when a trace ended; equal to any others as structure."""

    def __init__(self, trees: list[Any]):
        self.trees = trees

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Counters) and self.trees == other.trees


def _replay(counters: dict[Any, Any], after: dict[Any, Any]) -> None:
    """Moves counters to where they were when the trace ended."""
    for key, value in after.items():
        if isinstance(value, dict):
            _replay(counters.setdefault(key, {}), value)
        else:
            counters[key] = value


def remat(
    fn: Callable[..., Any],
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """Recomputes `fn(scope, *args)` in the backward pass instead of keeping its values.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; False inside `scan`.
        static_argnums: positions of compile-time constant arguments, not counting the
            scope.
        policy: which values to keep all the same.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """
    del concrete
    static = tuple(i + 2 for i in _as_tuple(static_argnums))

    def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        recomputed = jax.checkpoint(
            lifted.plan.pure(fn),
            prevent_cse=prevent_cse,
            static_argnums=static,
            policy=policy,
        )
        y, out = recomputed(lifted.variables, lifted.rngs, *args, **kwargs)
        lifted.merge(out)
        return y

    return call


checkpoint = remat


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, (int, str)) else tuple(x)
