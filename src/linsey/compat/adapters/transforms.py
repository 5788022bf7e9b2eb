"""Functions with which programs lift their own scope transforms to modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from linsey.linen.module import Module
from linsey.linen.transforms.lifting import Methods, call_direct, lift

T = TypeVar("T")


def lift_transform(
    transform: Callable[..., Any],
    target: T,
    *trafo_args: Any,
    methods: Methods = None,
    **trafo_kwargs: Any,
) -> T:
    """Apply a transform of scope functions to a module class or a function of a module.

    Args:
        transform: called as `transform(fn, *trafo_args, **trafo_kwargs)`, where `fn` is
            a function of scopes; returns another one. See `linsey.core.lift.pack`.
        target: the class, a partial of it, or the function.
        *trafo_args: options of the transform.
        methods: the methods of a class to lift; a mapping gives each method its own
            options. If `None`, `__call__` is lifted.
        **trafo_kwargs: options of the transform.
    """

    def core(fn: Callable[..., Any], **own: Any) -> Callable[..., Any]:
        return transform(fn, *trafo_args, **{**trafo_kwargs, **own})

    return lift(core, target, transform.__name__.capitalize(), methods)


def lift_direct_transform(
    transform: Callable[..., Any],
    targets: Sequence[Callable[..., Any]],
    mdl: Module,
    *args: Any,
    multi_scope: bool = True,
    **kwargs: Any,
) -> Any:
    """Call `transform(*scope_functions, scopes, *args, **kwargs)` for a module.

    Args:
        transform: a transform of `linsey.core.lift` that calls the function
            immediately, such as `vjp`.
        targets: functions whose first argument is the module.
        mdl: the bound module.
        *args: further arguments of the transform.
        multi_scope: whether to pass the scopes of all modules, or only that of `mdl`.
        **kwargs: options of the transform.
    """
    if multi_scope:
        return call_direct(transform, targets, mdl, args, **kwargs)

    @functools.wraps(transform)
    def of_one(*parts: Any, **options: Any) -> Any:
        fns: Iterable[Callable[..., Any]] = parts[: len(targets)]
        scopes, *rest = parts[len(targets) :]

        def of_scope(fn: Callable[..., Any]) -> Callable[..., Any]:
            return lambda scope, *a, **k: fn([scope], *a, **k)

        return transform(*map(of_scope, fns), scopes[0], *rest, **options)

    return call_direct(of_one, targets, mdl, args, **kwargs)
