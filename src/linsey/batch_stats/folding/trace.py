"""Conversion of a function to a graph: inlines calls, and finds constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.core import ShapedArray
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from linsey.batch_stats.folding.axes import moved_axes, shape_of
from linsey.batch_stats.folding.graph import (
    Atom,
    Graph,
    Leaves,
    Step,
    Value,
    needed_steps,
)
from linsey.ops.cpu.dispatch import plain_convolutions

_CALLS = {"jit", "pjit", "closed_call", "core_call", "core_closed_call"}
# These define their own derivatives or checkpoints. They are inlined only if they read
# a value that is computed from variables.
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "remat2", "remat", "checkpoint"}
ENTRYWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "abs", "sign", "add_any"),
    *("sqrt", "rsqrt", "square", "integer_pow", "pow", "exp", "log", "logistic"),
    *("tanh", "convert_element_type", "copy", "copy_p", "stop_gradient", "select_n"),
}


def trace(
    function: Callable[..., object], variables: object, *args: object, **kwargs: object
) -> tuple[Graph, jax.tree_util.PyTreeDef]:
    """Trace `function(variables, *args, **kwargs)` abstractly.

    Returns:
        The program of the function, and the structure of its result.

    Example:
        >>> import jax.numpy as jnp
        >>> graph, _ = trace(lambda v, x: x * jnp.sqrt(v), 4.0, 3.0)
        >>> [step.name for step in graph.steps], len(graph.depends)
        (['sqrt', 'mul'], 2)
    """
    # A new function for each trace, because JAX caches traces by function.
    with plain_convolutions(True):
        closed, result = jax.make_jaxpr(
            lambda variables, args, kwargs: function(variables, *args, **kwargs),
            return_shape=True,
        )(variables, args, kwargs)
    count = len(jax.tree.leaves(variables))
    graph = _Builder().build(closed, count)
    return graph, jax.tree.structure(result)


class _Builder:
    """Numbers values and inlines calls."""

    def __init__(self) -> None:
        self.count = 0
        self.steps: list[Step] = []
        self.avals: dict[Value, ShapedArray] = {}
        self.captured: dict[Value, jax.Array] = {}
        self.depends: dict[Value, Leaves] = {}
        self.varying: dict[Value, frozenset[int]] = {}

    def build(self, closed: jex_core.ClosedJaxpr, count: int) -> Graph:
        arguments = [self._number(var) for var in closed.jaxpr.invars]
        leaves, inputs = arguments[:count], arguments[count:]
        for position, value in enumerate(leaves):
            self._note(value, frozenset([position]))
        outputs = self._open(closed.jaxpr, closed.consts, arguments)
        steps = needed_steps(self.steps, outputs)
        return Graph(
            steps,
            leaves,
            inputs,
            outputs,
            self.captured,
            self.avals,
            self.depends,
            self.varying,
        )

    def _open(
        self, jaxpr: Jaxpr, consts: Sequence[jax.Array], arguments: Sequence[Atom]
    ) -> list[Atom]:
        values: dict[object, Atom] = dict(zip(jaxpr.invars, arguments, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            values[var] = number = self._number(var)
            self.captured[number] = const
            self._note(number, frozenset())

        def atom(var: object) -> Atom:
            return var if isinstance(var, Literal) else values[var]

        for eqn in jaxpr.eqns:
            operands = tuple(map(atom, eqn.invars))
            body = self._body(eqn, operands)
            if body is not None:
                results = self._open(*body, operands)
            else:
                results = self._add(eqn, jaxpr, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [atom(var) for var in jaxpr.outvars]

    def _body(
        self, eqn: JaxprEqn, operands: Sequence[Atom]
    ) -> tuple[Jaxpr, Sequence[jax.Array]] | None:
        """Return the body of a call that should be inlined, or `None`."""
        name = eqn.primitive.name
        reads = any(self.depends.get(v) for v in operands if isinstance(v, Value))
        if not (name in _CALLS or name in _CUSTOM and reads):
            return None
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(body, jex_core.ClosedJaxpr):
            return body.jaxpr, body.consts
        return None if body is None else (body, ())

    def _add(
        self, eqn: JaxprEqn, within: Jaxpr, operands: tuple[Atom, ...]
    ) -> list[Value]:
        results = [self._number(var) for var in eqn.outvars]
        step = Step(eqn, within, operands, tuple(results))
        self.steps.append(step)
        read = [v for v in operands if isinstance(v, Value)]
        if all(v in self.depends for v in read) and not eqn.effects:
            depends = frozenset().union(*(self.depends[v] for v in read))
            for result in results:
                self._note(result, depends, step)
        return results

    def _number(self, var: Var) -> Value:
        self.count += 1
        if isinstance(var.aval, ShapedArray):
            self.avals[self.count] = var.aval
        return self.count

    def _note(self, value: Value, depends: Leaves, step: Step | None = None) -> None:
        """Record a constant, and the axes along which it varies."""
        if value not in self.avals:
            return  # a token or a reference
        self.depends[value] = depends
        shape = self.avals[value].shape
        varying = every = frozenset(i for i, n in enumerate(shape) if n != 1)
        read = [] if step is None else step.operands
        parts = [self.varying[v] if isinstance(v, Value) else frozenset() for v in read]
        if step is not None and step.name in ENTRYWISE:
            if {len(shape_of(var)) for var in step.eqn.invars} <= {0, len(shape)}:
                varying = frozenset().union(*parts) & every
        elif step is not None and len(parts) == 1:
            moves = moved_axes(step.eqn)
            if moves is not None and parts[0] <= moves.keys():
                varying = frozenset(moves[axis] for axis in parts[0])
        self.varying[value] = varying
