"""Where arrays live: batches are sharded over all devices, the rest is replicated.

With `--shard-params` large arrays of the state are sharded too.

The step is compiled for the whole batch. Sums over the batch, those of batch
normalization included, are therefore over all devices, and the number of devices
does not change what is computed. Nor does the number of processes that they belong to:
each process reads the rows of a batch that its own devices hold.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linsey.app import compiling

BATCH_AXIS = "batch"
Tree = TypeVar("Tree")


class Devices:
    """Devices in a row, those of one process beside each other.

    Args:
        devices: those of all processes of a run. If `None`, those of this process.

    Attributes:
        count: how many.
        is_shared: whether other processes have some of them.
        replicated: sharding of what every device holds.
        batch: sharding of arrays whose first axis is the batch.
        mesh: the devices, along that axis.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        devices = jax.local_devices() if devices is None else devices
        devices = sorted(devices, key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.array(devices), (BATCH_AXIS,))
        self.count = len(devices)
        self.is_shared = len({device.process_index for device in devices}) > 1
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.batch = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
        self.mesh = mesh

    def own_rows(self, size: int) -> slice:
        """Return which rows of a batch of that size this process reads."""
        parts = self.batch.addressable_devices_indices_map((size,)).values()
        bounds = [rows.indices(size)[:2] for (rows,) in filter(None, parts)]
        return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def put_batch(self, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
        """Shard arrays over the devices along their first axis.

        Args:
            *arrays: the rows of the batch that are this process's own.
        """
        put = jax.make_array_from_process_local_data
        return tuple(put(self.batch, array) for array in arrays)

    def replicate(self, tree: Tree) -> Tree:
        """Copy arrays, which are the same in all processes, to every device."""
        if not self.is_shared:
            return jax.device_put(tree, self.replicated)
        # `device_put` would compare the array with those of all others, one by one.
        return jax.tree.map(self._copied, tree)

    def _copied(self, leaf: jax.typing.ArrayLike) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(
            array.shape, self.replicated, lambda index: array[index]
        )

    def fetch(self, tree: Tree) -> Tree:
        """Bring arrays to the host as a whole; with others, all call it together."""
        if not self.is_shared:
            return jax.device_get(tree)
        return jax.device_get(self._whole(tree))

    def local(self, tree: Tree) -> Tree:
        """Return arrays to compute with in this process alone; all call it together."""
        if not self.is_shared:
            return tree
        return jax.tree.map(jax.numpy.asarray, self.fetch(tree))

    @functools.cached_property
    def _whole(self) -> Callable[[Tree], Tree]:
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)

    def divide(self, tree: Tree) -> Tree:
        """Divide large arrays over the devices, and copy the others to each."""
        from linsey.training.sharding import shard_state

        return shard_state(tree, self.mesh)

    def abstract(self, make: Callable[[], Tree], is_divided: bool = False) -> Tree:
        """Return the shapes and shardings of a tree that `create` will make.

        Args:
            make: makes it; its arrays are the same in all processes.
            is_divided: whether large arrays are divided, and never whole on a device.
        """
        shapes = jax.eval_shape(make)
        if is_divided:
            from linsey.training.sharding import state_sharding

            shardings = state_sharding(shapes, self.mesh)
        else:
            shardings = jax.tree.map(lambda _: self.replicated, shapes)
        return jax.tree.map(_abstract, shapes, shardings)

    def abstract_batch(self, shape: Sequence[int], dtype: np.typing.DTypeLike) -> Any:
        """Return shape and sharding of an array that `put_batch` makes."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.batch)

    def create(self, make: Callable[[], Tree], abstract: Tree) -> Tree:
        """Make a tree on the devices, by one program.

        Args:
            make: makes it; its arrays are the same in all processes.
            abstract: shapes and shardings of its arrays.
        """
        # Leaves: what is static in the tree of another call need not be equal.
        leaves, structure = jax.tree.flatten(abstract)
        made = compiling.run_once(
            lambda: jax.tree.leaves(make()),
            [leaf.sharding for leaf in leaves],
            self.mesh.devices.flat[0].platform,
        )
        return jax.tree.unflatten(structure, made)


def _abstract(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Any:
    return leaf.update(sharding=sharding)


def thread_count() -> int:
    """Count the threads that XLA computes with on the CPU.

    Bits repeat for the same number. Where one process has several devices on the CPU,
    there are at least as many.
    """
    device = jax.local_devices()[0]
    return max(_threads(), len(jax.local_devices()) if device.platform == "cpu" else 1)


def _threads() -> int:
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
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "threads": thread_count(),
    }
