"""Class numbers from labels in the forms in which people save them.

A label is a number, a text or a one-hot row, and names one class. Numbers that run from
0 upwards are class numbers. All other numbers, and text, are names of classes: the
classes are the labels that occur in the training part, in order, and the labels of
other parts are looked up among them, so that all parts agree.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence

import numpy as np

from linsey._array_files.array_file import MAX_TEXT
from linsey.app.config import MAX_CLASSES
from linsey.errors import InputError

MAX_LABEL = MAX_TEXT
"""The largest number of characters in a label."""
_FEW = 20  # this many classes may have one example each
_EXACT = 2**53  # larger floats do not represent every integer
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of one part, one for each example.

    Attributes:
        values: integers or text, shape (examples,).
        file: where they come from, for messages.
        key: their name there.
        width: length of the rows, if they were one-hot.
    """

    values: np.ndarray
    file: str
    key: str
    width: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether the labels are text, not numbers."""
        return self.values.dtype.kind == "U"

    def wrong(self, problem: str, index: int | None = None, **rest: object):
        """Return an error about a label."""
        return _wrong(self.file, self.key, problem, index, **rest)


def _wrong(
    file: str, key: str, problem: str, index: int | None = None, **rest: object
) -> InputError:
    place = key if index is None else f"{key}[{index}]"
    return InputError(problem, file=file, key=place, **rest)  # type: ignore[arg-type]


def read_labels(y: np.ndarray, file: str, key: str) -> Labels:
    """Convert labels of any form to integers or text.

    Args:
        y: numbers or text of shape (examples,) or (examples, 1), or one-hot rows of
            shape (examples, classes).
        file: where they come from, for messages.
        key: their name there.

    Returns:
        The labels.

    Raises:
        InputError: the labels are not one class for each example.
    """
    wrong = functools.partial(_wrong, file, key)
    if y.dtype.kind not in "buifUS":
        raise wrong("labels are not classes", expected="numbers or text", found=y.dtype)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "buif" and y.shape[0] != 1:
        width = y.shape[1]
        return Labels(_from_rows(y, wrong), file, key, width)
    if y.ndim != 1:
        hint = "save y.ravel()" if y.ndim == 2 and y.shape[0] == 1 else None
        raise wrong("wrong shape", expected="(examples,)", found=y.shape, hint=hint)
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise wrong(f"labels are not text in UTF-8: {error}") from None
    if y.dtype.kind == "U" and not _is_unicode(y):
        raise wrong("labels are not text: they hold numbers that are no characters")
    if y.dtype.kind == "f":
        _refuse_measurements(y, wrong)
    if y.dtype.kind == "u" and y.size and y.max() >= 2**63:
        problem, expected = "label out of range", "less than 2^63"
        raise wrong(problem, int(y.argmax()), expected=expected, found=y.max())
    return Labels(y if y.dtype.kind == "U" else y.astype(np.int64), file, key)


def _is_unicode(y: np.ndarray) -> bool:
    """Tell whether an array is valid text: a file may hold any numbers."""
    kind = np.dtype(np.uint32).newbyteorder(y.dtype.byteorder)
    return not y.size or int(np.ascontiguousarray(y).view(kind).max()) <= sys.maxunicode


def _from_rows(y: np.ndarray, wrong: functools.partial[InputError]) -> np.ndarray:
    """Return the classes of one-hot rows; `argmax` of other rows would mean nothing."""
    is_odd = ((y != 0) & (y != 1)).any(1)
    if is_odd.any():
        index = int(is_odd.argmax())
        raise wrong(
            "labels are rows that are not one-hot, and one class for each example is "
            "needed", index, expected="one 1 and zeros", found=_row(y[index]),
        )  # fmt: skip
    counts = np.count_nonzero(y, axis=1)
    if (counts != 1).any():
        index = int((counts != 1).argmax())
        found = f"{counts[index]} in {_row(y[index])}"
        problem = "one class for each example is needed"
        raise wrong(problem, index, expected="a row with one 1", found=found)
    return y.argmax(1)


def _row(row: np.ndarray) -> str:
    more = ", ..." if len(row) > _SHOWN else ""
    return f"[{', '.join(f'{value:g}' for value in row[:_SHOWN])}{more}]"


def _refuse_measurements(y: np.ndarray, wrong: functools.partial[InputError]) -> None:
    if not (is_finite := np.isfinite(y)).all():
        index = int(is_finite.argmin())
        raise wrong("not a finite number", index, found=y[index])
    if (is_broken := y != np.rint(y)).any():
        index = int(is_broken.argmax())
        raise wrong(
            "labels are measurements and not classes, and regression is not offered",
            index, expected="whole numbers or text", found=y[index],
        )  # fmt: skip
    if (is_large := np.abs(y) > _EXACT).any():
        index = int(is_large.argmax())
        raise wrong("label out of range", index, expected="2^53 at most",
                    found=y[index])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: one for each class.
        are_numbers: whether labels that are numbers are class numbers. If `False`, they
            are names of classes.
    """

    names: tuple[str, ...]
    are_numbers: bool = True

    def numbers(self, labels: Labels) -> np.ndarray:
        """Return the class numbers of labels, as int32 of shape (examples,).

        Raises:
            InputError: a label is none of the classes.
        """
        values, count = labels.values, len(self.names)
        if not labels.is_text and self.are_numbers:
            is_strange = (values < 0) | (values >= count)
            if is_strange.any():
                index = int(is_strange.argmax())
                hint = _range_hint(int(values.min()), int(values.max()))
                raise labels.wrong(
                    "label out of range", index, expected=f"0 to {count - 1}",
                    found=values[index], hint=hint,
                )  # fmt: skip
            return values.astype(np.int32)
        kind = np.str_ if labels.is_text else np.int64
        names = np.asarray(self.names, kind)
        order = np.argsort(names)
        indices = np.searchsorted(names, values, sorter=order).clip(max=count - 1)
        found = order[indices]
        is_strange = names[found] != values
        if is_strange.any():
            index = int(is_strange.argmax())
            problem = "a label that does not occur in the training part"
            expected, value = f"one of {_listed(self.names)}", values[index].item()
            raise labels.wrong(problem, index, expected=expected, found=value)
        return found.astype(np.int32)


