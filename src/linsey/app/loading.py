"""The loading of batches onto the devices, while these compute.

Which examples a batch has is decided elsewhere (`BatchOrder`); here it is only
prepared: read, standardized, put on the devices. Arrays in memory are prepared one
batch ahead in the main thread. Images in files are decoded by workers, a few batches
ahead, and two batches are on the devices before they are needed. The order of the
batches and their values are the same in all cases, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Protocol, TypeAlias

import jax
import numpy as np

from linsey.app.config import LoadingOptions
from linsey.app.dataset import BatchOrder, Dataset
from linsey.app.devices import Devices
from linsey.app.image_array import Examples, ImageArray, chunks
from linsey.app.images import calm_pillow
from linsey.app.standardizer import Standardizer
from linsey.errors import DiskError, InputError

Prepare: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""A function from raw examples to float32 inputs."""
_ON_DEVICES = 2
_AHEAD = 2
"""Number of batches that workers prepare in addition to those on the devices."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """The examples of a step.

    Attributes:
        indices: their indices in the training part, for all processes.
        shards: examples and labels on the devices.
    """

    indices: np.ndarray
    shards: tuple[jax.Array, ...]


class Pending(Protocol):
    """Examples that are being prepared."""

    def done(self) -> bool:
        """Tell whether they are ready."""

    def result(self) -> np.ndarray:
        """Wait for them and return them."""

    def cancel(self) -> object:
        """Cancel the work that has not begun, and wait for the rest."""


class Source(Protocol):
    """A source of prepared examples, one batch after the other."""

    ahead: int
    """Number of batches prepared in advance; 0 leaves the work to `Pending.result`."""

    def begin(self, indices: np.ndarray) -> Pending:
        """Begin to prepare a batch."""

    def close(self) -> None:
        """End its workers."""


class Here:
    """A source that works in the main thread, for examples in memory.

    Args:
        x: the examples.
        prepare: makes inputs from them.
    """

    ahead = 0

    def __init__(self, x: Examples, prepare: Prepare) -> None:
        self._x, self._prepare = x, prepare

    def begin(self, indices: np.ndarray) -> Pending:
        """Remember which batch to prepare."""
        return _Later(lambda: self._prepare(self._x[indices]))

    def close(self) -> None:
        """Do nothing: there are no workers."""


@dataclasses.dataclass(frozen=True)
class _Later:
    prepare: Callable[[], np.ndarray]

    def done(self) -> bool:
        return True

    def result(self) -> np.ndarray:
        return self.prepare()

    def cancel(self) -> None:
        pass


class Threads:
    """A source whose threads share each batch: each decodes a few images at a time.

    Args:
        x: images that are not held in memory.
        prepare: makes inputs from them.
    """

    ahead = _AHEAD

    def __init__(self, x: ImageArray, prepare: Prepare) -> None:
        self.x, self._prepare = x, prepare
        self._calm = contextlib.ExitStack()
        self._calm.enter_context(calm_pillow())

    def begin(self, indices: np.ndarray) -> Pending:
        """Begin to prepare a batch."""
        inputs = np.empty((len(indices), *self.x.shape[1:]), np.float32)
        return _Parts(inputs, [
            self.x.workers.submit(self._fill, indices[part], inputs[part])
            for part in chunks(len(indices))
        ])  # fmt: skip

    def _fill(self, indices: np.ndarray, inputs: np.ndarray) -> None:
        images = np.empty(inputs.shape, self.x.dtype)
        self.x.fill(indices, images)
        inputs[:] = self._prepare(images)

    def close(self) -> None:
        """Let pillow warn again; the threads end with the process."""
        self._calm.close()


@dataclasses.dataclass(frozen=True)
class _Parts:
    inputs: np.ndarray
    parts: list[Future[None]]

    def done(self) -> bool:
        return all(part.done() for part in self.parts)

    def result(self) -> np.ndarray:
        for part in self.parts:
            part.result()
        return self.inputs

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()
        wait(self.parts)


class Loader:
    """The batches of a run, of which each process reads its own rows.

    Args:
        source: prepares the examples.
        labels: the labels of the training part.
        devices: the devices that the batches go to.
        order: the indices of each batch, for all processes.

    Attributes:
        waited: seconds spent waiting for batches that were needed.
    """

    def __init__(
        self,
        source: Source,
        labels: np.ndarray,
        devices: Devices,
        order: Iterator[np.ndarray],
    ) -> None:
        self._source, self._labels, self._devices = source, labels, devices
        self._order = order
        self._coming: deque[tuple[np.ndarray, Pending]] = deque()
        self._ready: deque[Batch] = deque()
        self._most = _ON_DEVICES if source.ahead else 1
        self.waited = 0.0

    def take(self) -> Batch:
        """Return the next batch; wait for it if it is not ready.

        Raises:
            InputError: one of its files can no longer be read.
            DiskError: a file cannot be read or written.
        """
        start = time.perf_counter()
        if not self._ready:
            self._begin(1)
            self._put()
        batch = self._ready.popleft()
        self.waited += time.perf_counter() - start
        return batch

    def top_up(self) -> None:
        """Put batches that are ready on the devices; call it while these compute.

        An error in a batch is raised when the batch is taken.
        """
        free = self._most - len(self._ready)
        self._begin(free + self._source.ahead)
        while free > 0 and self._coming and self._coming[0][1].done():
            try:
                self._put()
            except (InputError, DiskError):
                return
            free -= 1

    def _begin(self, count: int) -> None:
        missing = max(0, count - len(self._coming))
        for indices in itertools.islice(self._order, missing):
            own = indices[self._devices.own_rows(len(indices))]
            self._coming.append((indices, self._source.begin(own)))

    def _put(self) -> None:
        indices, pending = self._coming[0]
        x = pending.result()
        self._coming.popleft()
        own = indices[self._devices.own_rows(len(indices))]
        shards = self._devices.put_batch(x, self._labels[own])
        self._ready.append(Batch(indices, shards))

    def close(self) -> None:
        """End the workers; nothing more is read."""
        for _, pending in self._coming:
            pending.cancel()
        self._source.close()


def training_loader(
    dataset: Dataset,
    standardize: Standardizer,
    devices: Devices,
    plan: BatchOrder,
    options: LoadingOptions,
) -> Loader:
    """Make the loader of a run; only here is it worth starting worker processes.

    Raises:
        MissingPackageError: worker processes are asked for, and grain is not installed.
    """
    source = source_for(dataset.x_train, standardize)
    if options.loader == "processes" and isinstance(source, Threads):
        from linsey.app.worker_processes import Processes, Steps

        source.close()
        own = devices.own_rows(plan.batch_size)
        steps = Steps(source.x, standardize, plan, own)
        source = Processes(steps, source.x.workers.count)
    return Loader(source, dataset.y_train, devices, iter(plan))


def source_for(x: Examples, prepare: Prepare) -> Source:
    """Choose the source of batches: workers if images are not held in memory."""
    if isinstance(x, ImageArray) and not x.is_held and x.workers.count:
        return Threads(x, prepare)
    return Here(x, prepare)


def prepared(
    x: Examples, prepare: Prepare, order: Iterable[np.ndarray]
) -> Generator[np.ndarray, None, None]:
    """Yield the inputs of one batch after the other, on the host.

    Args:
        x: the examples.
        prepare: makes inputs from them.
        order: the indices of each batch.

    Example:
        >>> x = np.arange(6.0).reshape(6, 1)
        >>> batches = prepared(x, lambda x: x / 2, [np.array([4, 2]), np.array([0])])
        >>> [batch.ravel().tolist() for batch in batches]
        [[2.0, 1.0], [0.0]]
    """
    begun: deque[Pending] = deque()
    with contextlib.closing(source_for(x, prepare)) as source:
        try:
            for indices in order:
                begun.append(source.begin(indices))
                if len(begun) > source.ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for pending in begun:
                pending.cancel()
