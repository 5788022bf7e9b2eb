"""Standardization: examples minus their mean, divided by their standard deviation.

Data may fill most of the memory, so no second copy of them is made here: they are
measured in one pass over blocks of rows, and a batch is standardized block by block.
All sums and differences are in float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from linsey.app.config import Positive
from linsey.app.image_array import Examples, ImageArray, extremes
from linsey.errors import InputError
from linsey.schema import Between

_Moments = Annotated[tuple[float, ...], Between(1, 2**28)]
_BLOCK = 2**18
"""The number of values held in float64 at a time: 2 MiB."""
_ENORMOUS = 1e15
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class StandardizerRecord:
    """The numbers of a `Standardizer`, as a checkpoint holds them."""

    mean: _Moments
    std: Annotated[tuple[Positive, ...], Between(1, 2**28)]


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """The map from raw examples to float32 network inputs: `(x - mean) / std`.

    Attributes:
        mean: the mean of each channel or feature in the training part.
        std: the standard deviation of each; 1 for those that do not vary.
        is_constant: whether each is constant; empty if that is not known.
    """

    mean: np.ndarray
    std: np.ndarray
    is_constant: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, bool), repr=False
    )

    @classmethod
    def fit(cls, x: Examples) -> Standardizer:
        """Measure the training part, shape (examples, ..., channels).

        Images in files were already measured when they were read.

        Raises:
            InputError: the values are too large to be measured in float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            moments = x.moments() if isinstance(x, ImageArray) else _moments(x)
            mean, std = moments[0], np.sqrt(moments[1])
        is_finite = np.isfinite(mean) & np.isfinite(std)
        _refuse_large(is_finite, x, "their variance is not finite")
        return cls(mean, np.where(std > 0, std, 1.0), std == 0)

    def check(self, x: Examples) -> None:
        """Refuse examples that overflow when they are standardized.

        Raises:
            InputError: some do; the error names a feature or a channel.
        """
        standardized = self(np.stack(extremes(x)))
        _refuse_large(np.isfinite(standardized).all(0), x, "standardized they overflow")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standardize a batch."""
        result = np.empty(x.shape, np.float32)
        with np.errstate(over="ignore"):
            for rows in _blocks(x):
                block = x[rows] - self.mean
                block /= self.std
                result[rows] = block
        return result

    def oddities(self, names: Sequence[str] = (), kind: str = "feature") -> list[str]:
        """Return a line on constant features, and one on those of enormous scale.

        Args:
            names: the names of the features. If empty, their numbers are shown.
            kind: the word for them, such as "channel".
        """
        size = np.maximum(np.abs(self.mean), self.std)
        told = []
        if (indices := np.flatnonzero(self.is_constant)).size:
            named = _named(indices, names, kind)
            told.append(f"{named} the same in all of the training data: nothing can "
                        "be learned from it")  # fmt: skip
        if (indices := np.flatnonzero(size >= _ENORMOUS)).size:
            largest = f"{size[indices].max():.1e}"
            named = _named(indices, names, kind)
            told.append(f"{named} of enormous scale ({largest}): "
                        "is it a mark for missing values, or a number that only "
                        "names an example?")  # fmt: skip
        return told

    def to_json(self) -> dict[str, list[float]]:
        """Return the numbers, exactly."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_record(cls, record: StandardizerRecord) -> Standardizer:
        """Return the standardizer that `to_json` described."""
        return cls(np.asarray(record.mean), np.asarray(record.std))


def _named(indices: np.ndarray, names: Sequence[str], kind: str) -> str:
    shown = [names[place] if names else str(place) for place in indices[:_SHOWN]]
    if (more := len(indices) - len(shown)) > 0:
        return f"{kind}s {', '.join(shown)} and {more} more are"
    if len(shown) == 1:
        return f"{kind} {shown[0]} is"
    return f"{kind}s {', '.join(shown[:-1])} and {shown[-1]} are"


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance in float64, from one pass over blocks of rows.

    References:
        Chan, Golub and LeVeque (1983), Algorithms for Computing the Sample Variance:
        Analysis and Recommendations. https://doi.org/10.1080/00031305.1983.10483115
    """
    channels, count = x.shape[-1], 0
    # The sums are over differences from the first values: a channel that does not
    # vary gives zeros, and large values that vary little lose no digits.
    origin = x[:1].reshape(-1, channels)[0].astype(np.float64)
    mean, squares = np.zeros(channels), np.zeros(channels)
    for rows in _blocks(x):
        block = x[rows].reshape(-1, channels) - origin
        size = len(block)
        block_mean = block.mean(0)
        block -= block_mean
        delta = block_mean - mean
        count += size
        mean += delta * (size / count)
        squares += np.einsum("ij,ij->j", block, block)
        squares += delta**2 * (size * (count - size) / count)
    return mean + origin, squares / count


def _blocks(x: np.ndarray) -> Iterator[slice]:
    """Yield the rows of blocks that are small in float64."""
    rows = max(1, _BLOCK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield slice(start, start + rows)


def first_not_finite(x: np.ndarray) -> tuple[int, ...] | None:
    """Return the index of the first value that is not finite, if there is one."""
    if x.dtype.kind == "f":
        for rows in _blocks(x):
            if not np.isfinite(x[rows]).all():
                first, *rest = np.argwhere(~np.isfinite(x[rows]))[0].tolist()
                return (rows.start + first, *rest)
    return None


def _refuse_large(is_finite: np.ndarray | np.bool, x: Examples, why: str) -> None:
    if not is_finite.all():
        key = f"--data: {'channel' if x.ndim > 2 else 'feature'} {is_finite.argmin()}"
        problem = f"the values are too large: {why}"
        raise InputError(problem, key=key, hint="rescale them")
