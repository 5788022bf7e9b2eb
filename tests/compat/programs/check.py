"""One program: agreement, a difference on purpose, or a disagreement."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.compat.programs.compare import Difference, compare, label, within_noise
from tests.compat.programs.generate import program
from tests.compat.programs.known import Case, Known, Variation, explain
from tests.compat.programs.outcome import FLAX, LINSEY, Outcome, outcomes, run
from tests.compat.programs.reduce import reduce
from tests.compat.programs.syntax import Shape


@dataclass(frozen=True)
class Result:
    """What became of a program.

    Attributes:
        kind: `agrees`, `fails` (with the same error), `known` or `disagrees`.
        cause: the error, the row of the document, or what differs.
        detail: where they differ, and how.
        source: the program.
    """

    kind: str
    cause: str = ""
    detail: str = ""
    source: str = ""

    def record(self) -> dict[str, str]:
        return {"kind": self.kind, "cause": self.cause, "detail": self.detail}


def check(seed: int, index: int, numeric: bool = False) -> Result:
    """Runs a program on both libraries."""
    one = program(seed, index)
    return check_source(one.source(), one.shape, numeric)


def check_source(source: str, shape: Shape, numeric: bool) -> Result:
    return judge(Case(source, shape, numeric, *outcomes(source, shape, numeric)))


def judge(case: Case) -> Result:
    """What two outcomes of a source say."""
    rows: dict[str, Known] = {}
    first = undocumented(case, rows)
    variations = list({k.variation: 0 for k in rows.values() if k.variation})
    if first is None and variations:
        first = undocumented(case, rows, variations)
    if first is not None:
        return Result("disagrees", first.cause, first.detail, case.source)
    if rows:
        return Result("known", "; ".join(sorted(rows)), "", case.source)
    if case.theirs.error is not None:
        return Result("fails", label(case.theirs.error), "", case.source)
    return Result("agrees", source=case.source)


def undocumented(
    case: Case, rows: dict[str, Known], variations: Sequence[Variation] = ()
) -> Difference | None:
    """The first difference that no row explains.

    Args:
        case: the program and its outcomes.
        rows: the rows that explain others are put there.
        variations: how Flax is run. The rows that they belong to explain nothing then.
    """
    changed = case.source
    for one in variations:
        changed = one.change(changed)

    @functools.cache
    def flax_run(nudge: float) -> Outcome:
        with ExitStack() as stack:
            for one in variations:
                if one.within:
                    stack.enter_context(one.within())
            return run(changed, FLAX, case.shape, case.numeric, nudge=nudge)

    def our_run(nudge: float) -> Outcome:
        return run(case.source, LINSEY, case.shape, case.numeric, nudge=nudge)

    if variations:
        case = dataclasses.replace(case, theirs=flax_run(0.0))
    for difference in compare(case.theirs, case.ours, case.numeric):
        if difference.cause.startswith("numbers") and within_noise(
            flax_run, our_run, case, difference.path
        ):
            continue
        found = explain(case, difference)
        found = [known for known in found if known.variation not in variations]
        if not found:
            return difference
        rows[found[0].row] = found[0]
    return None


def shortest(source: str, shape: Shape, numeric: bool) -> str:
    """A short program that shows the same disagreement."""
    result = check_source(source, shape, numeric)
    if result.kind != "disagrees":
        return source
    end = label(run(source, LINSEY, shape, numeric).error)

    def same(text: str) -> bool:
        ours = run(text, LINSEY, shape, numeric)
        if alike(label(ours.error)) != alike(end):
            return False  # most are other programs altogether
        theirs = run(text, FLAX, shape, numeric)
        other = judge(Case(text, shape, numeric, theirs, ours))
        return (other.kind, alike(other.cause)) == ("disagrees", alike(result.cause))

    return reduce(source, same)


def alike(cause: str) -> str:
    """What of a cause stays while the program is made shorter."""
    return re.sub(r"[\w.]*[\d/#][\w#()/.]*", "#", cause)[:100]