def _range_hint(least: int, largest: int) -> str | None:
    if least < 0 or largest >= MAX_CLASSES:
        return None
    return f"--classes {largest + 1} makes room for it"


def find_classes(
    labels: Labels, count: int | None, is_parted: bool = False
) -> tuple[Classes, str | None]:
    """Find the classes of a training part.

    Args:
        labels: the labels of the training part, at least one.
        count: number of classes, if it is given.
        is_parted: whether there is a test part, so that one example of a class may be
            enough.

    Returns:
        The classes, and a note for the user on how they were found, if one is needed.

    Raises:
        InputError: the labels can hardly be classes.
    """
    if labels.is_text:
        return _text_classes(labels, count, is_parted), None
    if count or labels.width:
        return _numbered(count or labels.width or 0), None
    values = labels.values
    found = _distinct(values)
    size, largest = len(found), int(found[-1])
    if (found[0], largest) == (0, size - 1):
        return _numbered(size), None
    is_possible = found[0] >= 0 and largest < MAX_CLASSES
    hint = f"--classes {largest + 1} takes them as class numbers"
    if size > _FEW and 2 * size > len(values):
        raise labels.wrong(
            "almost every label is another number: these are measurements, and "
            "regression is not offered", expected="a class for each example",
            found=f"{size} numbers in {len(values)} labels",
            hint=hint if is_possible else None,
        )  # fmt: skip
    names = tuple(map(str, found.tolist()))
    told = f" ({hint})" if is_possible else ""
    note = (
        f"{labels.key}: the labels {_listed(names)} are taken as {size} classes{told}"
    )
    return Classes(names, False), note


def known_classes(names: Sequence[str]) -> Classes:
    """Return the classes that a model was trained on.

    If their names are numbers, labels that are numbers are names, too; otherwise they
    are class numbers.
    """
    try:
        are_names = list(map(str, map(int, names))) == list(names)
    except ValueError:
        are_names = False
    return Classes(tuple(names), not are_names)


def _numbered(count: int) -> Classes:
    return Classes(tuple(map(str, range(count))))


def _text_classes(labels: Labels, count: int | None, is_parted: bool) -> Classes:
    values = labels.values
    found = np.unique(values).tolist()
    if found[0] == "":
        index = int((values == "").argmax())
        hint = "leave the example out, or give it a label"
        raise labels.wrong("an empty label", index, hint=hint)
    if count is not None and count != len(found):
        raise labels.wrong(
            "labels of text bring their classes along", expected=f"{count} labels",
            found=_listed(found), hint="leave --classes out",
        )  # fmt: skip
    if not is_parted and len(found) > _FEW and 2 * len(found) > len(values):
        raise labels.wrong(
            "almost every example has a label of its own",
            expected="a class for each example",
            found=f"{len(found)} texts in {len(values)} labels",
        )  # fmt: skip
    return Classes(tuple(found))


def _distinct(values: np.ndarray) -> np.ndarray:
    """Return `np.unique(values)`, without sorting if their range is small."""
    low, high = int(values.min()), int(values.max())
    if high - low < max(MAX_CLASSES, len(values)):
        return np.flatnonzero(np.bincount(values - low)) + low
    return np.unique(values)


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) < 40 else f"{name[:40]}..." for name in names[:_SHOWN]]
    if (more := len(names) - _SHOWN) > 0:
        return f"{', '.join(shown)} and {more} more"
    return ", ".join(shown)
