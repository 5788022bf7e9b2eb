"""The signs of life of a rank, in memory that it shares with its keeper.

A rank writes here at each step, which takes less than a microsecond and no system call;
its keeper, another process, reads at any time. The keeper in turn writes here at which
call of `step` all ranks stop or save together. Each side writes its own words of eight
bytes, each of them atomically.
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
"""The number of calls of `step`."""
STEP = 1
"""The step of the last call."""
SIGN = 2
"""The time of the last sign of life, in nanoseconds of the monotonic clock."""
LIMIT = 3
"""How long the rank may go without a sign of life, in milliseconds."""
WAITS = 4
"""The proposed call at which the rank waits for the decision; 0 if it does not wait."""
LEFT = 5
"""Whether the rank has left the job normally."""

# Written by the keeper.
PROPOSED = 8
"""The call at which all ranks may act together; 0 if there is no proposal."""
ACTION = 9
"""The proposed action: 1 save, 2 stop."""
DECIDED = 10
"""The proposed call that all ranks can meet, after the decision."""

SAVE, STOP = 1, 2


def new_file(size: int = _SIZE) -> int:
    """Open a file without a name that two processes can share.

    Args:
        size: size in bytes. Defaults to the size of the signs of life.

    Returns:
        Its descriptor, which stays open until the process ends.
    """
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


class Life:
    """The shared memory of a rank and its keeper.

    Args:
        file: descriptor of a file that both have open. If `None`, the memory belongs to
            this process alone.
    """

    def __init__(self, file: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if file is None else file, _SIZE)
        self.words = memoryview(self._memory)[: 8 * _WORDS].cast("q")

    @property
    def doing(self) -> str:
        """A description of what the rank is doing, for messages."""
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
