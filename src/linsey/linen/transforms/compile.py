"""`jit` and `remat` of modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.linen.module.methods import wrap_method_once
from linsey.linen.transforms import lifting

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

    def compiled(options: dict[str, Any]) -> Callable[..., Any]:
        # `run_spec` has the spec between the scopes and the arguments.
        static = _shifted(options["static_argnums"])
        shifted: dict[str, Any] = {
            **options,
            "static_argnums": (1, *static),
            "donate_argnums": _shifted(options["donate_argnums"]),
        }
        return core_lift.jit(lifting.run_spec, **shifted)

    options: dict[str, Any] = {
        "variables": variables,
        "rngs": rngs,
        "static_argnums": static_argnums,
        "static_argnames": static_argnames,
        "donate_argnums": donate_argnums,
        "device": device,
        "backend": backend,
    }
    if lifting.is_module_class(target):
        transforms = {
            name: compiled({**options, **extra})
            for name, extra in lifting.methods_of(methods).items()
        }
        return lifting.lift_class(transforms, target, "Jit", lifting.call_compiled)  # type: ignore[arg-type,return-value]
    lifting.check_function(target)
    program = compiled(options)
    method = wrap_method_once(target)  # type: ignore[arg-type]

    @functools.wraps(method)
    def lifted(module: Any, *args: Any, **kwargs: Any) -> Any:
        return lifting.call_compiled(program, [method], module, args, kwargs)

    return lifted  # type: ignore[return-value]


def _shifted(argnums: int | Iterable[int]) -> tuple[int, ...]:
    argnums = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    return tuple(i + 1 for i in argnums if i > 0)


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
    return lifting.lift(
        _remat,
        target,
        "Checkpoint",
        methods,
        variables=variables,
        rngs=rngs,
        concrete=concrete,
        prevent_cse=prevent_cse,
        static_argnums=static_argnums,
        policy=policy,
    )


def _remat(
    fn: Callable[..., Any], static_argnums: int | Iterable[int], **options: Any
) -> Callable[..., Any]:
    """`core.lift.remat`, where positions do not count the scope."""
    static = tuple(i - 2 for i in _shifted(static_argnums))
    return core_lift.remat(fn, static_argnums=static, **options)


checkpoint = remat
