"""Arrays from a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.data.dataset import Dataset, make_dataset
from linsey.training.input_error import InputError

_WHOLE = ("x", "y")
_PARTS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path, options: DataOptions) -> Dataset:
    """Loads x and y, or x_train, y_train, x_test and y_test; nothing is unpickled.

    Args:
        path: the archive.
        options: the data options.

    Returns:
        The data set.

    Raises:
        InputError: the file or an array is not usable.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = list(getattr(archive, "files", ()))
            keys = _PARTS if set(_PARTS) <= set(found) else _WHOLE
            if not set(keys) <= set(found):
                raise InputError(
                    "arrays are missing",
                    file=path,
                    expected="x, y or x_train, y_train, x_test, y_test",
                    found=", ".join(found) or "none",
                )
            arrays = [_load(path, archive, key) for key in keys]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"not a readable npz file: {error}", file=path) from error
    test = (arrays[2], arrays[3]) if len(arrays) == 4 else None
    return make_dataset(str(path), (arrays[0], arrays[1]), test, options, keys)


def _load(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        problem = "the array cannot be read"
        raise InputError(f"{problem}: {error}", file=path, key=key) from error
