"""The processes that write a checkpoint: one, or several that each have a part of it.

Several processes write one checkpoint as they compute one step: all of them make the
same calls in the same order. What they have to tell each other goes through one
function, `gather`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax


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
        sizes = _rows(np.array([len(content)], np.int32))[:, 0].tolist()
        # Few sizes, for each is a program of its own.
        room = 1 << max(*sizes, 1).bit_length()
        rows = _rows(np.frombuffer(content.ljust(room, b"\0"), np.uint8))
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _rows(row: np.ndarray) -> np.ndarray:
    """Return the row that each process gives, shape (processes, length).

    The collective is one of all devices, as a step has it: connections between some of
    them would have to be made first, for which JAX waits no longer than 30 s on CPUs.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
    mesh = Mesh(np.array(devices), ("devices",))
    copies = np.repeat(row[None], jax.local_device_count(), 0)
    divided = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("devices")), copies
    )
    whole = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(divided)
    owners = [device.process_index for device in devices]
    return np.asarray(whole)[[owners.index(i) for i in range(jax.process_count())]]


def _same(x: jax.Array) -> jax.Array:
    return x


ALONE = Alone()
