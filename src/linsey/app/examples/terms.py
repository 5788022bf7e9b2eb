"""The terms of a run: what it expects of the examples to be classified."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linsey.app.config import Missing, Shape, TrainConfig
from linsey.app.dataset import Known
from linsey.app.metadata import RunMetadata
from linsey.app.standardizer import first_not_finite
from linsey.errors import InputError

_COLORS = (1, 3)


class Example(NamedTuple):
    """One example and where it comes from.

    Attributes:
        file: its file.
        row: its place in that file, counted from 0; `None` for an image.
        x: its raw values, of the shape of the run's examples.
    """

    file: str
    row: int | None
    x: np.ndarray


@dataclasses.dataclass(frozen=True)
class Terms:
    """How examples for a run are read.

    Attributes:
        config: the options of the run.
        shape: the shape of one example.
        known: classes, features and their means in the training part.
        dtype: the dtype of the raw training examples; empty if that is not known.
        missing: how missing values are treated.
    """

    config: TrainConfig
    shape: Shape
    known: Known
    dtype: str
    missing: Missing

    @classmethod
    def of(cls, metadata: RunMetadata, missing: Missing | None = None) -> Terms:
        """Return the terms of a run.

        Args:
            metadata: the metadata of the run.
            missing: how missing values are treated. If `None`, as in the run.
        """
        config, data = metadata.train_config, metadata.data
        missing = missing or config.missing
        return cls(config, data.shape, data.known, data.dtype, missing)

    def refuse_images(self, path: Path) -> None:
        """Refuse an image if the run did not learn from the pixels of image files.

        Raises:
            InputError: the model does not take images, or takes another scale.
        """
        shape = self.shape
        if len(shape) != 3 or shape[2] not in _COLORS or shape[0] != shape[1]:
            raise InputError(
                "an image, and the model takes no square images", file=path,
                expected=f"arrays of examples {shape}, as {_hint(shape)}",
            )  # fmt: skip
        if not self._learned_pixels:
            raise InputError(
                "an image, and the model was trained on arrays that were no images of "
                "8 bits: its pixels would have another scale", file=path,
                hint=f"scale them as the training data were, and save {_hint(shape)}",
            )  # fmt: skip

    @property
    def _learned_pixels(self) -> bool:
        data = self.config.data
        if self.dtype == "uint8":
            return True
        if data == "digits" or Path(data).suffix in (".npz", ".npy"):
            return False
        return not any(Path(data).glob("*.npy"))

    def checked(self, x: np.ndarray, file: str | None, key: str) -> np.ndarray:
        """Return an array of examples with the axes that the model needs.

        Args:
            x: shape (examples, *shape); grey images may lack their last axis.
            file: the file it comes from, for messages.
            key: its name there.

        Raises:
            InputError: it has another shape or dtype, or a value that is not finite.
        """
        wrong = functools.partial(InputError, file=file, key=key)
        if x.dtype.kind not in "buif":
            raise wrong("not numbers", expected="real numbers", found=x.dtype)
        if (*x.shape[1:], 1) == self.shape:
            x = x[..., None]  # grey images
        if x.shape[1:] != self.shape:
            is_one = self.shape in (x.shape, (*x.shape, 1))
            hint = f"one example is {key}[None]" if is_one else None
            expected = f"(examples, {', '.join(map(str, self.shape))})"
            raise wrong("examples of another shape than the model was trained on",
                        expected=expected, found=x.shape, hint=hint)  # fmt: skip
        if (first := first_not_finite(x)) is not None:
            raise wrong("not a finite number", key=f"{key}{list(first)}",
                        found=x[first])  # fmt: skip
        return x


def _hint(shape: Shape) -> str:
    return f'numpy.savez("FILE.npz", x=x) with x of shape {("examples", *shape)}'
