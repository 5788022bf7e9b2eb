"""Differences that are on purpose, each with its row of `docs/compatibility.md`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.programs.compare import Difference, Outcome

Predicate = Callable[[str, Outcome, Outcome, Difference], bool]


@dataclass(frozen=True)
class Known:
    """A difference on purpose.

    Attributes:
        row: how the first column of the row in `docs/compatibility.md` begins.
        applies: whether it explains a difference between two outcomes of a source.
    """

    row: str
    applies: Predicate


def raises(name: str, *words: str) -> Callable[..., bool]:
    """linsey raises an error of its own, in programs with one of the words."""

    def applies(source: str, theirs: Outcome, ours: Outcome, _: Difference) -> bool:
        found = type(ours.error).__name__ == name
        return found and (not words or any(word in source for word in words))

    return applies


def differs(pattern: str, *words: str) -> Predicate:
    """The cause has a form, in programs with all of the words."""

    def applies(source: str, _: Outcome, __: Outcome, difference: Difference) -> bool:
        found = re.match(pattern, difference.cause, re.DOTALL)
        return bool(found) and all(word in source for word in words)

    return applies


def created_again(source: str, theirs: Outcome, ours: Outcome, d: Difference) -> bool:
    """`map_variables(init=True)` makes anew what exists: Flax fails, or repeats it."""
    if "nn.map_variables" not in source or "init=True" not in source:
        return False
    fails = type(theirs.error).__name__.startswith(("Scope", "ModifyScope"))
    return fails or d.cause.startswith(("numbers", "lengths"))


def more_fields(source: str, theirs: Outcome, ours: Outcome, d: Difference) -> bool:
    """Texts of modules differ by the fields that only linsey's `BatchNorm` has."""
    _, found, rest = d.detail.partition("Flax: ")
    a, _, b = rest.partition("\nlinsey: ")
    return bool(found) and a != b and a == re.sub(MORE_FIELDS, "", b)


MORE_FIELDS = (
    r"\n *(unbiased_variance|group_size|renorm|num_domains|frozen|nonfinite|"
    r"count_updates|activation|save_memory) = [^\n]*"
)


AXES = "values at .*names|facts|Flax AssertionError"
CALLS = "(keys|lengths|facts|order of facts)"

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
    Known("Keys drawn inside `nn.jit`", differs("(bits|numbers) ", "nn.jit")),
    Known("Interceptors, and captured", differs(CALLS, "nn.jit", "capture_inter")),
    Known("Interceptors, and captured", differs(CALLS, "nn.jit", "intercept_methods")),
    Known("`nn.map_variables(..., init=True)`", created_again),
    Known(
        "An axis added at position -1",
        differs(AXES, "nn.PARTITION_NAME", ": -1}"),
    ),
    Known(
        "`WeightNorm` keeps the layer inside from",
        differs("keys at .*intermediates", "nn.WeightNorm", "capture_intermediates"),
    ),
    Known("| Fields beyond those of Flax", more_fields),
    Known("A value of an inner JAX transform", raises("JaxTransformError")),
)


def explain(
    source: str, theirs: Outcome, ours: Outcome, difference: Difference
) -> Known | None:
    """The row that explains a difference, if there is one."""
    fitting = (k for k in KNOWN if k.applies(source, theirs, ours, difference))
    return next(fitting, None)
