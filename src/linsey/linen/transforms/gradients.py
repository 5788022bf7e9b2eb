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
    """Lift `jax.vjp`: differentiate with respect to a module's inputs and variables.

    Args:
        fn: called as `fn(mdl, *primals)`; with `has_aux` it returns `(y, aux)`.
        mdl: the module.
        *primals: the values of the inputs at which to differentiate.
        has_aux: whether `fn` also returns a value that is not differentiated.
        reduce_axes: no longer used by JAX.
        vjp_variables: collections to differentiate with respect to; `fn` must not
            write them.
        variables: the other collections it may use.
        rngs: streams it may use.
        multi_scope: whether to return the gradients of the variables as a list, with
            one entry for each module that is in a field but belongs to another parent,
            and the last entry for `mdl`.

    Returns:
        `(y, backward)` or `(y, backward, aux)`; `backward(cotangent)` returns the
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
    """Compute a scalar function of a module and its gradients for the inputs.

    Gradients with respect to variables are not computed; use `vjp` for these.

    Args:
        fn: called as `fn(mdl, *primals)`; returns a scalar, or `(scalar, aux)`.
        mdl: the module.
        *primals: the values of the inputs at which to differentiate.
        has_aux: whether `fn` also returns a value that is not differentiated.
        reduce_axes: no longer used by JAX.
        variables: collections it may use.
        rngs: streams it may use.

    Returns:
        `(y, gradients)` or `((y, aux), gradients)`, where `gradients` is a tuple with
        one gradient for each of the primals.

    Raises:
        ShapeError: the value is not a scalar.
    """
    options = {"has_aux": has_aux, "variables": variables, "rngs": rngs}
    result = call_direct(core_lift.value_and_grad, [fn], mdl, primals, **options)
    y, *aux, gradients = result
    return ((y, *aux), gradients) if has_aux else (y, gradients)


@with_signature_of(value_and_grad)
def grad(*args: Any, has_aux: bool = False, **options: Any) -> Any:
    """Compute the gradients of a scalar function for its inputs; see `value_and_grad`.

    Returns:
        The gradients, a tuple with one for each of the primals, or `(gradients, aux)`.
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
    """Lift `jax.jvp`: compute a directional derivative of a module.

    Args:
        fn: called as `fn(mdl, *primals)`.
        mdl: the module.
        primals: the values of the inputs at which to differentiate, a tuple.
        tangents: the tangents of the inputs, a tuple.
        variable_tangents: `{collection: tree}`, the tangents of the variables.
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
    """Define a custom backward pass for a function of a module.

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
        # A list has entries for a module and for those in its fields; see `vjp`.
        *shared, own = by if isinstance(by, list) else [by]
        return ([own, *shared], *inputs)

    def transform(run: Callable[..., T], forward: Any) -> Callable[..., T]:
        return core_lift.custom_vjp(run, forward, backward, grad_vars, nondiff_argnums)

    return lift_functions(transform, [fn, forward_fn])
