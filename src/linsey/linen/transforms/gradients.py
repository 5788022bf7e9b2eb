"""Derivatives inside modules: `vjp`, `value_and_grad`, `grad`, `jvp`, `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.linen.module.base import Module
from linsey.linen.transforms.lifting import call_direct, lift_functions
from linsey.typing import Collection, with_signature_of

T = TypeVar("T")

__all__ = ["custom_vjp", "grad", "jvp", "value_and_grad", "vjp"]


def vjp(
    fn: Callable[..., Any],
    mdl: object,
    *primals: object,
    has_aux: bool = False,
    reduce_axes: object = (),
    vjp_variables: Filter = "params",
    variables: Filter = True,
    rngs: Filter = True,
    multi_scope: bool = False,
) -> Any:
    """Lift `jax.vjp`: differentiate by the inputs and the variables of a module.

    Args:
        fn: called as `fn(mdl, *primals)`; with `has_aux` it returns `(y, aux)`.
        mdl: the module.
        *primals: where to differentiate.
        has_aux: whether `fn` returns something that is not differentiated.
        reduce_axes: no longer used by JAX.
        vjp_variables: collections to differentiate by; `fn` may not write them.
        variables: the other collections it may use.
        rngs: streams it may use.
        multi_scope: give the gradients of the variables as a list, one entry for each
            module that lives elsewhere and is held in a field, and the last for `mdl`.

    Returns:
        `(y, backward)` or `(y, backward, aux)`; `backward(cotangent)` gives the
        gradients `(variables, *inputs)`.
    """
    filters = {"vjp_variables": vjp_variables, "variables": variables, "rngs": rngs}
    result = call_direct(core_lift.vjp, [fn], mdl, primals, has_aux=has_aux, **filters)
    y, backward, *aux = result
    if isinstance(mdl, Module):
        order = _as_list if multi_scope else _as_one
        backward = jax.tree_util.Partial(order, backward)
    return (y, backward, *aux)


def _as_list(backward: Callable[..., Any], cotangent: object) -> tuple[Any, ...]:
    (own, *shared), *inputs = backward(cotangent)
    return ([*shared, own], *inputs)


def _as_one(backward: Callable[..., Any], cotangent: object) -> tuple[Any, ...]:
    by, *inputs = _as_list(backward, cotangent)
    return (by[0] if len(by) == 1 else by, *inputs)


def value_and_grad(
    fn: Callable[..., Any],
    mdl: object,
    *primals: object,
    has_aux: bool = False,
    reduce_axes: object = (),
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Compute value and gradients by the inputs of a scalar function of a module.

    Gradients by variables are not computed; for these see `vjp`.

    Args:
        fn: called as `fn(mdl, *primals)`; returns a scalar, or `(scalar, aux)`.
        mdl: the module.
        *primals: where to differentiate.
        has_aux: whether `fn` returns something that is not differentiated.
        reduce_axes: no longer used by JAX.
        variables: collections it may use.
        rngs: streams it may use.

    Returns:
        `(y, gradients)` or `((y, aux), gradients)`; a tuple of one gradient for each
        of the primals.

    Raises:
        ShapeError: the value is no scalar.
    """
    options = {"has_aux": has_aux, "variables": variables, "rngs": rngs}
    result = call_direct(core_lift.value_and_grad, [fn], mdl, primals, **options)
    y, *aux, gradients = result
    return ((y, *aux), gradients) if has_aux else (y, gradients)


@with_signature_of(value_and_grad)
def grad(*args: Any, has_aux: bool = False, **options: Any) -> Any:
    """Compute gradients by the inputs of a scalar function, see `value_and_grad`.

    Returns:
        The gradients, a tuple of one for each of the primals, or `(gradients, aux)`.
    """
    value, gradients = value_and_grad(*args, has_aux=has_aux, **options)
    return (gradients, value[1]) if has_aux else gradients


def jvp(
    fn: Callable[..., T],
    mdl: object,
    primals: Sequence[object],
    tangents: Sequence[object],
    variable_tangents: Collection,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[T, T]:
    """Lift `jax.jvp`: differentiate a module along directions.

    Args:
        fn: called as `fn(mdl, *primals)`.
        mdl: the module.
        primals: where to differentiate, a tuple.
        tangents: directions of the inputs, a tuple.
        variable_tangents: `{collection: tree}`, directions of the variables.
        variables: collections it may use.
        rngs: streams it may use.

    Returns:
        The value and the derivative.
    """
    args = (primals, tangents, variable_tangents)
    return call_direct(core_lift.jvp, [fn], mdl, args, variables=variables, rngs=rngs)


def custom_vjp(
    fn: Callable[..., T],
    forward_fn: Callable[..., tuple[T, Any]],
    backward_fn: Callable[..., Sequence[Any]],
    grad_vars: Filter = "params",
    nondiff_argnums: int | Sequence[int] = (),
) -> Callable[..., T]:
    """Give a function of a module a backward pass of its own.

    Args:
        fn: the function, called as `fn(mdl, *args)`.
        forward_fn: called as `forward_fn(mdl, *args) -> (y, residuals)` in its place
            when gradients are needed.
        backward_fn: called as `backward_fn(*nondiff_args, residuals, cotangent)`;
            returns the gradients `(variables, *inputs)`.
        grad_vars: collections that get gradients.
        nondiff_argnums: indices of arguments that are not differentiated and hold no
            arrays; the module is 0.

    Returns:
        A function `(mdl, *args)`.
    """

    def backward(*args: Any) -> tuple[object, ...]:
        by, *inputs = backward_fn(*args)
        # A list is of a module and those it holds, see `vjp`.
        *shared, own = by if isinstance(by, list) else [by]
        return ([own, *shared], *inputs)

    def transform(run: Callable[..., T], forward: Any) -> Callable[..., T]:
        return core_lift.custom_vjp(run, forward, backward, grad_vars, nondiff_argnums)

    return lift_functions(transform, [fn, forward_fn])
