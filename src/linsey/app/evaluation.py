"""How well a model does on the test part, with its running statistics."""

from __future__ import annotations

import dataclasses

import numpy as np

from linsey.app.dataset import Dataset, Standardizer
from linsey.app.devices import Devices
from linsey.app.steps import TrainState, eval_step
from linsey.app.terminal import StopRequest

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        loss: mean cross entropy, in nats.
        confusion: examples by true (row) and predicted (column) class.
    """

    loss: float
    confusion: np.ndarray

    @property
    def correct(self) -> int:
        """The number of right answers."""
        return int(self.confusion.trace())

    @property
    def count(self) -> int:
        """The number of examples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of right answers."""
        return self.correct / self.count

    def class_accuracies(self) -> list[float | None]:
        """Return the fraction of right answers in each class that has examples."""
        totals = self.confusion.sum(axis=1)
        right = self.confusion.diagonal()
        return [float(r / n) if n else None for r, n in zip(right, totals, strict=True)]


def evaluate(
    state: TrainState,
    dataset: Dataset,
    standardize: Standardizer,
    devices: Devices,
    stop: StopRequest | None = None,
) -> Evaluation | None:
    """Evaluate on the test part.

    Args:
        state: parameters and running statistics.
        dataset: its test part is used.
        standardize: as in training.
        devices: each batch is split over them.
        stop: read before each batch.

    Returns:
        The evaluation, or `None` if it was stopped.
    """
    # Every batch has one shape, so one program serves all; rows beyond the end are
    # zeros whose results are dropped (nothing mixes rows in evaluation).
    size = -(-_BATCH // devices.count) * devices.count
    classes = len(dataset.class_names)
    confusion = np.zeros((classes, classes), np.int64)
    losses = []
    for start in range(0, len(dataset.y_test), size):
        if stop:
            return None
        x = standardize(dataset.x_test[start : start + size])
        y = dataset.y_test[start : start + size]
        loss, predicted = eval_step(
            state, *devices.put_batch(_padded(x, size), _padded(y, size))
        )
        losses.append(np.asarray(loss, np.float64)[: len(y)])
        np.add.at(confusion, (y, np.asarray(predicted)[: len(y)]), 1)
    return Evaluation(float(np.concatenate(losses).mean()), confusion)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(array)
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
