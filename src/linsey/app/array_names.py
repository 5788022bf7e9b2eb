"""The names of arrays of examples and labels, in archives and in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from linsey.errors import InputError

_X = ("x", "data", "images", "features")
_Y = ("y", "target", "targets", "labels", "label")
PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
"""Names of the parts of data, in lower case."""
_MOST = 10  # names in a message


class Chosen(NamedTuple):
    """The arrays that are used.

    Attributes:
        keys: names of the examples and labels to train on, then of those to test on,
            if any, then of those of the validation part, if there is also a test part.
    """

    keys: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the arrays that hold labels."""
        return self.keys[1::2]


def choose_arrays(names: Iterable[str], file: str | os.PathLike[str]) -> Chosen:
    """Choose the arrays to learn from by their names, ignoring case.

    Args:
        names: the names of all arrays.
        file: where the arrays are, for messages.

    Returns:
        The training part with the test part and the validation part, as far as these
        exist (a validation part alone takes the place of the test part); or the arrays
        of a data set that is not split into parts.

    Raises:
        InputError: no array of examples comes with an array of labels.

    Example:
        >>> choose_arrays(["X_train", "y_train", "X_val", "y_val"], "a.npz").keys
        ('X_train', 'y_train', 'X_val', 'y_val')
        >>> choose_arrays(["target", "data"], "a.npz").keys
        ('data', 'target')
    """
    names = list(names)
    # If names differ only in case, the one in lower case wins.
    found = {name.lower(): name for name in sorted(names)}
    train = _pair(found, PARTS["train"])
    if train:
        test, validation = _pair(found, PARTS["test"]), _pair(found, PARTS["val"])
        return Chosen((*train, *test, *validation))
    if whole := _pair(found, ("",)):
        return Chosen(whole)
    raise InputError(
        "arrays are missing", file=file,
        expected="x, y or x_train, y_train, x_test, y_test",
        found=", ".join(names[:_MOST]) or "none",
    )  # fmt: skip


def choose_examples(names: Iterable[str], file: str | os.PathLike[str]) -> str:
    """Choose the array of examples to be classified; labels are not needed.

    Args:
        names: the names of all arrays.
        file: where the arrays are, for messages.

    Returns:
        The only array, or the array of examples; if the data set is split into parts,
        the examples of the test part.

    Raises:
        InputError: no array has a name that is used for examples.

    Example:
        >>> choose_examples(["X", "y"], "a.npz"), choose_examples(["pixels"], "a.npz")
        ('X', 'pixels')
        >>> choose_examples(["x_train", "y_train", "x_test", "y_test"], "a.npz")
        'x_test'
    """
    names = list(names)
    if len(names) == 1:
        return names[0]
    found = {name.lower(): name for name in sorted(names)}
    for part in ("", *PARTS["test"], *PARTS["val"]):
        for form in ("{name}_{part}", "{part}_{name}"):
            for x in _X:
                if (key := form.format(name=x, part=part).strip("_")) in found:
                    return found[key]
    raise InputError(
        "no array of examples", file=file, expected=" or ".join(_X),
        found=", ".join(names[:_MOST]) or "none",
        hint="save the examples alone, or as x",
    )  # fmt: skip


def is_whole(name: str) -> bool:
    """Tell whether an array of this name belongs to data not split into parts.

    Example:
        >>> is_whole("Labels"), is_whole("x_train")
        (True, False)
    """
    return name.lower() in (*_X, *_Y)


def _pair(found: dict[str, str], parts: tuple[str, ...]) -> tuple[str, ...]:
    for part in parts:
        for form in ("{name}_{part}", "{part}_{name}"):
            for x in _X:
                for y in _Y:
                    keys = [form.format(name=n, part=part).strip("_") for n in (x, y)]
                    if found.keys() >= {*keys}:
                        return tuple(found[key] for key in keys)
    return ()
