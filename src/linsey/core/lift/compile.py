"""`jit` and `remat` of functions of scopes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TypeVar

import jax

from linsey.core.filters import Filter
from linsey.core.lift.split import Groups, Lifted, Plan, Untraced

__all__ = ["checkpoint", "jit", "remat"]

T = TypeVar("T")


def jit(
    fn: Callable[..., T],
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: jax.Device | None = None,
    backend: str | None = None,
) -> Callable[..., T]:
    """Compile `fn(scope, *args)`; calls with an equal plan share the compiled program.

    Keys drawn inside come from keys drawn at the call, so they do not depend on what
    the process ran earlier.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        static_argnums: indices of compile-time constant arguments; the scope is 0.
        static_argnames: names of such keyword arguments.
        donate_argnums: indices of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """

    # Argument 0 of `fn` is the scope; here three arguments take its place.
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
    def compiled(
        plan: Plan, variables: Groups, rngs: Groups, *args: object, **kwargs: object
    ) -> tuple[tuple[T, Untraced], Groups]:
        y, out = plan.pure(fn)(variables, rngs, *args, **kwargs)
        return (y, Untraced(plan.frozen_counters())), out

    def call(scopes: object, *args: object, **kwargs: object) -> T:
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
    fn: Callable[..., T],
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., T]:
    """Recompute `fn(scope, *args)` in the backward pass instead of keeping its values.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; use `False` inside `scan`.
        static_argnums: indices of compile-time constant arguments, not counting the
            scope.
        policy: which values to keep all the same.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """
    static = tuple(i + 2 for i in _as_tuple(static_argnums))

    def call(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        run = lifted.plan.pure(fn)
        recomputed = jax.checkpoint(
            run, prevent_cse=prevent_cse, static_argnums=static, policy=policy
        )
        return lifted.call(recomputed, *args, **kwargs)

    return call


checkpoint = remat


def _as_tuple(x: int | Iterable[int]) -> tuple[int, ...]:
    return (x,) if isinstance(x, int) else tuple(x)
