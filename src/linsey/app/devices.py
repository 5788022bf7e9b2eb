"""Where arrays live: batches are sharded over all devices, the rest is replicated.

With `--shard-params` large arrays of the state are sharded too.

The step is compiled for the whole batch. Sums over the batch, those of batch
normalization included, are therefore over all devices, and the number of devices
does not change what is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"
Tree = TypeVar("Tree")


class Devices:
    """All local devices in a row.

    Attributes:
        count: how many.
        replicated: sharding of what every device holds.
        batch: sharding of arrays whose first axis is the batch.
        mesh: the devices, along that axis.
    """

    def __init__(self) -> None:
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), (BATCH_AXIS,))
        self.count = len(devices)
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.batch = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
        self.mesh = mesh

    def put_batch(self, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
        """Shard arrays over the devices along their first axis.

        The arrays are what this process contributes to the batch: with several
        processes each would pass its own rows, and nothing after this line changes.
        """
        put = jax.make_array_from_process_local_data
        return tuple(put(self.batch, array) for array in arrays)

    def replicate(self, tree: Tree) -> Tree:
        """Copy arrays to every device."""
        return jax.device_put(tree, self.replicated)

    def divide(self, tree: Tree) -> Tree:
        """Divide large arrays over the devices, and copy the others to each."""
        from linsey.training.sharding import shard_state

        return shard_state(tree, self.mesh)

    def create_divided(self, create: Callable[[], Tree]) -> tuple[Tree, Tree]:
        """Make a tree whose large arrays are divided, and never whole on a device.

        Returns:
            The tree, and the shardings of its arrays.
        """
        from linsey.training.sharding import state_sharding

        shapes = jax.eval_shape(create)
        shardings = state_sharding(shapes, self.mesh)
        # Leaves: what is static in the tree of another call need not be equal.
        leaves = jax.jit(
            lambda: jax.tree.leaves(create()), out_shardings=jax.tree.leaves(shardings)
        )()
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves), shardings


def thread_count() -> int:
    """Count the threads that XLA computes with on the CPU.

    Bits repeat for the same number.
    """
    if os.environ.get("NPROC", "").isdigit():
        return int(os.environ["NPROC"])
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_environment() -> dict[str, str | int]:
    """Describe what the bits of a run depend on beside its options."""
    device = jax.local_devices()[0]
    return {
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "threads": thread_count(),
    }
