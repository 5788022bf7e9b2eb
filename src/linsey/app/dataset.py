"""A classification data set in memory: validated, with fixed train and test parts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np

from linsey import datasets
from linsey.app.config import MAX_CLASSES, DataOptions
from linsey.app.image_array import Examples, ImageArray
from linsey.app.labels import (
    MAX_LABEL,
    Classes,
    Labels,
    find_classes,
    known_classes,
    read_labels,
)
from linsey.app.standardizer import Standardizer, first_not_finite
from linsey.errors import InputError
from linsey.schema import Between, conform

Pair = tuple[Examples, np.ndarray]  # examples and labels
PartName = Literal["test", "validation"]
ClassNames = Annotated[
    tuple[Annotated[str, Between(1, MAX_LABEL)], ...], Between(2, MAX_CLASSES)
]
_BLOCK = 2**22  # bytes that are moved at once


@dataclasses.dataclass(frozen=True)
class Known:
    """Facts about a model's training data, so that other data are read the same way.

    Attributes:
        class_names: the names of the model's outputs.
        feature_names: the names of its inputs, if they are the columns of a table.
        means: the means of its inputs in the training part.
    """

    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    means: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples and labels.

    Attributes:
        name: its name in messages and reports.
        x_train: (examples, features) or (examples, height, width, channels); images in
            files are decoded when their rows are read.
        y_train: (examples,) int32 in [0, classes).
        x_test: like `x_train`.
        y_test: like `y_train`.
        class_names: one name for each class.
        feature_names: the names of the features, if they have any.
        notes: lines for the user on how the data were read.
        validation: examples and labels to choose the best step by, if there are any.
    """

    name: str
    x_train: Examples
    y_train: np.ndarray
    x_test: Examples
    y_test: np.ndarray
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    validation: Pair | None = None

    @property
    def watched(self) -> PartName:
        """The part that is evaluated during training."""
        return "test" if self.validation is None else "validation"

    def part(self, name: PartName) -> Pair:
        """Return the examples and labels of a part."""
        if name == "validation" and self.validation is not None:
            return self.validation
        return self.x_test, self.y_test

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x_train.shape[1:]

    @functools.cached_property
    def standardizer(self) -> Standardizer:
        """The map from examples to inputs, measured on the training part."""
        return Standardizer.fit(self.x_train)

    def warnings(self) -> list[str]:
        """Return the notes, and anything odd about the training part."""
        kind = "channel" if len(self.shape) > 1 else "feature"
        return [*self.notes, *self.standardizer.oddities(self.feature_names, kind)]

    def digest(self) -> str:
        """Return the SHA-256 of all arrays, by which changed data are noticed."""
        digest = hashlib.sha256()
        test = self.x_test, self.y_test
        for array in (self.x_train, self.y_train, *test, *(self.validation or ())):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            if isinstance(array, ImageArray):
                digest.update(array.digest())
            else:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The examples that each step learns from: a function of the seed and the step.

    An epoch has `count // batch_size` steps. The examples that it leaves out change
    with the order of each epoch, so that none is left out for good.

    Attributes:
        count: number of examples.
        batch_size: examples per step, at most `count`.
        seed: decides the order, together with the number of the epoch.
        first_step: number of steps already done.
        total: number of steps of the whole run.

    Example:
        >>> plan = BatchOrder(count=7, batch_size=3, seed=0, first_step=1, total=3)
        >>> [indices.tolist() for indices in plan]
        [[1, 2, 6], [3, 4, 2]]
    """

    count: int
    batch_size: int
    seed: int
    first_step: int
    total: int

    def __getitem__(self, step: int) -> np.ndarray:
        """Return the indices of a step, shape (batch_size,)."""
        epoch, place = divmod(step, self.count // self.batch_size)
        start = place * self.batch_size
        return _order(self.count, self.seed, epoch)[start : start + self.batch_size]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the indices of each step that is not done yet."""
        return map(self.__getitem__, range(self.first_step, self.total))


@functools.lru_cache(maxsize=1)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return datasets.permutation(count, seed, epoch)


