"""A classification data set in memory: validated, with fixed train and test parts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from linsey import datasets
from linsey.app.config import MAX_CLASSES, DataOptions, Positive
from linsey.errors import InputError
from linsey.schema import Between, conform

Pair = tuple[np.ndarray, np.ndarray]  # examples and labels
ClassNames = Annotated[
    tuple[Annotated[str, Between(1, 255)], ...], Between(2, MAX_CLASSES)
]
_Moments = Annotated[tuple[float, ...], Between(1, 2**28)]
_MANY_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class StandardizerRecord:
    """The numbers of a `Standardizer`, as a checkpoint holds them."""

    mean: _Moments
    std: Annotated[tuple[Positive, ...], Between(1, 2**28)]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples and labels.

    Attributes:
        name: what to call it.
        x_train: (examples, features) or (examples, height, width, channels).
        y_train: (examples,) int32 in [0, classes).
        x_test: like `x_train`.
        y_test: like `y_train`.
        class_names: one name for each class.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x_train.shape[1:]

    def digest(self) -> str:
        """Return the SHA-256 of all arrays, to notice data that changed."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def training_batches(
    count: int, batch_size: int, seed: int, first_step: int
) -> Iterator[np.ndarray]:
    """Yield the indices of one batch after the other, without end, from any step on.

    An epoch has `count // batch_size` steps. The examples left over change with the
    order of each epoch, so that none is left out for good.

    Args:
        count: number of examples.
        batch_size: examples per step, at most `count`.
        seed: with the epoch it decides the order.
        first_step: steps done already.

    Yields:
        Indices, shape (batch_size,).
    """
    steps_per_epoch = count // batch_size
    epoch, done = divmod(first_step, steps_per_epoch)
    while True:
        order = datasets.permutation(count, seed, epoch)
        for step in range(done, steps_per_epoch):
            yield order[step * batch_size : (step + 1) * batch_size]
        epoch, done = epoch + 1, 0


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """Map raw examples to float32 network inputs: `(x - mean) / std`.

    Attributes:
        mean: of the training part, for each channel of images or feature of vectors.
        std: likewise; 1 where the training part does not vary.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> Standardizer:
        """Measure the training part, shape (examples, ..., channels).

        Raises:
            InputError: its values are too large to be measured in float64.
        """
        axes = tuple(range(x.ndim - 1))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = x.mean(axes, dtype=np.float64)
            std = x.std(axes, dtype=np.float64)
        is_finite = np.isfinite(mean) & np.isfinite(std)
        _refuse_large(is_finite, x, "their variance is not finite")
        return cls(mean, np.where(std > 0, std, 1.0))

    def check(self, x: np.ndarray) -> None:
        """Refuse examples that others than those measured here make infinite.

        Raises:
            InputError: it names a feature or a channel with such values.
        """
        axes = tuple(range(x.ndim - 1))
        extremes = self(np.stack([x.min(axes), x.max(axes)]))
        _refuse_large(np.isfinite(extremes).all(0), x, "standardized they overflow")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standardize a batch."""
        with np.errstate(over="ignore"):
            return ((x - self.mean) / self.std).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Return the numbers, exactly."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_record(cls, record: StandardizerRecord) -> Standardizer:
        """Return the standardizer that `to_json` described."""
        return cls(np.asarray(record.mean), np.asarray(record.std))


def _refuse_large(is_finite: np.ndarray | np.bool, x: np.ndarray, why: str) -> None:
    if not is_finite.all():
        key = f"--data: {'channel' if x.ndim > 2 else 'feature'} {is_finite.argmin()}"
        problem = f"the values are too large: {why}"
        raise InputError(problem, key=key, hint="rescale them")


