"""Differences that are on purpose, each with its row of `docs/compatibility.md`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.programs.compare import Difference, Outcome


@dataclass(frozen=True)
class Known:
    """A difference on purpose.

    Attributes:
        row: how the first column of the row in `docs/compatibility.md` begins.
        applies: whether it explains a difference between two outcomes of a source.
    """

    row: str
    applies: Callable[[str, Outcome, Outcome, Difference], bool]


def raises(name: str, *words: str) -> Callable[..., bool]:
    """linsey raises an error of its own, in programs with one of the words."""

    def applies(source: str, theirs: Outcome, ours: Outcome, _: Difference) -> bool:
        found = type(ours.error).__name__ == name
        return found and (not words or any(word in source for word in words))

    return applies


def keys_in_jit(source: str, theirs: Outcome, ours: Outcome, d: Difference) -> bool:
    numbers = d.cause.startswith(("bits", "numbers"))
    return numbers and "nn.jit" in source


KNOWN = (
    Known(
        "A training call without `batch_stats`",
        raises("MissingBatchStatsError", "BatchNorm"),
    ),
    Known("An axis name that is not bound", raises("UnboundAxisNameError")),
    Known("A traced `use_running_average`", raises("TracedFlagError")),
    Known("Input with another number of channels", raises("FeatureShapeChangedError")),
    Known("A training step on one value", raises("SingleValuePerChannelError")),
    Known("Running averages cast to half", raises("HalfPrecisionStatisticsError")),
    Known("`Dropout` takes a rate", raises("DropoutRateError")),
    Known("Keys drawn inside `nn.jit`", keys_in_jit),
    Known("A value of an inner JAX transform", raises("JaxTransformError")),
)


def explain(
    source: str, theirs: Outcome, ours: Outcome, difference: Difference
) -> Known | None:
    """The row that explains a difference, if there is one."""
    fitting = (k for k in KNOWN if k.applies(source, theirs, ours, difference))
    return next(fitting, None)


def rows(text: str) -> set[str]:
    """First columns of the tables in a document."""
    return set(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))
