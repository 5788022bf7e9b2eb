"""Derivatives of functions of scopes: `vjp`, `value_and_grad`, `jvp`, `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from linsey import errors
from linsey.core.filters import Filter
from linsey.core.lift.split import Group, Groups, Lifted, Order, shifted
from linsey.typing import Collection

__all__ = ["custom_vjp", "jvp", "value_and_grad", "vjp"]

T = TypeVar("T")


def vjp(
    fn: Callable[..., Any],
    scope: object,
    *primals: object,
    has_aux: bool = False,
    reduce_axes: object = (),
    vjp_variables: Filter = "params",
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Apply `jax.vjp` to `fn(scope, *primals)`, also for its variables.

    Args:
        fn: the function; with `has_aux` it returns `(y, aux)`.
        scope: scopes of the variables.
        *primals: point at which to differentiate.
        has_aux: whether `fn` returns something that is not differentiated.
        reduce_axes: accepted for compatibility, no longer used by JAX.
        vjp_variables: collections to differentiate for; they are not written.
        variables: the other collections `fn` may use.
        rngs: streams `fn` may use.

    Returns:
        `(y, backward)` or `(y, backward, aux)`; `backward(cotangent)` gives the
        gradients `(variables, *primals)`. Gradients of several scopes have the
        structure of `scope`; if one scope contains another, they are a list with one
        entry for each outermost scope.
    """
    lifted = Lifted(scope, (vjp_variables, variables), (variables,), (rngs,))
    run = lifted.plan.pure(fn)
    by, others = lifted.variables

    def differentiable(by: Group, *primals: object) -> tuple[Any, tuple[Any, Groups]]:
        y, out = run((by, others), lifted.rngs, *primals)
        y, aux = y if has_aux else (y, None)
        return y, (aux, out)

    y, backward, (aux, out) = jax.vjp(differentiable, by, *primals, has_aux=True)
    lifted.merge(out)

    # A pytree, so that it may be a residual of another function.
    by_scope = jax.tree_util.Partial(_gradients, lifted.plan.order, backward)
    return (y, by_scope, aux) if has_aux else (y, by_scope)


def _gradients(
    order: Order, backward: Callable[..., Any], cotangent: object
) -> tuple[object, ...]:
    """Run the backward pass; return gradients in the structure of the scopes."""
    by, *inputs = backward(cotangent)
    return (order.to_scopes(by), *inputs)


def value_and_grad(
    fn: Callable[..., Any],
    scope: object,
    *primals: object,
    has_aux: bool = False,
    reduce_axes: object = (),
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Compute a scalar `fn(scope, *primals)` and its gradients for the primals.

    Returns:
        `(y, gradients)` or `(y, aux, gradients)`; `gradients` is a tuple with one entry
        for each primal.

    Raises:
        ShapeError: the value is not a scalar.
    """
    filters = {"vjp_variables": False, "variables": variables, "rngs": rngs}
    y, backward, *aux = vjp(fn, scope, *primals, has_aux=has_aux, **filters)
    if jax.numpy.shape(y) != ():
        raise errors.ShapeError(
            "grad can only work on functions with scalar-valued outputs. out"
            f" shape={jax.numpy.shape(y)}.",
            "A gradient is the derivative of one number.",
            "Reduce the result, for example with `jnp.mean`, or use `vjp`.",
        )
    _, *gradients = backward(jax.numpy.ones_like(y))
    return (y, *aux, tuple(gradients))


def jvp(
    fn: Callable[..., T],
    scope: object,
    primals: Sequence[object],
    tangents: Sequence[object],
    variable_tangents: Collection,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[T, T]:
    """Apply `jax.jvp` to `fn(scope, *primals)`, also along tangents of its variables.

    Args:
        fn: the function.
        scope: the scope of the variables.
        primals: point at which to differentiate, a tuple.
        tangents: directions of the primals, a tuple.
        variable_tangents: `{collection: tree of tangents}`, for some collections of the
            first scope. All other variables are constants.
        variables: the collections `fn` may use.
        rngs: streams `fn` may use.

    Returns:
        The value and the derivative.
    """
    along = tuple(col for col, tree in variable_tangents.items() if tree)
    lifted = Lifted(scope, (along, variables), (along, variables), (rngs,))
    run = lifted.plan.pure(fn)
    by, others = lifted.variables
    first, _ = lifted.plan.order.ways[0]
    given = {col: variable_tangents[col] for col in by[first]}

    def differentiable(own: Collection, args: Sequence[object]) -> tuple[T, Groups]:
        group = (*by[:first], own, *by[first + 1 :])
        return run((group, others), lifted.rngs, *args)

    at, along = (by[first], primals), (given, tangents)
    (y, out), (dy, _) = jax.jvp(differentiable, at, along)
    lifted.merge(out)
    return y, dy


def custom_vjp(
    fn: Callable[..., T],
    forward_fn: Callable[..., tuple[T, Any]],
    backward_fn: Callable[..., Sequence[Any]],
    grad_vars: Filter = "params",
    nondiff_argnums: int | Sequence[int] = (),
) -> Callable[..., T]:
    """Give `fn(scope, *args)` a custom backward pass.

    Args:
        fn: the function.
        forward_fn: called as `forward_fn(scope, *args) -> (y, residuals)` instead of
            `fn` when gradients are needed.
        backward_fn: called as `backward_fn(*nondiff_args, residuals, cotangent)`;
            returns the gradients `(variables, *inputs)`.
        grad_vars: collections that get gradients.
        nondiff_argnums: indices of arguments that are not differentiated and hold no
            arrays; the scope is 0.

    Returns:
        A function `(scope, *args)`.
    """
    # Argument 0 of `fn` is the scope; here two arguments take its place.
    static = shifted(nondiff_argnums, 1)

    def run(scope: object, *args: object) -> T:
        lifted = Lifted(scope, (grad_vars, True), (grad_vars, True), (True,))
        order = lifted.plan.order
        forward = lifted.plan.pure(forward_fn)

        def primal_and_residuals(
            variables: Groups, rngs: Groups, *args: object
        ) -> tuple[tuple[T, Groups], object]:
            (y, residuals), out = forward(variables, rngs, *args)
            return (y, out), residuals

        def backward(*args: Any) -> tuple[object, ...]:
            *nondiff, residuals, (cotangent, _) = args
            by, *inputs = backward_fn(*nondiff, residuals, cotangent)
            return ((order.to_roots(by), None), None, *inputs)

        lifted_fn = jax.custom_vjp(lifted.plan.pure(fn), nondiff_argnums=static)
        lifted_fn.defvjp(primal_and_residuals, backward)
        return lifted.call(lifted_fn, *args)

    return run
