"""The program of an evaluation as a list of steps, and what in it is constant.

Words: a *leaf* is an array of the variables. A *constant* is a value that is computed
from leaves alone, whatever the inputs. Values have numbers, given once each: the jaxprs
of equal layers may be one object, so that their variables name several values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from linsey.ops.cpu.dispatch import plain_convolutions

Value = int  # the number of a value
Atom = Value | Literal
Shape = tuple[int, ...]
Leaves = frozenset[int]  # positions among the leaves of the variables

_CALLS = {"jit", "pjit", "closed_call", "core_call", "core_closed_call"}
# These have derivatives or memory of their own: they are opened only if they get
# something that is computed from variables.
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "remat2", "remat", "checkpoint"}
ENTRYWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "abs", "sign", "add_any"),
    *("sqrt", "rsqrt", "square", "integer_pow", "pow", "exp", "log", "logistic"),
    *("tanh", "convert_element_type", "copy", "copy_p", "stop_gradient", "select_n"),
}


@dataclass(frozen=True, eq=False)
class Step:
    """An equation with the numbers of its operands and results."""

    eqn: JaxprEqn
    operands: tuple[Atom, ...]
    results: tuple[Value, ...]

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqn.primitive.name


@dataclass(frozen=True, eq=False)
class Graph:
    """A program without calls, as far as there is something to fold in them.

    Attributes:
        steps: in their order, those without effect on the results left out.
        leaves: the variables, in the order of their leaves.
        inputs: the other arguments.
        outputs: the results.
        captured: arrays that the program has in itself.
        depends: for every constant, the leaves that it is computed from.
        varying: for every constant, the axes along which its entries may differ.
        makers: the step that computes a value.
        users: the steps that read a value; `None` stands for the results.
    """

    steps: list[Step]
    leaves: list[Value]
    inputs: list[Value]
    outputs: list[Atom]
    captured: dict[Value, jax.Array]
    avals: dict[Value, jax.core.ShapedArray]
    depends: dict[Value, Leaves]
    varying: dict[Value, frozenset[int]]
    makers: dict[Value, Step] = field(init=False)
    users: dict[Value, list[Step | None]] = field(init=False)

    def __post_init__(self) -> None:
        users: dict[Value, list[Step | None]] = defaultdict(list)
        for step in self.steps:
            for atom in step.operands:
                if isinstance(atom, Value):
                    users[atom].append(step)
        for atom in self.outputs:
            if isinstance(atom, Value):
                users[atom].append(None)
        makers = {value: step for step in self.steps for value in step.results}
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "makers", makers)

    def is_constant(self, atom: Atom) -> bool:
        """Return whether a value is the same for all inputs."""
        return not isinstance(atom, Value) or atom in self.depends

    def leaves_of(self, atom: Atom) -> Leaves:
        """Return the leaves that a constant is computed from."""
        return self.depends[atom] if isinstance(atom, Value) else frozenset()

    def sole_user(self, value: Value) -> Step | None:
        """Return the step that reads a value, if it is read once and no result."""
        users = self.users[value]
        return users[0] if len(users) == 1 else None

    def shape(self, atom: Atom) -> Shape:
        """Return the shape of a value; sizes may be symbolic."""
        aval = self.avals[atom] if isinstance(atom, Value) else atom.aval
        return tuple(aval.shape)


def trace(
    function: Callable[..., object], variables: object, *args: object, **kwargs: object
) -> tuple[Graph, jax.tree_util.PyTreeDef]:
    """Trace `function(variables, *args, **kwargs)` abstractly.

    Returns:
        Its program, and the structure of its result.

    Example:
        >>> import jax.numpy as jnp
        >>> graph, _ = trace(lambda v, x: x * jnp.sqrt(v), 4.0, 3.0)
        >>> [step.name for step in graph.steps], len(graph.depends)
        (['sqrt', 'mul'], 2)
    """
    # A new function for each trace: jax keeps the traces of the old one.
    with plain_convolutions(True):
        closed, result = jax.make_jaxpr(
            lambda variables, args, kwargs: function(variables, *args, **kwargs),
            return_shape=True,
        )(variables, args, kwargs)
    count = len(jax.tree.leaves(variables))
    graph = _Builder().build(closed, count)
    return graph, jax.tree.structure(result)


class _Builder:
    """Numbers values and opens calls."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.avals: dict[Value, jax.core.ShapedArray] = {}
        self.captured: dict[Value, jax.Array] = {}
        self.depends: dict[Value, Leaves] = {}
        self.varying: dict[Value, frozenset[int]] = {}

    def build(self, closed: jex_core.ClosedJaxpr, count: int) -> Graph:
        arguments = [self._number(var.aval) for var in closed.jaxpr.invars]
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
            values[var] = number = self._number(var.aval)
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
                results = self._add(eqn, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [atom(var) for var in jaxpr.outvars]

    def _body(
        self, eqn: JaxprEqn, operands: Sequence[Atom]
    ) -> tuple[Jaxpr, Sequence[jax.Array]] | None:
        """The body of a call that is to be opened."""
        name = eqn.primitive.name
        reads = any(self.depends.get(v) for v in operands if isinstance(v, Value))
        if not (name in _CALLS or name in _CUSTOM and reads):
            return None
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(body, jex_core.ClosedJaxpr):
            return body.jaxpr, body.consts
        return None if body is None else (body, ())

    def _add(self, eqn: JaxprEqn, operands: tuple[Atom, ...]) -> list[Value]:
        results = [self._number(var.aval) for var in eqn.outvars]
        step = Step(eqn, operands, tuple(results))
        self.steps.append(step)
        read = [v for v in operands if isinstance(v, Value)]
        if all(v in self.depends for v in read) and not eqn.effects:
            depends = frozenset().union(*(self.depends[v] for v in read))
            for result in results:
                self._note(result, depends, step)
        return results

    def _number(self, aval: jax.core.ShapedArray) -> Value:
        self.avals[len(self.avals)] = aval
        return len(self.avals) - 1

    def _note(self, value: Value, depends: Leaves, step: Step | None = None) -> None:
        """Note a constant, and along which axes it varies."""
        self.depends[value] = depends
        shape = self.avals[value].shape
        varying = every = frozenset(i for i, n in enumerate(shape) if n != 1)
        read = [] if step is None else step.operands
        parts = [self.varying[v] if isinstance(v, Value) else frozenset() for v in read]
        if step is not None and step.name in ENTRYWISE:
            if {len(var.aval.shape) for var in step.eqn.invars} <= {0, len(shape)}:
                varying = frozenset().union(*parts) & every
        elif step is not None and len(parts) == 1:
            moves = moved_axes(step.eqn)
            if moves is not None and parts[0] <= moves.keys():
                varying = frozenset(moves[axis] for axis in parts[0])
        self.varying[value] = varying


def needed_steps(steps: Iterable[Step], outputs: Iterable[Atom]) -> list[Step]:
    """Return the steps that outputs need, or that do something else."""
    needed, kept = {v for v in outputs if isinstance(v, Value)}, []
    for step in reversed(list(steps)):
        if step.eqn.effects or needed.intersection(step.results):
            needed.update(v for v in step.operands if isinstance(v, Value))
            kept.append(step)
    return kept[::-1]


def moved_axes(eqn: JaxprEqn) -> dict[int, int] | None:
    """Return where a step that only arranges entries puts the axes it keeps.

    `None` if it is no such step.
    """
    name, before = eqn.primitive.name, eqn.invars[0].aval.shape if eqn.invars else ()
    if name == "transpose":
        return {axis: i for i, axis in enumerate(eqn.params["permutation"])}
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        after = eqn.params["shape"]
        pairs = enumerate(eqn.params["broadcast_dimensions"])
        return {i: axis for i, axis in pairs if before[i] == after[axis]}
    if name in ("reshape", "squeeze", "expand_dims") and len(eqn.invars) == 1:
        return _kept_axes(before, eqn.outvars[0].aval.shape)
    if name in ("sharding_constraint", "optimization_barrier", "copy", "copy_p"):
        return {i: i for i in range(len(before))} if len(eqn.invars) == 1 else None
    return None


def _kept_axes(before: Shape, after: Shape) -> dict[int, int]:
    """The axes that a reshape keeps: those before and after what it changes."""
    kept: dict[int, int] = {}
    for skipped in (1, None):  # axes of size one come and go
        left = [i for i, n in enumerate(before) if n != skipped]
        right = [i for i, n in enumerate(after) if n != skipped]
        for order in (1, -1):
            for i, j in zip(left[::order], right[::order], strict=False):
                if before[i] != after[j]:
                    break
                kept[i] = j
    return kept


def evaluate(
    graph: Graph, values: Mapping[Value, jax.Array], wanted: Iterable[Value]
) -> dict[Value, jax.Array]:
    """Compute constants from leaves.

    Args:
        graph: the program.
        values: the leaves.
        wanted: numbers of constants.

    Returns:
        The values known now, the wanted ones among them.
    """
    wanted, found = list(wanted), {**graph.captured, **values}
    constant = [s for s in graph.steps if set(s.results) & graph.depends.keys()]
    for step in needed_steps(constant, [v for v in wanted if v not in found]):
        operands = [found[v] if isinstance(v, Value) else v.val for v in step.operands]
        found.update(zip(step.results, bind(step.eqn, operands), strict=True))
    return found


def bind(eqn: JaxprEqn, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """Compute an equation: its primitive, with its parameters, on other operands."""
    given = {
        var: operand
        for var, operand in zip(eqn.invars, operands, strict=True)
        if not isinstance(var, Literal)
    }
    program = _one_step(eqn, tuple(given))
    return jex_core.jaxpr_as_fun(program)(*given.values())


def _one_step(eqn: JaxprEqn, invars: tuple[object, ...]) -> jex_core.ClosedJaxpr:
    jaxpr = Jaxpr((), invars, tuple(eqn.outvars), [eqn], eqn.effects)
    return jex_core.ClosedJaxpr(jaxpr, ())
