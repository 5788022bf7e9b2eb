"""The number of examples per second that a run learns from, in its steps alone."""

from __future__ import annotations

from collections import deque

_RECENT = 50  # steps


class Speedometer:
    """Examples per second over steps, whose times are added one by one.

    The first step of a process waits for the compiler and says nothing about speed, so
    it is left out. Evaluations and saves are not steps.

    Args:
        batch_size: examples in a step.

    Example:
        >>> speed = Speedometer(batch_size=64)
        >>> for seconds in (9.0, 0.5, 0.25):
        ...     speed.add(seconds)
        >>> speed.recent, speed.take(), speed.take()
        (170.66666666666666, 170.66666666666666, None)
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._has_compiled = False
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._steps, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        """Add the time of a step."""
        if self._has_compiled:
            self._recent.append(seconds)
            self._steps += 1
            self._seconds += seconds
        self._has_compiled = True

    @property
    def recent(self) -> float | None:
        """The speed over the last steps; `None` while there are none."""
        return self._over(len(self._recent), sum(self._recent))

    def take(self) -> float | None:
        """Return the speed since the last call; `None` without a step in between."""
        speed = self._over(self._steps, self._seconds)
        self._steps, self._seconds = 0, 0.0
        return speed

    def _over(self, steps: int, seconds: float) -> float | None:
        return steps * self._batch_size / seconds if seconds > 0 else None
