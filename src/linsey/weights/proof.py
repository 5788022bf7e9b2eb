"""The result of `prove`: differences layer by layer, and their probable causes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from linsey.errors import MismatchError


@dataclass(frozen=True)
class Difference:
    """The difference in the output of a layer, in the result, or in a statistic.

    Attributes:
        mode: `evaluation` or `training`; `statistics` for statistics after training.
        ours: our path of the layer or of the array; `output` for the result.
        theirs: its name in their model.
        value: the largest difference, divided by the largest value of theirs.
        rounding: how much ours differs if the last digits of the input change. In
            training, layers that normalize only few values make it large.
    """

    mode: str
    ours: str
    theirs: str
    value: float
    rounding: float = 0.0


@dataclass(frozen=True)
class Cause:
    """A probable cause of differences.

    Attributes:
        kind: `momentum inverted`, `momentum`, `epsilon`, `unbiased variance`,
            `transposed kernel`, `mean and variance exchanged`, `layers exchanged`,
            `forgotten layer` or `computation`.
        layer: our path of the layer, or its name in theirs if ours has none.
        text: a sentence that says what was found, and what to write.
    """

    kind: str
    layer: str
    text: str


@dataclass(frozen=True)
class Proof:
    """The result of comparing two models.

    Attributes:
        differences: differences in evaluation, in training, and of the statistics after
            training, with layers in the order of their calls.
        causes: probable causes, the likeliest first.
        tolerances: the largest difference that is ignored, by mode.
    """

    differences: tuple[Difference, ...]
    causes: tuple[Cause, ...]
    tolerances: dict[str, float]

    @property
    def is_equal(self) -> bool:
        """Whether no difference counts and all options agree."""
        return self.first is None and not self.causes

    @property
    def first(self) -> Difference | None:
        """The first difference that counts; layers come before statistics."""
        return next((d for d in self.differences if self.counts(d)), None)

    def counts(self, difference: Difference) -> bool:
        """Tell whether a difference exceeds both the tolerance and rounding effects."""
        allowed = max(self.tolerances[difference.mode], 10 * difference.rounding)
        return not difference.value <= allowed

    @property
    def largest(self) -> Difference:
        """The largest difference."""
        return max(self.differences, key=lambda difference: difference.value)

    def raise_if_different(self) -> None:
        """Raise an error unless both models compute the same.

        Raises:
            MismatchError: they do not. The message contains the proof.
        """
        if not self.is_equal:
            raise MismatchError(
                str(self),
                "The variables are not those of the other model, or the module "
                "computes something else.",
                "Mend what is named above, and prove it again.",
            )

    def __str__(self) -> str:
        """Return the proof as lines of text."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield "The models agree." if self.is_equal else "The models differ."
        for mode, tolerance in self.tolerances.items():
            found = [d for d in self.differences if d.mode == mode]
            if not found:
                continue
            most = max(found, key=lambda difference: difference.value)
            yield (
                f"{mode}: {len(found)} compared, the largest difference is "
                f"{most.value:.1e} at `{most.ours}` (allowed: {tolerance:.0e})"
            )
            first = next((d for d in found if self.counts(d)), None)
            if first is not None:
                yield (
                    f"  they part at `{first.ours}`, there `{first.theirs}`, by "
                    f"{first.value:.1e}"
                )
        for kind in dict.fromkeys(cause.kind for cause in self.causes):
            same = [cause for cause in self.causes if cause.kind == kind]
            yield from (f"probably {kind}: {cause.text}" for cause in same[:3])
            if len(same) > 3:
                yield f"  and {len(same) - 3} more layers likewise"
