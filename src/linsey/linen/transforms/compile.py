"""`jit` and `remat` of modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.lift.split import Untraced
from linsey.linen.module.stack import INTERCEPTORS
from linsey.linen.transforms.lifting import Run, Transform, lift

__all__ = ["checkpoint", "jit", "remat"]

Target = TypeVar("Target")


def jit(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: Any = None,
    backend: str | None = None,
    methods: Any = None,
) -> Target:
    """A lifted `jax.jit`: equal modules share one compiled program.

    Modules are equal if their class and fields are; fields must have a hash. Random
    keys drawn inside do not depend on what the process compiled before.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> variables = nn.jit(nn.Dense)(2).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> sorted(variables["params"])
        ['bias', 'kernel']

    Args:
        target: a module class, or a function of a module.
        variables: collections that may be used inside.
        rngs: streams that may be used inside.
        static_argnums: positions of compile-time constant arguments; the module is 0.
        static_argnames: names of such keyword arguments.
        donate_argnums: positions of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.
        methods: the methods of a class to lift, `__call__` by default.

    Returns:
        A class or function like `target`.
    """
    return lift(_jit, prefix="Jit", bind=operator.call, **locals())


def _jit(static_argnums: Any, donate_argnums: Any, **options: Any) -> Transform:
    """`core.lift.jit`, where all equal runs share one program."""
    # The run stands between the scopes and the arguments.
    program = core_lift.jit(
        _run_and_count,
        static_argnums=(1, *_shifted(static_argnums, 1)),
        donate_argnums=_shifted(donate_argnums, 1),
        **options,
    )

    def transform(run: Run) -> Callable[..., Any]:
        def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
            hash(run.modules)  # the error for a field without a hash names it
            # Interceptors run while a program is traced: others need another program.
            # A method has the hash that its object may lack: by identity.
            interceptors = INTERCEPTORS.get()
            keys = tuple(i if type(i).__hash__ else i.__call__ for i in interceptors)
            y, counts = program(scopes, (run, keys), *args, **kwargs)
            run.counts.update(counts.value)
            return y

        return call

    return transform


def _run_and_count(scopes: Any, spec: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a compiled call; the counts leave it as part of the structure."""
    run, _ = spec
    y = run(scopes, *args, **kwargs)
    return y, Untraced(tuple(run.counts.items()))


def _shifted(argnums: int | Iterable[int], by: int) -> tuple[int, ...]:
    argnums = (argnums,) if isinstance(argnums, int) else argnums
    return tuple(i + by for i in argnums if i > 0)


def remat(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Any = None,
) -> Target:
    """A lifted `jax.checkpoint`: computes a module again in the backward pass.

    Values inside are not kept for the gradient; variables are written once.

    Args:
        target: a module class, or a function of a module.
        variables: collections that may be used inside.
        rngs: streams that may be used inside.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; False is faster inside `scan`.
        static_argnums: positions of compile-time constant arguments; the module is 0.
        policy: which values to keep all the same.
        methods: the methods of a class to lift, `__call__` by default.

    Returns:
        A class or function like `target`.
    """
    return lift(_remat, prefix="Checkpoint", **locals())


def _remat(fn: Callable[..., Any], static_argnums: Any, **options: Any) -> Any:
    """`core.lift.remat`, where positions do not count the scope."""
    return core_lift.remat(fn, static_argnums=_shifted(static_argnums, -1), **options)


checkpoint = remat
