"""Sums over the training steps since the last record, and limits on skipped steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from linsey.schema import Between

RECENT = 50
"""How many of the last steps are checked for skipped ones; fewer in a shorter run."""

_Count = Annotated[int, Between(0, 2**53)]


@dataclasses.dataclass(frozen=True)
class Window:
    """Sums over the steps since the last record of training.

    They are added up step by step, so that a run that is stopped here and continued
    writes the same record, to the last bit, as one that goes on.

    Attributes:
        steps: number of steps.
        skipped: number of skipped steps among them.
        correct: number of correct answers.
        loss: sum of the losses of the steps that were not skipped.

    Example:
        >>> window = Window().plus(0.5, correct=3, is_skipped=False)
        >>> window.plus(float("nan"), correct=1, is_skipped=True).means(batch_size=4)
        {'loss': 0.5, 'accuracy': 0.5, 'skipped': 1}
    """

    steps: _Count = 0
    skipped: _Count = 0
    correct: _Count = 0
    loss: float = 0.0

    def plus(self, loss: float, correct: int, is_skipped: bool) -> Window:
        """Return the window with one more step."""
        return Window(
            self.steps + 1,
            self.skipped + is_skipped,
            self.correct + correct,
            self.loss if is_skipped else self.loss + loss,
        )

    def means(self, batch_size: int) -> dict[str, float | None]:
        """Return the record of the steps; its loss is `None` if all were skipped."""
        committed = self.steps - self.skipped
        return {
            "loss": self.loss / committed if committed else None,
            "accuracy": self.correct / (self.steps * batch_size),
            "skipped": self.skipped,
        }


_TAIL = 10
"""The last steps of a run; half of all steps in a run of less than 20."""


def recent(skipped_at: tuple[int, ...], step: int) -> tuple[int, ...]:
    """Return the skipped steps that still count after a step."""
    return tuple(skipped for skipped in skipped_at if skipped > step - RECENT)


def too_many(skipped_at: tuple[int, ...], total: int) -> bool:
    """Tell whether more than half of the last steps were skipped.

    Steps that are not done yet count as not skipped: a run ends as soon as later steps
    cannot change the answer.

    Args:
        skipped_at: the skipped steps among the last ones.
        total: steps of the whole run.

    Example:
        >>> too_many((2, 3, 5, 6), total=8), too_many((2, 3, 5, 6, 7), total=8)
        (False, True)
    """
    return len(skipped_at) > math.floor(min(RECENT, total) / 2)


def ends_skipped(skipped_at: tuple[int, ...], total: int) -> bool:
    """Tell whether all of the last steps of a finished run were skipped.

    It does not matter if few were skipped before: nothing shows that the run would have
    recovered.

    Args:
        skipped_at: the skipped steps among the last ones.
        total: steps of the whole run.

    Example:
        >>> ends_skipped((5, 6, 7, 8), total=8), ends_skipped((1, 2, 3, 8), total=8)
        (True, False)
    """
    first = total - max(1, min(_TAIL, total // 2))
    return set(range(first + 1, total + 1)) <= set(skipped_at)
