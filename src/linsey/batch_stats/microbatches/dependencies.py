"""The dependencies between values in the program of one microbatch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import cast

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from linsey.batch_stats.microbatches.flat_program import uses_axis, variables

CHEAP = frozenset(
    "abs add add_any and atan2 broadcast_in_dim cbrt ceil clamp convert_element_type "
    "copy copy_p cos div eq erf exp exp2 expand_dims expm1 floor ge gt imag "
    "integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow real "
    "reduce_precision rem reshape round rsqrt select_n sign sin slice sqrt square "
    "squeeze stop_gradient sub tan tanh transpose xor".split()
)
"""Primitives whose results are as cheap to recompute as to load from memory."""
REPLICATED = frozenset("psum pmax pmin all_gather".split())
"""Collectives with one result for all microbatches."""
LARGE = 2**16  # largest size in bytes of a constant that is made outside the loops


class Program:
    """The dependencies in the program of one microbatch.

    Args:
        closed: the program, with collectives at the top level.
        axis: the axis of the collectives.
        mapped: for each input, whether it differs between microbatches.
        primal: number of outputs of the forward pass, which come first.

    Attributes:
        level: level of each variable.
        varying: the variables that differ between microbatches.
        inputs: the inputs among the varying variables.
    """

    def __init__(
        self, closed: ClosedJaxpr, axis: str, mapped: Sequence[bool], primal: int
    ) -> None:
        self.axis, self.primal = axis, primal
        self.jaxpr = closed.jaxpr
        self.eqns, self.outputs = closed.jaxpr.eqns, closed.jaxpr.outvars
        given = zip(closed.jaxpr.invars, mapped, strict=True)
        self.inputs = {v for v, is_mapped in given if is_mapped}
        known = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
        self.level, self.varying = dict.fromkeys(known, 0), set(self.inputs)
        self.inside: set[Var] = set()
        self.producer: dict[Var, int] = {}
        for number, eqn in enumerate(self.eqns):
            self._add(number, eqn)

    def _add(self, number: int, eqn: JaxprEqn) -> None:
        level, varies = self.level_of(eqn), any(map(self.is_varying, eqn.invars))
        if eqn.primitive.name == "axis_index" and uses_axis(eqn, self.axis):
            varies = True
            self.inputs.update(eqn.outvars)
        elif self.is_collective(eqn):
            level, varies = level + varies, varies and not self.is_replicated(eqn)
        for var in eqn.outvars:
            self.level[var], self.producer[var] = level, number
            if varies:
                self.varying.add(var)
            elif not self.is_collective(eqn) and self._is_expanded(eqn, var):
                self.inside.add(var)

    def _is_expanded(self, eqn: JaxprEqn, var: Var) -> bool:
        """Tell whether a shared value is large, and cheap to make from smaller ones."""
        taken = variables(eqn.invars)
        if eqn.primitive.name not in CHEAP | {"iota"} or size_of(var) <= LARGE:
            return False
        return any(v in self.inside for v in taken) or (
            size_of(var) > sum(map(size_of, taken))
        )

    def is_varying(self, var: Var | Literal) -> bool:
        """Tell whether a variable differs between microbatches."""
        return not isinstance(var, Literal) and var in self.varying

    def level_of(self, eqn: JaxprEqn) -> int:
        """Return the first segment in which an equation can be computed."""
        return max((self.level[v] for v in variables(eqn.invars)), default=0)

    def is_collective(self, eqn: JaxprEqn) -> bool:
        """Tell whether an equation combines microbatches."""
        return uses_axis(eqn, self.axis) and eqn.primitive.name != "axis_index"

    def is_replicated(self, eqn: JaxprEqn) -> bool:
        """Tell whether a collective has the same result for all microbatches."""
        return eqn.primitive.name in REPLICATED and not eqn.params["axis_index_groups"]

    def is_outside(self, var: Var) -> bool:
        """Tell whether a value is computed only once, outside the loops."""
        return var not in self.varying and var not in self.inside

    @cached_property
    def last_level(self) -> int:
        """The last segment that an output needs."""
        return max((self.level[v] for v in variables(self.outputs)), default=0)

    @cached_property
    def collectives(self) -> dict[int, list[JaxprEqn]]:
        """The collectives of varying values, by segment."""
        found = defaultdict(list)
        for eqn in self.eqns:
            if self.is_collective(eqn) and any(map(self.is_varying, eqn.invars)):
                found[self.level_of(eqn)].append(eqn)
        return found

    def effects(self, level: int) -> list[JaxprEqn]:
        """List the equations of a segment with side effects, such as printing."""
        return [
            e
            for e in self.eqns
            if e.effects and not uses_axis(e, self.axis) and self.level_of(e) == level
        ]

    def needed(
        self, targets: Iterable[Var], stop: Callable[[Var], bool]
    ) -> tuple[list[int], set[Var]]:
        """Trace variables back to those that they are computed from.

        Args:
            targets: the variables to compute.
            stop: tells whether the value of a variable is already available.

        Returns:
            The numbers of the equations to run, in order, and the variables where the
            search stopped.
        """
        numbers, ends, seen = set(), set(), set()
        waiting = list(targets)
        while waiting:
            var = waiting.pop()
            if var in seen:
                continue
            seen.add(var)
            if stop(var) or var not in self.producer:
                ends.add(var)
            elif (number := self.producer[var]) not in numbers:
                numbers.add(number)
                waiting.extend(variables(self.eqns[number].invars))
        return sorted(numbers), ends

    @cached_property
    def forward(self) -> set[int]:
        """The numbers of the equations that outputs of the forward pass depend on."""
        targets = variables(self.outputs[: self.primal])
        return set(self.needed(targets, lambda var: False)[0])


def aval_of(var: Var | Literal) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a variable."""
    aval = cast(jax.core.ShapedArray, var.aval)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def size_of(var: Var) -> int:
    """Return the size in bytes of a variable of one microbatch."""
    aval = aval_of(var)
    return math.prod(aval.shape) * aval.dtype.itemsize
