"""Data for the command: `load` gives one `Dataset`, wherever the examples are."""

from __future__ import annotations

from pathlib import Path

from linsey import datasets
from linsey.app.config import DataOptions
from linsey.app.dataset import Dataset, make_dataset
from linsey.app.images import load_image_folder
from linsey.app.npz import read_npz
from linsey.errors import InputError
from linsey.files import parsing, reporting

_WHOLE = ("x", "y")
_PARTS = ("x_train", "y_train", "x_test", "y_test")


def load(options: DataOptions) -> Dataset:
    """Load what `--data` names.

    Args:
        options: the data options.

    Returns:
        Validated arrays with a training and a test part.

    Raises:
        InputError: the data are not there or not usable; says what and where.
        DiskError: the disk refused.
    """
    if options.data == "digits":
        return make_dataset("digits", datasets.digits(), None, options)
    path = Path(options.data)
    with reporting(path, "read"):
        is_folder, exists = path.is_dir(), path.exists() or path.is_symlink()
    if is_folder:
        with parsing(path, "the images cannot be loaded"):
            return load_image_folder(path, options)
    if not exists:
        raise InputError("no such file or folder", file=path, key="--data")
    if path.suffix != ".npz":
        kinds = "`digits`, FILE.npz, or a folder of class folders of images"
        raise InputError("data of an unknown kind", file=path, expected=kinds)
    with parsing(path, "the arrays cannot be loaded"):
        return load_npz(path, options)


def load_npz(path: Path, options: DataOptions) -> Dataset:
    """Load x and y, or x_train, y_train, x_test and y_test.

    Args:
        path: the archive.
        options: the data options.

    Returns:
        The data set.

    Raises:
        InputError: the file or an array is not usable.
        DiskError: the disk refused.
    """
    arrays = read_npz(path, _PARTS, _WHOLE)
    keys, values = tuple(arrays), list(arrays.values())
    test = (values[2], values[3]) if len(values) == 4 else None
    return make_dataset(str(path), (values[0], values[1]), test, options, keys)
