"""One program: agreement, a difference on purpose, or a disagreement."""

from __future__ import annotations

from dataclasses import dataclass

from tests.compat.programs.compare import Difference, compare, label, outcomes
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
    difference = compare(theirs, ours, numeric)
    if difference is None:
        if theirs.error is None:
            return Result("agrees", source=source)
        return Result("fails", label(theirs.error), source=source)
    known = explain(source, theirs, ours, difference)
    if known:
        return Result("known", known.row, difference.detail, source)
    return Result("disagrees", difference.cause, difference.detail, source)


def shortest(source: str, shape: Shape, numeric: bool) -> str:
    """A short program that shows the same disagreement."""
    result = check_source(source, shape, numeric)

    def same(text: str) -> bool:
        other = check_source(text, shape, numeric)
        return (other.kind, alike(other.cause)) == (result.kind, alike(result.cause))

    return reduce(source, same) if result.kind == "disagrees" else source


def alike(cause: str) -> str:
    """What of a cause stays while the program is made shorter."""
    return cause


__all__ = ["Difference", "Result", "check", "check_source", "shortest"]
