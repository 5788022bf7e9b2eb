"""The values that are stored between segments, and for how long.

Values of the forward pass are stored until the last segment of the forward pass that
uses them. The backward pass needs them again. Only the values at a few cuts, the
*checkpoints*, are stored until then; the others are recomputed.
"""

from __future__ import annotations

from jax.extend.core import Var

from linsey.batch_stats.microbatches.dependencies import CHEAP, Program, size_of
from linsey.batch_stats.microbatches.flat_program import variables

ALWAYS = 2**62
"""A segment after all others."""


def choose_stored(program: Program, window: int) -> dict[Var, int]:
    """Choose the variables to store, and until which segment.

    Args:
        program: the program of a microbatch.
        window: number of crossings from one segment to the next per checkpoint. The
            last crossing always is a checkpoint. With 1, only cheap values are
            recomputed.

    Returns:
        The last segment that may read each stored variable.
    """
    used, last = _last_uses(program)
    stored: dict[Var, int] = {}
    for var in _reduced(program, used, {}):
        stored[var] = used[var]
    for var in _checkpoints(program, stored, last, window):
        stored[var] = ALWAYS
    return stored


def _last_uses(program: Program) -> tuple[dict[Var, int], int]:
    """Find the variables that later segments use, and the last segment going forward.

    Variables that only the backward pass uses, such as the mask of a ReLU, are left out
    if they belong to an earlier segment: they are recomputed together with the
    values that they mask.
    """
    forward = [program.eqns[number] for number in sorted(program.forward)]
    last = max((program.level_of(e) for e in forward), default=0)
    used: dict[Var, int] = {}
    for number, eqn in enumerate(program.eqns):
        level = program.level_of(eqn)
        for var in variables(eqn.invars):
            if var not in program.varying or var in program.inputs:
                continue
            is_forward = program.producer[var] in program.forward
            late = not is_forward and program.level[var] >= last
            if level > program.level[var] and (late or number in program.forward):
                used[var] = max(used.get(var, 0), level)
    return used, last


def _reduced(
    program: Program, used: dict[Var, int], stored: dict[Var, int]
) -> list[Var]:
    """Leave out variables that are cheap to compute from others stored as long."""
    kept = dict(used)
    for var in sorted(used, key=program.producer.__getitem__, reverse=True):

        def is_at_hand(v: Var, var: Var = var) -> bool:
            if v not in program.varying or v in program.inputs:
                return True
            until = max(kept.get(v, -1), stored.get(v, -1))
            return v is not var and until >= used[var]

        numbers, ends = program.needed([var], is_at_hand)
        cheap = all(program.eqns[n].primitive.name in CHEAP for n in numbers)
        if cheap and all(map(is_at_hand, ends)):
            del kept[var]
    return list(kept)


def _checkpoints(
    program: Program, stored: dict[Var, int], last: int, window: int
) -> set[Var]:
    """Choose the smallest cut in each window of crossings, beginning with the last."""
    cuts = [_cut(program, stored, crossing) for crossing in range(last)]
    chosen: set[Var] = set(cuts[-1]) if cuts else set()
    end = last - 1
    while end - window >= 0:
        sizes = [sum(map(size_of, cuts[c])) for c in range(end - window, end)]
        end = end - window + sizes.index(min(sizes))
        chosen.update(cuts[end])
    return chosen


def _cut(program: Program, stored: dict[Var, int], crossing: int) -> list[Var]:
    """Find a small set of values that determine all values stored across a crossing.

    They are either the stored values themselves, or one smaller value from which the
    segment computes them.
    """
    live = [
        v
        for v, until in stored.items()
        if program.level[v] <= crossing < until
        and program.producer[v] in program.forward
    ]
    size = sum(map(size_of, live))
    numbers, _ = program.needed(live, lambda v: program.level[v] < crossing)
    for number in reversed(numbers):
        for var in program.eqns[number].outvars:
            small = 4 * size_of(var) <= 3 * size
            if var in program.varying and small and _precedes(program, var, live):
                return [var]
    return live


def _precedes(program: Program, var: Var, live: list[Var]) -> bool:
    """Tell whether one variable, inputs and shared values determine the others."""
    level = program.level[var]

    def free(v):
        return v not in program.varying or v in program.inputs

    def stop(v):
        return v is var or free(v) or program.level[v] < level

    _, ends = program.needed(live, stop)
    return var in ends and all(v is var or free(v) for v in ends)
