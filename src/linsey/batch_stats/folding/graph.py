"""The program of an evaluation as a list of steps, and the constants in it.

Words: a *leaf* is an array of the variables. A *constant* is a value that is computed
from leaves alone and does not depend on the inputs. Each value has a unique number,
because variables of a jaxpr are not unique: equal layers may share one jaxpr object,
so one variable may stand for several values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from linsey.batch_stats.folding.axes import Shape, shape_of

Value = int  # the number of a value
Atom = Value | Literal
Operand = jax.Array | np.ndarray
Leaves = frozenset[int]  # positions among the leaves of the variables


@dataclass(frozen=True, eq=False)
class Step:
    """An equation, the program that contains it, and its operands and results."""

    eqn: JaxprEqn
    within: Jaxpr
    operands: tuple[Atom, ...]
    results: tuple[Value, ...]

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqn.primitive.name


@dataclass(frozen=True, eq=False)
class Graph:
    """A program in which calls are inlined if they may contain something to fold.

    Attributes:
        steps: the steps in order, without those that do not affect the results.
        leaves: the variables, in the order of their leaves.
        inputs: the other arguments.
        outputs: the results.
        captured: arrays that the program contains.
        depends: for every constant, the leaves that it is computed from.
        varying: for every constant, the axes along which its entries may differ.
        makers: the step that computes each value.
        users: the steps that read each value; `None` stands for the results.
    """

    steps: list[Step]
    leaves: list[Value]
    inputs: list[Value]
    outputs: list[Atom]
    captured: dict[Value, jax.Array]
    avals: dict[Value, ShapedArray]
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
        """Tell whether a value is the same for all inputs."""
        return not isinstance(atom, Value) or atom in self.depends

    def leaves_of(self, atom: Atom) -> Leaves:
        """Return the leaves that a constant is computed from."""
        return self.depends[atom] if isinstance(atom, Value) else frozenset()

    def sole_user(self, value: Value) -> Step | None:
        """Return the only step that reads a value; `None` if others use it as well."""
        users = self.users[value]
        return users[0] if len(users) == 1 else None

    def shape(self, atom: Atom) -> Shape:
        """Return the shape of a value; sizes may be symbolic."""
        return (
            tuple(self.avals[atom].shape) if isinstance(atom, Value) else shape_of(atom)
        )


def needed_steps(steps: Iterable[Step], outputs: Iterable[Atom]) -> list[Step]:
    """Return the steps that outputs need, or that have side effects."""
    needed, kept = {v for v in outputs if isinstance(v, Value)}, []
    for step in reversed(list(steps)):
        if step.eqn.effects or needed.intersection(step.results):
            needed.update(v for v in step.operands if isinstance(v, Value))
            kept.append(step)
    return kept[::-1]


def evaluate(
    graph: Graph, leaves: Mapping[Value, jax.Array], wanted: Sequence[Value]
) -> dict[Value, jax.Array]:
    """Compute constants from leaves.

    Args:
        graph: the program.
        leaves: the leaves that are needed.
        wanted: numbers of the constants to compute.

    Returns:
        All known values, including the wanted ones.
    """
    found = {**graph.captured, **leaves}
    constant = [s for s in graph.steps if set(s.results) & graph.depends.keys()]
    for step in needed_steps(constant, [v for v in wanted if v not in found]):
        results = bind(step, [value_of(found, v) for v in step.operands])
        found.update(zip(step.results, results, strict=True))
    return found


def value_of(values: Mapping[Value, jax.Array], atom: Atom) -> Operand:
    """Return the array of a value, or of a literal in the program."""
    if isinstance(atom, Value):
        return values[atom]
    assert isinstance(atom.aval, ShapedArray)
    return np.asarray(atom.val, atom.aval.dtype)


def bind(step: Step, operands: Sequence[Operand]) -> list[jax.Array]:
    """Apply the primitive of a step, with its parameters, to any operands."""
    eqn = step.eqn
    given: dict[Var, Operand] = {
        var: operand
        for var, operand in zip(eqn.invars, operands, strict=True)
        if not isinstance(var, Literal)
    }
    program = step.within.replace(
        constvars=[],
        invars=list(given),
        outvars=list(eqn.outvars),
        eqns=[eqn],
        effects=eqn.effects,
    )
    function = jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(program, ()))
    return function(*given.values())