def make_dataset(
    name: str,
    train: Pair,
    test: Pair | None,
    options: DataOptions,
    keys: Sequence[str] = ("x", "y"),
    class_names: Sequence[str] | None = None,
    known: Known | None = None,
    validation: Pair | None = None,
    may_miss: bool = False,
) -> Dataset:
    """Validate arrays, and split off the parts that are missing.

    Args:
        name: the data set or its file, for messages.
        train: examples and labels. Without a test part, the array of examples is
            modified: its rows are moved, so that no second copy is needed.
        test: examples and labels. If `None`, a fraction of each class is held out.
        options: the data options.
        keys: the names of the arrays in their source: x, y (, x test, y test
            (, x validation, y validation)).
        class_names: the names of the class numbers. If `None`, the labels tell.
        known: facts about the training data of the model. If `None`, it is yet to be
            trained.
        validation: like `test`. If `None`, `--validation-fraction` of each class of
            the training part is held out.
        may_miss: whether values may be missing, that is, NaN.

    Returns:
        The data set.

    Raises:
        InputError: something is wrong; the error names the first array and index.
    """
    wrong = functools.partial(InputError, file=name)
    if validation is not None and options.validation_fraction:
        problem, hint = "there is a validation part", "leave it out: that part is used"
        raise wrong(problem, key="--validation-fraction", hint=hint)
    x_train, labels = _checked_pair(name, train, keys[:2], may_miss)
    if len(x_train) == 0:
        raise wrong("no examples", key=keys[0])
    is_parted = test is not None
    classes, note = _classes(labels, is_parted, options, class_names, known)
    if len(classes.names) < 2:
        raise wrong("only one class", key=keys[1])
    conform(classes.names, ClassNames, file=name, key="classes")
    y_train = classes.numbers(labels)
    if test is None:
        how = options.test_fraction, options.split_seed
        x_train, y_train, x_test, y_test = hold_out(x_train, y_train, *how)
    else:
        x_test, test_labels = _checked_pair(name, test, keys[2:4], may_miss)
        y_test = classes.numbers(test_labels)
    if validation is not None:
        pair = _checked_pair(name, validation, keys[4:], may_miss)
        validation = pair[0], classes.numbers(pair[1])
    elif options.validation_fraction:
        how = options.validation_fraction, options.split_seed
        x_train, y_train, x_held_out, y_held_out = hold_out(x_train, y_train, *how)
        validation = x_held_out, y_held_out
    if len(x_test) == 0:
        raise wrong("no examples to test on", found=f"{len(x_train)} to train on",
                    hint=_split_hint(y_train))  # fmt: skip
    if len(x_train) == 0 and known is None:
        raise wrong("no examples to train on", found=f"{len(x_test)} to test on",
                    hint=_split_hint(y_test))  # fmt: skip
    if validation is not None and len(validation[0]) == 0:
        hint = "--validation-fraction 0.5 holds out half of each class"
        raise wrong("no examples to validate on", hint=hint)
    shape = x_train.shape[1:]
    for index, x in enumerate([x_test, *(validation or ())[:1]], 1):
        if (found := x.shape[1:]) != shape:
            problem, key = "examples of another shape", keys[2 * index]
            raise wrong(problem, key=key, expected=shape, found=found)
    notes = () if note is None else (note,)
    names = classes.names
    return Dataset(
        name, x_train, y_train, x_test, y_test, names, notes=notes,
        validation=validation,
    )  # fmt: skip


def _classes(
    labels: Labels,
    is_parted: bool,
    options: DataOptions,
    class_names: Sequence[str] | None,
    known: Known | None,
) -> tuple[Classes, str | None]:
    if class_names is not None:
        return Classes(tuple(class_names)), None
    if known is not None:
        return known_classes(known.class_names), None
    return find_classes(labels, options.classes, is_parted)


def _split_hint(y: np.ndarray) -> str:
    """Suggest how to get a test part if no example can be held out."""
    if len(y) and np.bincount(y).max() > 1:
        return "--test-fraction 0.5 holds out half of each class"
    return "give examples to train and to test on, or more of each class"


def hold_out(
    x: Examples, y: np.ndarray, fraction: float, seed: int
) -> tuple[Examples, np.ndarray, Examples, np.ndarray]:
    """Split as `datasets.split` does, within the memory of `x` if possible.

    Args:
        x: examples; may be overwritten.
        y: class numbers.
        fraction: the fraction of each class to hold out.
        seed: decides which examples are held out.

    Returns:
        `x_train`, `y_train`, `x_test` and `y_test`.
    """
    rows = np.arange(len(y))
    train, y_train, test, y_test = datasets.split(rows, y, fraction, seed)
    if isinstance(x, ImageArray):
        return x.select(train), y_train, x.select(test), y_test
    if not (x.flags.writeable and x.flags.c_contiguous):
        return x[train], y_train, x[test], y_test
    x_test = x[test]
    size = max(1, _BLOCK // max(1, x[:1].nbytes))
    for start in range(0, len(train), size):
        # Rows only move to the front: those still to be moved are never overwritten.
        chosen = train[start : start + size]
        x[start : start + len(chosen)] = x[chosen]
    x[len(train) :] = x_test  # the copy was only needed while moving
    return x[: len(train)], y_train, x[len(train) :], y_test


def _checked_pair(
    name: str, pair: Pair, keys: Sequence[str], may_miss: bool
) -> tuple[Examples, Labels]:
    """Check examples and labels, and give grey images a channel axis."""
    (x, y), (key, y_key) = pair, keys
    wrong = functools.partial(InputError, file=name, key=key)
    if not isinstance(x, ImageArray):  # which was checked image by image
        x = _checked_array(x, key, wrong, may_miss)
    labels = read_labels(y, name, y_key)
    if len(x) != len(labels.values):
        problem, expected = "as many labels as examples are needed", f"{len(x)} labels"
        found = len(labels.values)
        raise wrong(problem, key=y_key, expected=expected, found=found)
    return x, labels


def _checked_array(
    x: np.ndarray, key: str, wrong: functools.partial[InputError], may_miss: bool
) -> np.ndarray:
    if x.dtype.kind not in "buif":
        raise wrong("not numbers", expected="real numbers", found=x.dtype)
    if x.ndim == 3:
        x = x[..., None]  # grey images
    if x.ndim not in (2, 4) or 0 in x.shape[1:]:
        shapes = "(examples, features) or (examples, height, width[, channels])"
        raise wrong("wrong shape", expected=shapes, found=x.shape)
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 2, 3, 4):
        hint = f"save {key}.transpose(0, 2, 3, 1)"
        raise wrong("channels come last", found=x.shape, hint=hint)
    if not may_miss and (first := first_not_finite(x)) is not None:
        raise wrong("not a finite number", key=f"{key}{list(first)}", found=x[first])
    return x