def make_dataset(
    name: str,
    train: Pair,
    test: Pair | None,
    options: DataOptions,
    keys: Sequence[str] = ("x", "y"),
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Validate arrays, and split off a test part if there is none.

    Args:
        name: the data set or its file, for messages.
        train: examples and labels.
        test: the same. If `None`, a fraction of each class is held out.
        options: the data options.
        keys: what the arrays are called where they come from: x, y (, x test, y test).
        class_names: names of the classes. If `None`, their numbers.

    Returns:
        The data set.

    Raises:
        InputError: the first thing wrong, with array and index.
    """
    wrong = functools.partial(InputError, file=name)
    x_train, y_train = _checked_pair(name, train, keys[:2])
    if len(y_train) == 0:
        raise wrong("no examples", key=keys[0])
    classes = options.classes or len(class_names or ()) or int(y_train.max()) + 1
    is_counted = not (options.classes or class_names)
    if is_counted and classes > max(_MANY_CLASSES, len(y_train)):
        raise wrong(
            "more classes than examples", key=f"{keys[1]}[{int(y_train.argmax())}]",
            expected="class numbers from 0", found=y_train.max(),
            hint="give --classes if this is meant",
        )  # fmt: skip
    if classes < 2:
        raise wrong("only one class", key=keys[1])
    _check_range(name, keys[1], y_train, classes)
    if test is None:
        how = options.test_fraction, options.split_seed
        x_train, y_train, x_test, y_test = datasets.split(x_train, y_train, *how)
    else:
        x_test, y_test = _checked_pair(name, test, keys[2:])
        _check_range(name, keys[3], y_test, classes)
    if len(x_test) == 0:
        found, hint = f"{len(x_train)} to train on", "raise --test-fraction"
        raise wrong("no examples to test on", found=found, hint=hint)
    shape, found = x_train.shape[1:], x_test.shape[1:]
    if found != shape:
        problem = "examples of another shape"
        raise wrong(problem, key=keys[2], expected=shape, found=found)
    names = tuple(class_names or map(str, range(classes)))
    conform(names, ClassNames, file=name, key="classes")
    return Dataset(name, x_train, y_train, x_test, y_test, names)


def _checked_pair(name: str, pair: Pair, keys: Sequence[str]) -> Pair:
    """Check examples and labels; returns them with a channel axis, and as int32."""
    (x, y), (key, y_key) = pair, keys
    wrong = functools.partial(InputError, file=name, key=key)
    if x.dtype.kind not in "buif":
        raise wrong("not numbers", expected="real numbers", found=x.dtype)
    if x.ndim == 3:
        x = x[..., None]  # grey images
    if x.ndim not in (2, 4) or 0 in x.shape[1:]:
        shapes = "(examples, features) or (examples, height, width[, channels])"
        raise wrong("wrong shape", expected=shapes, found=x.shape)
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 2, 3, 4):
        hint = "save x.transpose(0, 2, 3, 1)"
        raise wrong("channels come last", found=x.shape, hint=hint)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise wrong("not a finite number", key=f"{key}{list(first)}", found=x[first])
    wrong = functools.partial(InputError, file=name, key=y_key)
    if y.ndim != 1:
        hint = "save y.argmax(-1)" if y.ndim == 2 else None
        raise wrong("wrong shape", expected="(examples,)", found=y.shape, hint=hint)
    if y.dtype.kind not in "ui":
        problem, hint = "labels are not class numbers", "save y.astype(int)"
        raise wrong(problem, expected="integers", found=y.dtype, hint=hint)
    out_of_range = (y < 0) | (y >= 2**31)
    if out_of_range.any():
        index = int(out_of_range.argmax())
        key = f"{y_key}[{index}]"
        raise wrong("label out of range", key=key, expected="0 or more", found=y[index])
    if len(x) != len(y):
        problem, expected = "as many labels as examples are needed", f"{len(x)} labels"
        raise wrong(problem, expected=expected, found=len(y))
    return x, y.astype(np.int32)


def _check_range(name: str, key: str, y: np.ndarray, classes: int) -> None:
    if (y >= classes).any():
        index = int((y >= classes).argmax())
        raise InputError(
            "label out of range", file=name, key=f"{key}[{index}]",
            expected=f"0 to {classes - 1}", found=y[index],
            hint="train and test need the same classes; see --classes",
        )  # fmt: skip
