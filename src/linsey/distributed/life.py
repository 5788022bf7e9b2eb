"""The signs of life of a rank, in memory that it shares with its keeper.

A rank writes here at each step, which costs less than a microsecond and no system call;
its keeper, another process, reads when it wants to. The keeper in turn writes here at
which call of `step` all ranks stop or save together. Each side has words of its own,
of eight bytes, which are written at once.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import IO

_WORDS = 16
_TEXT = 120  # bytes
_SIZE = 8 * _WORDS + 1 + _TEXT

# Written by the rank.
CALLS = 0
"""How often `step` was called."""
STEP = 1
"""The step of the last call."""
SIGN = 2
"""When the last sign of life was given: nanoseconds of the monotonic clock."""
LIMIT = 3
"""How long the rank may go without a sign of life, in milliseconds."""
WAITS = 4
"""At which proposed call the rank waits for the decision; 0 if at none."""
LEFT = 5
"""Whether the rank has left in good order."""

# Written by the keeper.
PROPOSED = 8
"""At which call all ranks may act together; 0 if no proposal is there."""
ACTION = 9
"""What they would do there: 1 save, 2 stop."""
DECIDED = 10
"""The proposal that all ranks can meet."""

SAVE, STOP = 1, 2


class Life:
    """The shared memory of a rank and its keeper.

    Args:
        file: an open file, which both have. If `None`, a new one without a name.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        if file is None:
            file = tempfile.TemporaryFile()
            file.truncate(_SIZE)
        self.file = file
        self._memory = mmap.mmap(file.fileno(), _SIZE)
        self.words = memoryview(self._memory)[: 8 * _WORDS].cast("q")

    @property
    def doing(self) -> str:
        """What the rank does: words for people, of its choice."""
        start = 8 * _WORDS
        length = min(self._memory[start], _TEXT)
        return self._memory[start + 1 : start + 1 + length].decode(errors="replace")

    @doing.setter
    def doing(self, text: str) -> None:
        written = text.encode()[:_TEXT]
        start = 8 * _WORDS
        self._memory[start] = 0
        self._memory[start + 1 : start + 1 + len(written)] = written
        self._memory[start] = len(written)
