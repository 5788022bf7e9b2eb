"""`jit` and `remat` of functions of scopes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from linsey.core.filters import Filter
from linsey.core.lift.split import Lifted


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A value that leaves a jitted function as part of its structure, untraced."""

    value: Any


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
        return (y, Static(plan.frozen_counters())), out

    def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        lifted.rngs = lifted.forked_rngs()
        run = functools.partial(compiled, lifted.plan.detached())
        y, counters = lifted.call(run, *args, **kwargs)
        # As if the function had run now: a cached program was traced long ago.
        for scope, after in zip(lifted.roots, counters.value, strict=True):
            scope.rng_counters.update(after)
        return y

    return call


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
    static = tuple(i + 2 for i in _as_tuple(static_argnums))

    def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        run = lifted.plan.pure(fn)
        recomputed = jax.checkpoint(
            run, prevent_cse=prevent_cse, static_argnums=static, policy=policy
        )
        return lifted.call(recomputed, *args, **kwargs)

    return call


checkpoint = remat


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, (int, str)) else tuple(x)
