"""The training steps since the last record of them, and which of them were skipped."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from linsey.schema import Between

RECENT = 50
"""How many steps back skipped ones are counted; fewer in a shorter run."""

_Count = Annotated[int, Between(0, 2**53)]


@dataclasses.dataclass(frozen=True)
class Window:
    """Sums over the steps since the last record of training.

    They are added up step by step, so that a run which is stopped here and continued
    writes the same record, to the last bit, as one that goes on.

    Attributes:
        steps: how many.
        skipped: those among them that were not committed.
        correct: right answers.
        loss: sum of the losses of the steps that were committed.

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
        """Return what is recorded of the steps; a loss only if one was committed."""
        committed = self.steps - self.skipped
        return {
            "loss": self.loss / committed if committed else None,
            "accuracy": self.correct / (self.steps * batch_size),
            "skipped": self.skipped,
        }


_TAIL = 10
"""Steps at the end of a run; half of all of them in one of less than 20."""


def recent(skipped_at: tuple[int, ...], step: int) -> tuple[int, ...]:
    """Return the skipped steps that count still when a step is done."""
    return tuple(skipped for skipped in skipped_at if skipped > step - RECENT)


def too_many(skipped_at: tuple[int, ...], total: int) -> bool:
    """Tell whether more than half of the last steps were skipped.

    Steps that are not yet done count as committed ones: a run ends at the first step
    after which it cannot be otherwise.

    Args:
        skipped_at: the skipped steps among the last ones.
        total: steps of the whole run.

    Example:
        >>> too_many((2, 3, 5, 6), total=8), too_many((2, 3, 5, 6, 7), total=8)
        (False, True)
    """
    return len(skipped_at) > math.floor(min(RECENT, total) / 2)


def ends_skipped(skipped_at: tuple[int, ...], total: int) -> bool:
    """Tell whether a run that has come to its end did not get over its last steps.

    That few were skipped before does not help it: nothing shows that it would have gone
    on from there.

    Args:
        skipped_at: the skipped steps among the last ones.
        total: steps of the whole run.

    Example:
        >>> ends_skipped((5, 6, 7, 8), total=8), ends_skipped((1, 2, 3, 8), total=8)
        (True, False)
    """
    first = total - max(1, min(_TAIL, total // 2))
    return set(range(first + 1, total + 1)) <= set(skipped_at)
