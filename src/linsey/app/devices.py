"""The placement of arrays: batches are sharded over devices, the rest is replicated.

With `--shard-params` large arrays of the state are sharded too.

The step is compiled for the whole batch. Sums over the batch, including those of batch
normalization, therefore span all devices, and the number of devices does not change
what is computed. Nor does the number of processes that they belong to: each process
reads the rows of a batch that its own devices hold.
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
    """The devices of a run in a row, those of each process next to each other.

    Args:
        devices: the devices of all processes of a run. If `None`, those of this
            process.

    Attributes:
        count: number of devices.
        is_shared: whether some of them belong to other processes.
        replicated: sharding of arrays that every device holds whole.
        batch: sharding of arrays whose first axis is the batch.
        mesh: the devices along the batch axis.
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
        """Return the rows that this process reads of a batch of this size."""
        parts = self.batch.addressable_devices_indices_map((size,)).values()
        bounds = [rows.indices(size)[:2] for (rows,) in filter(None, parts)]
        return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def put_batch(self, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
        """Shard arrays over the devices along their first axis.

        Args:
            *arrays: this process's own rows of the batch.
        """
        put = jax.make_array_from_process_local_data
        return tuple(put(self.batch, array) for array in arrays)

    def replicate(self, tree: Tree) -> Tree:
        """Copy arrays, which are the same in all processes, to every device."""
        if not self.is_shared:
            return jax.device_put(tree, self.replicated)
        # `device_put` would compare each array with those of all other processes.
        return jax.tree.map(self._copied, tree)

    def _copied(self, leaf: jax.typing.ArrayLike) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(
            array.shape, self.replicated, lambda index: array[index]
        )

    def fetch(self, tree: Tree) -> Tree:
        """Fetch whole arrays to the host; all processes have to call it together."""
        if not self.is_shared:
            return jax.device_get(tree)
        return jax.device_get(self._whole(tree))

    def local(self, tree: Tree) -> Tree:
        """Return arrays that this process can compute with alone; all call it."""
        if not self.is_shared:
            return tree
        return jax.tree.map(jax.numpy.asarray, self.fetch(tree))

    @functools.cached_property
    def _whole(self) -> Callable[[Tree], Tree]:
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)

    def divide(self, tree: Tree) -> Tree:
        """Shard large arrays over the devices, and replicate the others."""
        from linsey.training.sharding import shard_state

        return shard_state(tree, self.mesh)

    def abstract(self, make: Callable[[], Tree], is_divided: bool = False) -> Tree:
        """Return the shapes and shardings of a tree that `create` will make.

        Args:
            make: makes the tree; its arrays are the same in all processes.
            is_divided: whether large arrays are sharded, and never whole on a device.
        """
        shapes = jax.eval_shape(make)
        if is_divided:
            from linsey.training.sharding import state_sharding

            shardings = state_sharding(shapes, self.mesh)
        else:
            shardings = jax.tree.map(lambda _: self.replicated, shapes)
        return jax.tree.map(_abstract, shapes, shardings)

    def abstract_batch(self, shape: Sequence[int], dtype: np.typing.DTypeLike) -> Any:
        """Return the shape and sharding of an array that `put_batch` makes."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.batch)

    def create(self, make: Callable[[], Tree], abstract: Tree) -> Tree:
        """Make a tree on the devices with one program.

        Args:
            make: makes the tree; its arrays are the same in all processes.
            abstract: shapes and shardings of its arrays.
        """
        # Only leaves: the static parts of two calls of `make` need not be equal.
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

    Results are the same, bit for bit, with the same number of threads. A process with
    several CPU devices has at least as many threads.
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
    """Describe what the exact results of a run depend on besides its options."""
    device = jax.local_devices()[0]
    return {
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "threads": thread_count(),
    }
