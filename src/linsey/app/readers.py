"""Data for the command: `load` returns a `Dataset`, wherever the examples are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from linsey import datasets
from linsey._array_files.array_file import read_npy
from linsey._array_files.npz import read_npz
from linsey.app.array_names import Chosen, choose_arrays, is_whole
from linsey.app.config import ARRAYS, DataOptions, LoadingOptions
from linsey.app.dataset import Dataset, Known, make_dataset
from linsey.app.image_array import Pixels
from linsey.app.image_folder import load_image_folder
from linsey.app.saved_datasets import is_saved_dataset, load_saved_dataset
from linsey.app.tables import load_table
from linsey.errors import InputError
from linsey.files import parsing, reporting

_KINDS = ("`digits`, FILE.npz, FILE.npy, FILE.csv, or a folder of images by class, "
          "of npy files, or of save_to_disk")  # fmt: skip


def load(
    options: DataOptions,
    known: Known | None = None,
    loading: LoadingOptions | None = None,
    pixels: Pixels | None = None,
) -> Dataset:
    """Load the data that `--data` names.

    Args:
        options: the data options.
        known: facts about the training data of the model. If `None`, it is yet to be
            trained.
        loading: the options of memory and workers for images on disk. If `None`,
            the defaults.
        pixels: what images on disk are known to be. Then none is read before its row
            is, and they have no digest and no standardizer. If `None`, all are read.

    Returns:
        Validated arrays with a training and a test part.

    Raises:
        InputError: the data do not exist or are not usable; the error says what is
            wrong, and where.
        DiskError: a file cannot be read or written.
    """
    if options.data == "digits":
        return make_dataset("digits", datasets.digits(), None, options, known=known)
    if options.data == ARRAYS:
        raise InputError(
            "the data were arrays of a program", key="--data",
            hint="save them with numpy.savez('data.npz', x=x, y=y), and give --data "
            "data.npz",
        )  # fmt: skip
    path = Path(options.data)
    with reporting(path, "read"):
        is_folder, exists = path.is_dir(), path.exists() or path.is_symlink()
    if is_folder:
        return _load_folder(path, options, known, loading, pixels)
    if not exists:
        raise InputError("no such file or folder", file=path, key="--data")
    if path.suffix == ".npz":
        with parsing(path, "the arrays cannot be loaded"):
            return load_npz(path, options, known)
    if path.suffix == ".npy":
        return load_npy(path.parent, _around(path), options, known)
    if path.suffix in (".csv", ".tsv"):
        with parsing(path, "the table cannot be loaded"):
            return load_table(path, options, known)
    raise InputError("data of an unknown kind", file=path, expected=_KINDS)


def _load_folder(
    path: Path,
    options: DataOptions,
    known: Known | None,
    loading: LoadingOptions | None,
    pixels: Pixels | None,
) -> Dataset:
    names = _npy_names(path)
    if names:
        return load_npy(path, choose_arrays(names, path), options, known)
    if is_saved_dataset(path):
        with parsing(path, "the data set cannot be loaded"):
            return load_saved_dataset(path, options, known, loading, pixels)
    with parsing(path, "the images cannot be loaded"):
        return load_image_folder(path, options, known, loading, pixels)


def load_npz(path: Path, options: DataOptions, known: Known | None = None) -> Dataset:
    """Load x and y, or x_train, y_train, x_test and y_test.

    Args:
        path: the archive.
        options: the data options.
        known: facts about the training data of the model that the data are for.

    Returns:
        The data set.

    Raises:
        InputError: the file or an array is not usable.
        DiskError: a file cannot be read or written.
    """
    chosen = Chosen(())

    def choose(names: Iterable[str]) -> tuple[str, ...]:
        nonlocal chosen
        chosen = choose_arrays(names, path)
        return chosen.keys

    arrays = read_npz(path, choose, lambda key: key in chosen.labels)
    return from_arrays(str(path), chosen, list(arrays.values()), options, known)


def load_npy(
    folder: Path, chosen: Chosen, options: DataOptions, known: Known | None = None
) -> Dataset:
    """Load the arrays that `load_npz` loads, from one file each.

    Args:
        folder: the folder with `x.npy` and `y.npy`, or `x_train.npy`, ...
        chosen: names of the files, without their endings.
        options: the data options.
        known: facts about the training data of the model that the data are for.

    Returns:
        The data set.

    Raises:
        InputError: a file is not usable.
        DiskError: a file cannot be read or written.
    """
    arrays = [read_npy(folder / f"{k}.npy", k in chosen.labels) for k in chosen.keys]
    with parsing(folder, "the arrays cannot be loaded"):
        return from_arrays(str(folder), chosen, arrays, options, known)


def _npy_names(folder: Path) -> list[str]:
    with reporting(folder, "list"):
        return sorted(entry.stem for entry in folder.glob("*.npy"))


def _around(path: Path) -> Chosen:
    """Choose the arrays that belong to an npy file; there may be several pairs."""
    folder, own = path.parent, path.stem
    others = [name for name in _npy_names(folder) if name != own]
    with contextlib.suppress(InputError):
        if own in (chosen := choose_arrays([own, *others], folder)).keys:
            return chosen
    chosen = choose_arrays([own, *filter(is_whole, others)], path)
    if own not in chosen.keys:
        keys = " and ".join(f"{key}.npy" for key in chosen.keys)
        hint = f"name {keys.split()[0]} to learn from {keys}"
        raise InputError("no array with labels belongs to it", file=path, hint=hint)
    return chosen


def from_arrays(
    name: str,
    chosen: Chosen,
    arrays: list[np.ndarray],
    options: DataOptions,
    known: Known | None,
) -> Dataset:
    """Make a data set from arrays that were chosen by their names.

    Args:
        name: the name of the data set.
        chosen: the names of the arrays.
        arrays: the arrays, in the same order.
        options: the data options.
        known: facts about the training data of the model that the data are for.

    Raises:
        InputError: an array is not usable.
    """
    train, *others = zip(arrays[::2], arrays[1::2], strict=True)
    test, validation = [*others, None, None][:2]
    return make_dataset(
        name, train, test, options, chosen.keys, known=known, validation=validation
    )
