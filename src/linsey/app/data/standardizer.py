"""Examples with mean 0 and standard deviation 1, as the training part has them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """Maps raw examples to float32 network inputs: `(x - mean) / std`.

    Attributes:
        mean: for each channel of images or each feature of vectors.
        std: likewise; 1 where the training part does not vary.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> Standardizer:
        """Measures the training part, shape (examples, ..., channels)."""
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes, dtype=np.float64)
        std = x.std(axes, dtype=np.float64)
        return cls(mean, np.where(std > 0, std, 1.0))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standardizes a batch."""
        return ((x - self.mean) / self.std).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The numbers, exactly."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Standardizer:
        """The inverse of `to_json`."""
        return cls(np.asarray(record["mean"]), np.asarray(record["std"]))
