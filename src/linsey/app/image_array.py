"""Images on disk as an array: those not held in memory are decoded when needed.

All images are decoded once when the data are read, unless only some of them are of
interest and their channels and dtype are known. This finds broken ones, and measures
what would otherwise take another pass over all pixels: mean and standard deviation, the
extremes, and a digest of each image. These numbers are therefore the same, bit for bit,
whether or not the pixels are held, and an image that changes afterwards is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias, overload

import numpy as np

from linsey.app.images import calm_pillow, decode
from linsey.app.workers import Workers
from linsey.errors import InputError

_CHANNELS = 3
# Measurements of each image; a grey image has the same values in all channels.
_FACTS = np.dtype([
    ("mean", "f8", _CHANNELS), ("squares", "f8", _CHANNELS), ("low", "f4", _CHANNELS),
    ("high", "f4", _CHANNELS), ("is_colored", "?"), ("is_deep", "?"),
    ("sha256", "u1", 32),
])  # fmt: skip
_CHUNK = 8  # images that a worker decodes at a time
Rows: TypeAlias = "slice | np.ndarray"


class StoredImages(Protocol):
    """Encoded images on disk, which worker processes can read too."""

    def __len__(self) -> int:
        """Return the number of images."""

    def decode(self, row: int, size: int) -> np.ndarray:
        """Return the pixels of an image, as `linsey.app.images.decode` does.

        It is called within `calm_pillow`, and by several threads at a time.

        Raises:
            InputError: the image cannot be read.
        """

    def name(self, row: int) -> tuple[Path, str | None]:
        """Return the file of an image, and its place in the file, for messages."""

    def select(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Return some of the images."""


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Images in one file each.

    Attributes:
        paths: the files.
    """

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, row: int, size: int) -> np.ndarray:
        """Return the pixels of an image."""
        return decode(Path(self.paths[row]), size)

    def name(self, row: int) -> tuple[Path, str | None]:
        """Return the file of an image."""
        return Path(self.paths[row]), None

    def select(self, rows: Sequence[int] | np.ndarray) -> ImageFiles:
        """Return some of the images."""
        return ImageFiles([self.paths[row] for row in rows])


class ImageArray:
    """An array of shape (images, size, size, channels) whose rows come from the disk.

    It offers the array operations that the command uses: length, shape, dtype, and rows
    by a slice, a mask or indices. All images have three channels if any of them has;
    they are float32 if any has more than 8 bits, and uint8 otherwise.

    Args:
        images: the encoded images.
        size: the height and width in pixels.
        facts: the measurements of each image, if it was read once.
        held: the decoded images, if they are held in memory.
        workers: the workers that decode images that are not held.
        channels: number of channels. Defaults to the number that the measured images
            need.
        dtype: the dtype of the array. Defaults to the one that they need.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> files = [f"{folder}/a.png", f"{folder}/b.png"]
        >>> for file, value in zip(files, (7, 9), strict=True):
        ...     Image.new("L", (8, 8), value).save(file)
        >>> x = read_all(ImageFiles(files), 4, Holding(0), Workers(0))
        >>> x.shape, x[1:].ravel()[:3].tolist(), x.moments()[0].tolist()
        ((2, 4, 4, 1), [9, 9, 9], [8.0])
    """

    ndim = 4

    def __init__(
        self,
        images: StoredImages,
        size: int,
        facts: np.ndarray | None,
        held: Sequence[np.ndarray] | None,
        workers: Workers,
        channels: int | None = None,
        dtype: np.dtype | None = None,
    ) -> None:
        self._images, self._size, self._facts, self._held = images, size, facts, held
        self.workers = workers
        if channels is None:
            channels = _CHANNELS if self._measured["is_colored"].any() else 1
        if dtype is None:
            is_deep = self._measured["is_deep"].any()
            dtype = np.dtype(np.float32 if is_deep else np.uint8)
        self.shape, self.dtype = (len(images), size, size, channels), dtype

    @property
    def _measured(self) -> np.ndarray:
        if self._facts is None:
            raise RuntimeError("these images were not read to be measured")
        return self._facts

    @property
    def is_held(self) -> bool:
        """Whether all images are held in memory, so that none is read."""
        return self._held is not None

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: Rows) -> np.ndarray: ...
    def __getitem__(self, rows: int | Rows) -> np.ndarray:
        """Return some images, or one, as an array.

        Raises:
            InputError: an image has changed since it was first read.
            DiskError: a file cannot be read or written.
        """
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        result = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        if self.is_held:
            self.fill(chosen, result)
        else:
            parts = chunks(len(chosen))
            with calm_pillow():
                for _ in self.workers.ahead(
                    lambda part: self.fill(chosen[part], result[part]), parts
                ):
                    pass
        return result[0] if isinstance(rows, int | np.integer) else result

    def fill(self, rows: np.ndarray, result: np.ndarray) -> None:
        """Write the images of some rows into an array, within `calm_pillow`."""
        for place, row in enumerate(rows):
            result[place] = self._image(row)

    def _image(self, row: int) -> np.ndarray:
        if self._held is not None:
            return self._held[row]
        image = self._images.decode(row, self._size)
        file, place = self._images.name(row)
        if self._facts is None:
            if (
                image.shape[-1] > self.shape[-1]
                or image.dtype.itemsize > self.dtype.itemsize
            ):
                problem = "an image of more channels or bits than those before"
                raise InputError(problem, file=file, key=place)
        elif _sha256(image) != self._facts["sha256"][row].tobytes():
            hint = "--resume goes on only with the images that the run began with"
            problem = "not the image that it was when it was first read"
            raise InputError(problem, file=file, key=place, hint=hint)
        return image

    def select(self, rows: np.ndarray) -> ImageArray:
        """Return an array of some of the rows, without reading them."""
        images = self._images.select(rows)
        held = None if self._held is None else [self._held[row] for row in rows]
        facts = None if self._facts is None else self._facts[rows]
        return ImageArray(images, self._size, facts, held, self.workers,
                          self.shape[-1], self.dtype)  # fmt: skip

    def with_channels(self, channels: int) -> ImageArray:
        """Return the same images with another number of channels."""
        return ImageArray(self._images, self._size, self._facts, self._held,
                          self.workers, channels, self.dtype)  # fmt: skip

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of each channel over all pixels, in float64."""
        channels = self.shape[-1]
        mean, squares = (
            self._measured[key][:, :channels] for key in ("mean", "squares")
        )
        # All images have the same number of pixels. If their means are equal, their
        # differences are exactly zero.
        total = mean[0] + (mean - mean[0]).mean(0)
        between = ((mean - total) ** 2).mean(0)
        return total, squares.mean(0) / self._size**2 + between

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and the largest value of each channel."""
        low, high = (
            self._measured[key][:, : self.shape[-1]] for key in ("low", "high")
        )
        return low.min(0), high.max(0)

    def digest(self) -> bytes:
        """Return a SHA-256 of all pixels."""
        return hashlib.sha256(self._measured["sha256"].tobytes()).digest()


class Pixels(NamedTuple):
    """What is known of the images that a model was trained on.

    Attributes:
        channels: number of channels, 1 or 3.
        dtype: uint8 or float32.
    """

    channels: int
    dtype: np.dtype


Examples: TypeAlias = np.ndarray | ImageArray
"""The examples of a data set: an array, or images on disk."""


class Holding:
    """The memory that is left for holding decoded images.

    Args:
        budget: bytes, for the training part and the test part together.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget

    def begin(self, count: int) -> Held:
        """Begin to hold the images of a part, if they are likely to fit."""
        return Held(self, count)


