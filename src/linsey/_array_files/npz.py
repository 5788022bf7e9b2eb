"""A reader of selected arrays in NumPy archives.

The sizes that an archive states for its arrays are checked before anything is unpacked;
see `linsey._array_files.array_file`.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from linsey._array_files.archive import Archive, open_archive
from linsey._array_files.array_file import ArrayFile
from linsey.errors import InputError
from linsey.files import parsing

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def read_npz(
    path: Path,
    choose: Callable[[Iterable[str]], tuple[str, ...]],
    text: Callable[[str], bool] = lambda key: False,
) -> dict[str, np.ndarray]:
    """Read some arrays of an archive.

    Args:
        path: file written by `numpy.savez` or `numpy.savez_compressed`.
        choose: function from the names of all arrays to those to read.
        text: tells whether an array may hold text, such as labels.

    Returns:
        The chosen arrays, by name.

    Raises:
        InputError: the file is not such an archive, or an array cannot be used.
        DiskError: a disk operation failed.
    """
    with open_archive(path, "not a readable npz file", ".npy") as archive:
        members = {}
        for key in choose(archive.members):
            with parsing(path, "the array cannot be read", key):
                members[key] = _member(archive, key, text(key))
        total = sum(member.header.nbytes for member in members.values())
        hint = "save it with numpy.savez, which does not compress"
        archive.check_total(total, hint)
        arrays = {}
        for key, member in members.items():
            with parsing(path, "the array cannot be read", key):
                arrays[key] = member.read()
    return arrays


def _member(archive: Archive, key: str, takes_text: bool) -> ArrayFile:
    info = archive.members[key]
    wrong = functools.partial(InputError, file=archive.path, key=key)
    if info.flag_bits & 1:
        raise wrong("the array is encrypted")
    if info.compress_type not in _METHODS:
        hint = "save it with numpy.savez or numpy.savez_compressed"
        raise wrong("packed in a way that NumPy does not write", hint=hint)
    opened = functools.partial(archive.file.open, info)
    return ArrayFile(opened, info.file_size, wrong, takes_text)
