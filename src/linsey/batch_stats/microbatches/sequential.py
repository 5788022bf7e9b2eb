"""Sequential execution of segments, each of them as a loop over microbatches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import JaxprEqn, Var

from linsey.batch_stats.microbatches.dependencies import Program, aval_of
from linsey.batch_stats.microbatches.flat_program import (
    Function,
    read,
    run,
    trace_flat,
    uses_axis,
    variables,
)
from linsey.batch_stats.microbatches.storage import ALWAYS, choose_stored

State = tuple[list[Array], list[Array]]


def map_sequentially(
    function: Function,
    shared: Sequence[Array],
    stacked: Sequence[Array],
    *,
    axis: str,
    derivatives: int,
    window: int,
) -> tuple[list[Array], list[bool]]:
    """Map a function over the first axis of arrays, with little memory.

    The result is that of `jax.vmap(function, in_axes=(None, ..., 0, ...),
    axis_name=axis)`, except that outputs which are the same for all microbatches are
    not stacked.

    Args:
        function: function of the arrays in `shared` and of one row of each array in
            `stacked`. It returns a list of arrays.
        shared: arrays that are the same for all microbatches.
        stacked: arrays with one row per microbatch.
        axis: the name of the axis, for collectives in the function.
        derivatives: number of derivatives, which are the last outputs. The outputs
            before them belong to the forward pass.
        window: number of crossings between segments per checkpoint.

    Returns:
        The outputs, and for each of them whether it has one row per microbatch.

    Example:
        >>> from jax import lax
        >>> centre = lambda x: [x - lax.pmean(x, "i"), lax.psum(x, "i")]
        >>> options = dict(axis="i", derivatives=0, window=1)
        >>> outputs, _ = map_sequentially(centre, [], [jnp.arange(3.0)], **options)
        >>> [output.tolist() for output in outputs]
        [[-1.0, 0.0, 1.0], 3.0]
    """
    size = stacked[0].shape[0]
    rows = [jax.eval_shape(lambda x: x[0], x) for x in stacked]
    closed = trace_flat(function, axis, size, [*shared, *rows])
    mapped = [False] * len(shared) + [True] * len(stacked)
    program = Program(closed, axis, mapped, len(closed.jaxpr.outvars) - derivatives)
    names, invars = closed.jaxpr.constvars, closed.jaxpr.invars
    known = dict(zip([*names, *invars], [*closed.consts, *shared], strict=False))
    given = dict(zip(invars[len(shared) :], stacked, strict=True))
    values = _Run(program, choose_stored(program, window), size, known, given).outputs()
    return values, [program.is_varying(v) for v in program.outputs]


class _Run:
    """The run of a program, with the values computed so far.

    Args:
        program: the program of one microbatch.
        stored: the variables to store, and until which segment.
        size: number of microbatches.
        shared: values that are the same for all microbatches.
        stacked: values that differ between microbatches, stacked along a first axis.
    """

    def __init__(
        self,
        program: Program,
        stored: dict[Var, int],
        size: int,
        shared: dict[Var, Array],
        stacked: dict[Var, Array],
    ) -> None:
        self.program, self.stored, self.size = program, stored, size
        self.shared, self.stacked = shared, stacked
        self.latest = jnp.zeros(())
        for eqn in program.eqns:
            if eqn.primitive.name == "axis_index" and uses_axis(eqn, program.axis):
                self.stacked[eqn.outvars[0]] = jnp.arange(size, dtype=jnp.int32)

    def outputs(self) -> list[Array]:
        """Run all segments and return the outputs; those that vary are stacked."""
        program = self.program
        for level in range(program.last_level + 1):
            self._run_segment(level)
        wanted = variables(program.outputs)
        self._compute_shared(v for v in wanted if v not in program.varying)
        values = read(self.shared | self.stacked, program.outputs)
        return [jnp.asarray(value) for value in values]

    def _run_segment(self, level: int) -> None:
        """Run a loop over the microbatches, and the collectives after it."""
        program = self.program
        collectives = program.collectives.get(level, [])
        summed = [eqn for eqn in collectives if _is_sum(eqn)]
        others = [eqn for eqn in collectives if not _is_sum(eqn)]
        results = [*self.stored, *variables(program.outputs)]
        kept = [v for v in results if program.level[v] == level]
        kept += [v for eqn in others for v in variables(eqn.invars)]
        kept = [v for v in variables(kept) if v in program.varying - {*self.stacked}]
        sums = [v for eqn in summed for v in variables(eqn.invars)]
        totals = self._loop(level, sums, kept)
        for eqn, total in zip(summed, totals, strict=True):
            self.shared[eqn.outvars[0]] = self._finish_sum(eqn, total)
        for eqn in others:
            self._combine(eqn)

    def _loop(self, level: int, sums: list[Var], kept: list[Var]) -> list[Array]:
        """Run the loop of a segment: stack values in `kept`, return sums of `sums`."""
        program, until = self.program, lambda v: self.stored.get(v, ALWAYS)
        at_hand = {v for v in self.stacked if until(v) >= level}
        effects = program.effects(level)
        targets = [*sums, *kept, *(v for e in effects for v in variables(e.invars))]
        numbers, ends = program.needed(
            targets, lambda v: v in at_hand or program.is_outside(v)
        )
        if not targets:
            return []
        self._compute_shared(v for v in ends if program.is_outside(v))
        eqns = [program.eqns[n] for n in numbers] + effects
        shared = {v: self.shared[v] for v in ends if v in self.shared}
        rows = {v: self.stacked[v] for v in ends if v in self.stacked}
        # Write new values into the memory of values that are read for the last time.
        reused = _pair(kept, [v for v in rows if until(v) <= level])
        indices = {old: kept.index(new) for new, old in reused.items()}

        def step(i: Array, state: State) -> State:
            totals, columns = state
            env = dict(shared)
            for v, rows_of_v in rows.items():
                whole = columns[indices[v]] if v in indices else rows_of_v
                env[v] = lax.dynamic_index_in_dim(whole, i, keepdims=False)
            values = run(program.jaxpr, eqns, env, [*sums, *kept])
            terms, new = values[: len(sums)], values[len(sums) :]
            totals = [t + v.astype(t.dtype) for t, v in zip(totals, terms, strict=True)]
            pairs = zip(columns, new, strict=True)
            write = lax.dynamic_update_index_in_dim
            return totals, [write(column, value, i, 0) for column, value in pairs]

        zeros = [_zero(v) for v in sums]
        buffers = [
            self.stacked[reused[v]] if v in reused else self._buffer(v) for v in kept
        ]
        totals, columns = lax.fori_loop(0, self.size, step, (zeros, buffers))
        self.stacked.update(zip(kept, columns, strict=True))
        self._remember([*totals, *columns])
        return totals

    def _buffer(self, var: Var) -> Array:
        """Make the array to which the values of all microbatches are written.

        It is filled with a number that the previous segment has computed, so that the
        compiler cannot allocate the arrays of all segments at once.
        """
        aval = aval_of(var)
        shape, dtype = (self.size, *aval.shape), aval.dtype
        if not jnp.issubdtype(dtype, jnp.number):
            return jnp.zeros(shape, dtype)
        first = self.latest
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            first = first.real
        return jnp.broadcast_to(first.astype(dtype), shape)

    def _remember(self, results: list[Array]) -> None:
        """Remember one number from the smallest result of a segment."""
        numbers = [v for v in results if v.size and jnp.issubdtype(v.dtype, jnp.number)]
        if numbers:
            self.latest = min(numbers, key=lambda v: v.size).ravel()[0]

    # --- values that are the same for all ---------------------------------------------

    def _compute_shared(self, targets: Iterable[Var]) -> None:
        """Compute values that are the same for all microbatches."""
        program = self.program
        numbers, _ = program.needed(targets, self.shared.__contains__)
        for eqn in (program.eqns[number] for number in numbers):
            if program.is_collective(eqn):
                self._combine(eqn)
            else:
                values = run(program.jaxpr, [eqn], self.shared, eqn.outvars)
                self.shared.update(zip(eqn.outvars, values, strict=True))

    def _finish_sum(self, eqn: JaxprEqn, total: Array) -> Array:
        """Sum over the remaining axes of a `psum`, if it has any."""
        total = total.astype(aval_of(eqn.outvars[0]).dtype)
        others = tuple(a for a in eqn.params["axes"] if a != self.program.axis)
        return lax.psum(total, others) if others else total

    def _combine(self, eqn: JaxprEqn) -> None:
        """Run a collective on the values of all microbatches at once."""
        program, taken = self.program, variables(eqn.invars)
        values = read(self.shared | self.stacked, taken)
        is_replicated = not any(map(program.is_varying, eqn.outvars))

        def of_one(*row: Array) -> list[Array]:
            env = dict(zip(taken, row, strict=True))
            return run(program.jaxpr, [eqn], env, eqn.outvars)

        outputs = jax.vmap(
            of_one,
            in_axes=[0 if program.is_varying(v) else None for v in taken],
            out_axes=None if is_replicated else 0,
            axis_name=program.axis,
            axis_size=self.size,
        )(*values)
        target = self.shared if is_replicated else self.stacked
        target.update(zip(eqn.outvars, outputs, strict=True))


def _pair(new: Sequence[Var], old: Sequence[Var]) -> dict[Var, Var]:
    """Pair new variables with old ones of the same shape and dtype, where possible."""
    free, pairs = list(old), {}
    for var in new:
        for other in (v for v in free if aval_of(v) == aval_of(var)):
            pairs[var] = other
            free.remove(other)
            break
    return pairs


def _is_sum(eqn: JaxprEqn) -> bool:
    is_whole = not eqn.params.get("axis_index_groups")
    return eqn.primitive.name == "psum" and len(eqn.invars) == 1 and is_whole


def _zero(var: Var) -> Array:
    """Return zeros to which values are added, in float32 or wider."""
    aval = aval_of(var)
    dtype = aval.dtype
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4:
        dtype = jnp.dtype(jnp.float32)
    return jnp.zeros(aval.shape, dtype)
