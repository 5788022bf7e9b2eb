"""One program: agreement, a difference on purpose, or a disagreement."""

from __future__ import annotations

import re
from dataclasses import dataclass

import flax.linen

import linsey.linen
from tests.compat.programs.compare import (
    Outcome,
    compare,
    label,
    outcomes,
    run,
    within_noise,
)
from tests.compat.programs.generate import program
from tests.compat.programs.known import explain
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
    theirs, ours = outcomes(source, shape, numeric)
    return judge(source, shape, theirs, ours, numeric)


def judge(
    source: str, shape: Shape, theirs: Outcome, ours: Outcome, numeric: bool
) -> Result:
    """What two outcomes of a source say."""
    known = None
    for difference in compare(theirs, ours, numeric):
        if difference.cause.startswith("numbers") and within_noise(
            source, shape, theirs, ours, difference.path
        ):
            continue
        row = explain(source, theirs, ours, difference)
        if row is None:
            return Result("disagrees", difference.cause, difference.detail, source)
        known = row
    if known:
        return Result("known", known.row, "", source)
    if theirs.error is not None:
        return Result("fails", label(theirs.error), "", source)
    return Result("agrees", source=source)


def shortest(source: str, shape: Shape, numeric: bool) -> str:
    """A short program that shows the same disagreement."""
    result = check_source(source, shape, numeric)
    if result.kind != "disagrees":
        return source
    end = label(run(source, linsey.linen, shape, numeric).error)

    def same(text: str) -> bool:
        ours = run(text, linsey.linen, shape, numeric)
        if alike(label(ours.error)) != alike(end):
            return False  # most are other programs altogether
        theirs = run(text, flax.linen, shape, numeric)
        other = judge(text, shape, theirs, ours, numeric)
        return (other.kind, alike(other.cause)) == ("disagrees", alike(result.cause))

    return reduce(source, same)


def alike(cause: str) -> str:
    """What of a cause stays while the program is made shorter."""
    return re.sub(r"[\w.]*[\d/#][\w#()/.]*", "#", cause)[:100]
