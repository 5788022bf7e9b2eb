"""`jit` and `remat` of modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.lift.split import Untraced
from linsey.core.state import Scope
from linsey.linen.module.functional import INTERCEPTORS
from linsey.linen.transforms.lifting import Methods, Run, lift

__all__ = ["checkpoint", "jit", "remat"]

Target = TypeVar("Target")


def jit(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: jax.Device | None = None,
    backend: str | None = None,
    methods: Methods = None,
) -> Target:
    """Lift `jax.jit`: equal modules share one compiled program.

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
        static_argnums: indices of compile-time constant arguments; the module is 0.
        static_argnames: names of such keyword arguments.
        donate_argnums: indices of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return lift(functools.partial(_jit, {}), "Jit", **locals())


def _jit(
    programs: dict[object, Callable[..., Any]], run: Run, **options: Any
) -> Callable[..., Any]:
    """Apply `core.lift.jit`: all equal runs of a function share one of the programs."""
    if run.fn not in programs:
        # The run is an argument between the scopes and the others.
        options["static_argnums"] = (1, *_shifted(options["static_argnums"], 1))
        options["donate_argnums"] = _shifted(options["donate_argnums"], 1)
        programs[run.fn] = core_lift.jit(_run_and_count, **options)
    return functools.partial(_call_program, programs[run.fn], run)


def _call_program(
    program: Callable[..., Any], run: Run, scopes: object, *args: object, **kw: object
) -> Any:
    hash(run.modules)  # the error for a field without a hash names it
    # Interceptors run while a program is traced: others need another program.
    # A method has the hash that its object may lack: by identity.
    interceptors = INTERCEPTORS.get()
    keys = tuple(i if type(i).__hash__ else i.__call__ for i in interceptors)
    y, counts = program(scopes, (run, keys), *args, **kw)
    run.counts.update(counts.value)
    return y


def _run_and_count(
    scopes: Sequence[Scope], spec: tuple[Run, object], *args: object, **kw: object
) -> tuple[Any, Untraced]:
    """Run a compiled call; the counts leave it as part of the structure."""
    run, _ = spec
    y = run(scopes, *args, **kw)
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
    methods: Methods = None,
) -> Target:
    """Lift `jax.checkpoint`: compute a module again in the backward pass.

    Values inside are not kept for the gradient; variables are written once.

    Args:
        target: a module class, or a function of a module.
        variables: collections that may be used inside.
        rngs: streams that may be used inside.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; `False` is faster inside `scan`.
        static_argnums: indices of compile-time constant arguments; the module is 0.
        policy: which values to keep all the same.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return lift(_remat, "Checkpoint", **locals())


def _remat(
    fn: Callable[..., Any], static_argnums: int | tuple[int, ...], **options: Any
) -> Callable[..., Any]:
    """Apply `core.lift.remat`, whose indices do not count the scope."""
    return core_lift.remat(fn, static_argnums=_shifted(static_argnums, -1), **options)


checkpoint = remat
