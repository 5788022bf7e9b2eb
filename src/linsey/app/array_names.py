"""What arrays of examples and labels are called, in archives and in folders."""

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
        keys: of examples and labels to train on, of those to test on, if any, and of
            those of a validation part beside a test part.
    """

    keys: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that hold labels."""
        return self.keys[1::2]


def choose_arrays(names: Iterable[str], file: str | os.PathLike[str]) -> Chosen:
    """Choose the arrays to learn from by their names, in any case of letters.

    Args:
        names: of all arrays.
        file: where they are, for messages.

    Returns:
        A training part with its test part, or with its validation part in that place,
        or with both; or else arrays that are not parted.

    Raises:
        InputError: no examples with labels are among them.

    Example:
        >>> choose_arrays(["X_train", "y_train", "X_val", "y_val"], "a.npz").keys
        ('X_train', 'y_train', 'X_val', 'y_val')
        >>> choose_arrays(["target", "data"], "a.npz").keys
        ('data', 'target')
    """
    names = list(names)
    # Of names that differ in case only, the one in lower case.
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
        names: of all arrays.
        file: where they are, for messages.

    Returns:
        The only array, or that of examples; of a parted data set that of its test part.

    Raises:
        InputError: none is known to hold the examples.

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
    """Tell whether a name is one of arrays that are not parted.

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
