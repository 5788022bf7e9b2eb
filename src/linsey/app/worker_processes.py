"""Worker processes of grain, for many cores: threads would wait for Python's lock.

A worker gets the names of the files, finds out from the number of a step which images
it needs, and sends the batch through shared memory. A batch depends only on this
number, so the batches are the same, bit for bit, as with threads.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from linsey.app.dataset import BatchOrder
from linsey.app.image_array import ImageArray
from linsey.app.images import hush_pillow
from linsey.app.standardizer import Standardizer
from linsey.errors import InputError
from linsey.extras import require


@dataclasses.dataclass(frozen=True)
class Steps:
    """The inputs of the remaining steps, counted from the first of them.

    Attributes:
        x: images that are not held in memory.
        standardize: makes inputs from them.
        plan: the images of each step.
        own: the images of a step that are prepared here, not on other machines.
    """

    x: ImageArray
    standardize: Standardizer
    plan: BatchOrder
    own: slice = dataclasses.field(default_factory=lambda: slice(None))

    def __len__(self) -> int:
        return self.plan.total - self.plan.first_step

    def __getitem__(self, index: int) -> np.ndarray | InputError:
        rows = self.plan[self.plan.first_step + index][self.own]
        images = np.empty((len(rows), *self.x.shape[1:]), self.x.dtype)
        try:
            self.x.fill(rows, images)
        except InputError as error:
            return error
        return self.standardize(images)


class Processes:
    """Batches from worker processes, in the order of the steps.

    Args:
        steps: the inputs to prepare.
        count: number of processes.

    Raises:
        MissingPackageError: grain is not installed.
    """

    ahead = 2

    def __init__(self, steps: Steps, count: int) -> None:
        grain = require("grain", "images", "--loader processes")
        _parse_flags()
        source = grain.MapDataset.source(steps)
        # A worker computes one batch while the last one waits to be taken.
        batches = source.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(count, per_worker_buffer_size=1), _begin
        )
        self._batches = iter(batches)
        self._taking = ThreadPoolExecutor(1, "linsey-batches")

    def begin(self, indices: np.ndarray) -> Future[np.ndarray]:
        """Wait for the batch of the next step, whose indices are given, in a thread."""
        return self._taking.submit(self._take)

    def _take(self) -> np.ndarray:
        batch = next(self._batches)
        if isinstance(batch, InputError):
            raise batch
        return np.array(batch)  # shared memory is gone when the worker ends

    def close(self) -> None:
        """End the processes."""
        self._taking.shutdown(cancel_futures=True)
        self._batches.close()
        del self._batches  # and the shared memory of batches that were not taken


def _parse_flags() -> None:
    """Tell absl, which grain uses, that this program takes no absl flags."""
    flags = require("absl.flags", "images", "--loader processes").FLAGS
    if not flags.is_parsed():
        flags.mark_as_parsed()


def _begin(index: int, count: int) -> None:
    """Prepare a worker: only its parent stops it, and it ends with its parent."""
    # Ctrl-C goes to all processes of a terminal, and the run saves before it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hush_pillow()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
