"""Programs of one microbatch in which no collective is nested in another equation.

A *collective* is an equation that combines the values of all microbatches, for example
a sum or a gather over their named axis. JAX nests equations: a compiled function, a
checkpoint or a loop is one equation with a program inside. This file inlines every
equation that contains a collective, so that the program can be split at the
collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import jax
from jax import Array
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
)

from linsey.errors import UnsupportedError

T = TypeVar("T")
Values = Sequence[Array]
Function = Callable[..., list[Array]]

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}
"""Primitives that only call a program, and the parameter that holds the program."""
CHECKPOINTS = {"checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr"}
RULES = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def uses_axis(eqn: JaxprEqn, axis: str) -> bool:
    """Tell whether an equation, or one nested in it, uses an axis."""
    names = [eqn.params.get(key) for key in ("axes", "axis_name")]
    own = any(axis in (name if isinstance(name, tuple) else [name]) for name in names)
    return own or any(
        uses_axis(inner, axis) for program in _programs(eqn) for inner in program.eqns
    )


def _programs(eqn: JaxprEqn) -> list[Jaxpr]:
    """List the programs that an equation runs."""

    def is_program(value):
        return isinstance(value, Jaxpr | ClosedJaxpr)

    found = jax.tree.leaves(list(eqn.params.values()), is_leaf=is_program)
    return [_open(value) for value in found if is_program(value)]


def _open(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def trace_flat(
    function: Function, axis: str, size: int, args: Sequence[object]
) -> ClosedJaxpr:
    """Trace a function to a program with all collectives at the top level.

    Args:
        function: function from arrays to a list of arrays. The resulting program must
            not be differentiated.
        axis: the name of the axis of the collectives.
        size: the number of microbatches.
        args: arrays, or objects with their shapes and dtypes.

    Returns:
        The program.

    Raises:
        UnsupportedError: a collective is in a loop or a branch that cannot be inlined.
    """
    traced = trace(function, axis, size, args)

    def flat(*values):
        return evaluate(traced, values, axis, CALLS | CHECKPOINTS | RULES)

    return trace(flat, axis, size, args)


def without_loops(
    function: Function, axis: str, size: int, args: Sequence[object]
) -> Function:
    """Return an equivalent function without loops around collectives.

    Scans with collectives are unrolled, and checkpoints around collectives are inlined.
    This has to be done before the function is differentiated. Custom derivative rules
    are kept.
    """
    traced = trace(function, axis, size, args)
    return lambda *values: evaluate(traced, values, axis, CALLS | CHECKPOINTS)


def trace(
    function: Function, axis: str, size: int, args: Sequence[object]
) -> ClosedJaxpr:
    """Trace a function of one microbatch, with the axis bound."""
    # A new function object each time, because JAX caches traces by function.
    return jax.make_jaxpr(lambda *a: function(*a), axis_env=[(axis, size)])(*args)


def evaluate(
    program: ClosedJaxpr, args: Values, axis: str, dissolved: dict[str, str]
) -> list[Array]:
    """Run a program equation by equation, and inline some of the equations.

    Args:
        program: the program.
        args: the inputs.
        axis: the name of the axis of microbatches.
        dissolved: primitives to inline, with the parameter that holds their program.
            Calls are always inlined, other equations only if they use the axis.

    Returns:
        The outputs.

    Raises:
        UnsupportedError: an equation that cannot be inlined uses the axis.
    """
    env = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    env |= dict(zip(program.jaxpr.invars, args, strict=True))
    for eqn in program.jaxpr.eqns:
        name, uses = eqn.primitive.name, uses_axis(eqn, axis)
        values = read(env, eqn.invars)
        if name in dissolved and (uses or name in CALLS):
            inner = _closed(eqn.params[dissolved[name]])
            outputs = evaluate(inner, values, axis, dissolved)
        elif name == "scan" and uses:
            outputs = _unroll(eqn, values, axis, dissolved)
        elif uses and name not in RULES and _programs(eqn):
            raise UnsupportedError(
                f"Values of all microbatches are combined inside of a `{name}`.",
                "The program is run up to there for one microbatch after the other, "
                "which needs the number of times to be known and the same for all.",
                "Take batch normalization out of it, or use `nn.scan` with a length.",
            )
        else:
            outputs = run(program.jaxpr, [eqn], env, eqn.outvars)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return read(env, program.jaxpr.outvars)


def read(env: Mapping[Var, T], variables: Sequence[Var | Literal]) -> list[T]:
    """Look up the values of variables; a literal is its own value."""
    return [v.val if isinstance(v, Literal) else env[v] for v in variables]


def variables(given: Iterable[Var | Literal]) -> list[Var]:
    """List variables once each, without literals."""
    return list(dict.fromkeys(v for v in given if not isinstance(v, Literal)))


def run(
    whole: Jaxpr,
    eqns: Sequence[JaxprEqn],
    env: Mapping[Var, Array],
    wanted: Sequence[Var | Literal],
) -> list[Array]:
    """Run equations of a program.

    Args:
        whole: the program.
        eqns: the equations, in an order in which they can be run.
        env: values of all variables that the equations read but do not compute.
        wanted: the variables to return, which are computed or in `env`.

    Returns:
        The values of the wanted variables.
    """
    made = {v for eqn in eqns for v in eqn.outvars}
    needed = variables(v for eqn in eqns for v in eqn.invars)
    inputs = [v for v in needed if v not in made]
    outputs = [v for v in variables(wanted) if v in made]
    part = whole.replace(constvars=[], invars=inputs, outvars=outputs, eqns=list(eqns))
    values = jaxpr_as_fun(ClosedJaxpr(part, ()))(*read(env, inputs))
    return read({**env, **dict(zip(outputs, values, strict=True))}, wanted)


def _unroll(
    eqn: JaxprEqn, values: Values, axis: str, dissolved: dict[str, str]
) -> list[Array]:
    """Run a scan as a sequence of calls of its body."""
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    body = eqn.params["jaxpr"]
    # A stacked array has one axis more outside the body than inside; a carry does not.
    steps = sum(map(_is_stacked, eqn.invars, body.jaxpr.invars))
    carried = len(eqn.outvars) - sum(map(_is_stacked, eqn.outvars, body.jaxpr.outvars))
    first, last = len(values) - steps - carried, len(values) - steps
    consts, carry, stacked = values[:first], values[first:last], values[last:]
    rows: list[Values] = []
    for i in reversed(range(length)) if reverse else range(length):
        inputs = [*consts, *carry, *(x[i] for x in stacked)]
        outputs = evaluate(body, inputs, axis, dissolved)
        carry = outputs[:carried]
        rows.append(outputs[carried:])
    ordered = rows[::-1] if reverse else rows
    return [*carry, *(jax.numpy.stack(column) for column in zip(*ordered, strict=True))]


def _is_stacked(outside: Var | Literal, inside: Var | Literal) -> bool:
    outer, inner = (cast(jax.core.ShapedArray, var.aval) for var in (outside, inside))
    return outer.ndim > inner.ndim


def _closed(program: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    # Newer JAX has one class for both, in which a program contains its constants.
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, [])
