"""Arrays from a program as the data of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from linsey.app.array_names import choose_arrays
from linsey.app.config import ARRAYS, DataOptions
from linsey.app.dataset import Dataset
from linsey.app.readers import from_arrays
from linsey.errors import InputError

_NAMES = {2: ("x", "y"), 4: ("x_train", "y_train", "x_test", "y_test")}
_EXPECTED = "(x, y), (x_train, y_train, x_test, y_test), or a dict with these names"


def given_data(data: object, options: DataOptions) -> Dataset:
    """Make a data set from arrays, which are not modified.

    Args:
        data: `(x, y)`, `(x_train, y_train, x_test, y_test)`, the pairs `((x_train,
            y_train), (x_test, y_test))`, or a dictionary with the names that arrays
            have in a file. Examples are (examples, features) or (examples, height,
            width[, channels]); labels (examples,).
        options: the data options.

    Returns:
        Validated arrays with a training and a test part.

    Raises:
        InputError: the data are none of these, or cannot be learned from.
    """
    named = _named(data)
    chosen = choose_arrays(named, ARRAYS)
    arrays = [_read_only(named[key]) for key in chosen.keys]
    return from_arrays(ARRAYS, chosen, arrays, options, None)


def _named(data: object) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return {str(name): value for name, value in data.items()}
    if isinstance(data, Sequence):
        values = list(data)
        if len(values) == 2 and all(isinstance(v, list | tuple) for v in values):
            if all(len(pair) == 2 for pair in values):
                values = [array for pair in values for array in pair]
        if len(values) in _NAMES:
            return dict(zip(_NAMES[len(values)], values, strict=True))
    found = type(data).__name__
    raise InputError("no data", key="data", expected=_EXPECTED, found=found)


def _read_only(value: object) -> np.ndarray:
    """Return a read-only view, so that its rows are not moved to save memory."""
    array = np.asarray(value).view()
    array.flags.writeable = False
    return array
