"""The processes that write a checkpoint: one, or several that each have a part of it.

Several processes write a checkpoint in the same way as they compute a step: all of them
make the same calls in the same order. They exchange data only through the function
`gather`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax


class Group(Protocol):
    """The processes that write one checkpoint.

    Attributes:
        index: index of this process. Process 0 gives the checkpoint its name.
        count: number of processes.
    """

    index: int
    count: int

    def gather(self, content: bytes) -> list[bytes]:
        """Return the contents from all processes, once all of them have called this."""
        ...


class Alone:
    """A single process that writes checkpoints alone."""

    index, count = 0, 1

    def gather(self, content: bytes) -> list[bytes]:
        """Return a list of only the given content."""
        return [content]


class Processes:
    """All processes of `jax.distributed`, which share the folder of the checkpoints.

    If a process fails during a save, the others keep waiting for it, unless
    `linsey.distributed.shared_fate` ends them.

    Example:
        >>> Processes().gather(b"parameters")
        [b'parameters']
    """

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()

    def gather(self, content: bytes) -> list[bytes]:
        """Return the contents from all processes, once all of them have called this."""
        if self.count == 1:
            return [content]
        sizes = _rows(np.array([len(content)], np.int32))[:, 0].tolist()
        # Round up, because each size needs its own compiled program.
        room = 1 << max(*sizes, 1).bit_length()
        rows = _rows(np.frombuffer(content.ljust(room, b"\0"), np.uint8))
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _rows(row: np.ndarray) -> np.ndarray:
    """Return the rows from all processes, of shape (processes, length).

    The collective is over all devices, like those of a training step. A subset of the
    devices would first have to connect, for which JAX waits at most 30 s on CPUs.
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
