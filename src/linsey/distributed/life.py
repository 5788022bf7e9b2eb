"""The signs of life of a rank, in memory that it shares with its keeper.

A rank writes here at each step, which costs less than a microsecond and no system call;
its keeper, another process, reads when it wants to. The keeper in turn writes here at
which call of `step` all ranks stop or save together. Each side has words of its own,
of eight bytes, which are written at once.
"""

from __future__ import annotations

import mmap
import os
import tempfile

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


def new_file(size: int = _SIZE) -> int:
    """Open a file without a name, for two processes.

    Args:
        size: in bytes. Defaults to what the signs of life take.

    Returns:
        Its descriptor, which is open until the process ends.
    """
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


class Life:
    """The shared memory of a rank and its keeper.

    Args:
        file: the descriptor of a file that both have open. If `None`, the memory is of
            this process alone.
    """

    def __init__(self, file: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if file is None else file, _SIZE)
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