class Held:
    """The decoded images of a part, as long as they fit in memory.

    Attributes:
        images: the images added so far; `None` if they did not fit.
    """

    def __init__(self, holding: Holding, count: int) -> None:
        self._holding, self._count = holding, count
        self.images: list[np.ndarray] | None = []

    def add(self, image: np.ndarray) -> None:
        """Hold another image."""
        if self.images is None:
            return
        is_too_large = image.nbytes > self._holding.left
        if not self.images:  # others are likely to be like the first
            is_too_large |= image.nbytes * self._count > self._holding.left
        if is_too_large:
            self._holding.left += sum(held.nbytes for held in self.images)
            self.images = None
            return
        self.images.append(image)
        self._holding.left -= image.nbytes


def chunks(count: int) -> Iterator[slice]:
    """Yield the parts of a batch that one worker decodes at a time."""
    for start in range(0, count, _CHUNK):
        yield slice(start, start + _CHUNK)


def read_all(
    images: StoredImages,
    size: int,
    holding: Holding,
    workers: Workers,
    refuse: Callable[[int, InputError], None] | None = None,
    pixels: Pixels | None = None,
) -> ImageArray:
    """Decode all images once, measure them, and hold them if there is memory for them.

    Args:
        images: the encoded images.
        size: the height and width in pixels.
        holding: the memory for holding decoded images.
        workers: the workers that decode.
        refuse: called with the row and the error of each image that cannot be read; the
            image is left out if it returns. If `None`, the error is raised.
        pixels: what the images are known to be; none is read before its row is then.

    Returns:
        The images that could be read.

    Raises:
        InputError: an image cannot be read.
        DiskError: a file cannot be read or written.
    """
    if pixels is not None:
        return ImageArray(images, size, None, None, workers, *pixels)

    def read(row: int) -> tuple[np.ndarray, np.ndarray] | InputError:
        try:
            image = images.decode(row, size)
        except InputError as error:
            return error
        return _measured(image), image

    rows, facts, held = [], [], holding.begin(len(images))
    with calm_pillow():
        found = workers.ahead(read, range(len(images)))
        for row, result in enumerate(found):
            if isinstance(result, InputError):
                if refuse is None:
                    raise result
                refuse(row, result)
                continue
            rows.append(row)
            facts.append(result[0])
            held.add(result[1])
    if len(rows) < len(images):
        images = images.select(rows)
    return ImageArray(images, size, np.array(facts, _FACTS), held.images, workers)


def _measured(image: np.ndarray) -> np.ndarray:
    """Return the measurements that `ImageArray` takes."""
    # (channels, pixels): sums along the last axis are many times as fast.
    values = np.ascontiguousarray(image.reshape(-1, image.shape[-1]).T)
    facts = np.zeros((), _FACTS)
    with np.errstate(over="ignore", invalid="ignore"):
        origin = values[:, :1].astype(np.float64)
        difference = values - origin
        mean = difference.mean(1, keepdims=True)
        difference -= mean
        facts["mean"] = (origin + mean)[:, 0]
        facts["squares"] = np.einsum("ij,ij->i", difference, difference)
    facts["low"], facts["high"] = values.min(1), values.max(1)
    facts["is_colored"], facts["is_deep"] = image.shape[-1] > 1, image.dtype.kind == "f"
    facts["sha256"] = np.frombuffer(_sha256(image), np.uint8)
    return facts


def _sha256(image: np.ndarray) -> bytes:
    kind = f"{image.dtype.str}{image.shape}".encode()
    return hashlib.sha256(kind + image.tobytes()).digest()


def extremes(x: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each channel or feature."""
    if isinstance(x, ImageArray):
        return x.extremes()
    axes = tuple(range(x.ndim - 1))
    return x.min(axes), x.max(axes)
