"""The processes that write a checkpoint: one, or several that each have a part of it.

Several processes write one checkpoint as they compute one step: all of them make the
same calls in the same order. What they have to tell each other goes through one
function, `gather`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Group(Protocol):
    """The processes that write one checkpoint.

    Attributes:
        index: of this process; the first one, 0, gives the checkpoint its name.
        count: how many there are.
    """

    index: int
    count: int

    def gather(self, content: bytes) -> list[bytes]:
        """Return what each process gives, once all of them have called this."""
        ...


class Alone:
    """A process that writes checkpoints by itself."""

    index, count = 0, 1

    def gather(self, content: bytes) -> list[bytes]:
        """Return what is given."""
        return [content]


class Processes:
    """All processes of `jax.distributed`, which share the folder of the checkpoints.

    A process that fails inside of a save leaves the others waiting for it:
    `linsey.distributed.shared_fate` ends them.

    Example:
        >>> Processes().gather(b"parameters")
        [b'parameters']
    """

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()

    def gather(self, content: bytes) -> list[bytes]:
        """Return what each process gives, once all of them have called this."""
        if self.count == 1:
            return [content]
        from jax.experimental.multihost_utils import process_allgather

        sizes = process_allgather(np.int32(len(content))).tolist()
        # Few sizes, for each is a program of its own.
        room = 1 << max(*sizes, 1).bit_length()
        padded = np.frombuffer(content.ljust(room, b"\0"), np.uint8)
        rows = process_allgather(padded)  # (processes, room)
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


ALONE = Alone()
