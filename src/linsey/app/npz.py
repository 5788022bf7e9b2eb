"""Arrays of a NumPy archive: those of one of several groups of names.

What an archive says of its arrays is compared with what it holds before anything is
unpacked, see `linsey.app.array_file`.
"""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from linsey.app.array_file import MAX_UNPACKED, ArrayFile
from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_RATIO = 100
"""Bytes that the arrays may have for each byte of a larger file."""
_MAX_DIRECTORY = 2**21  # bytes of the list of members, about 20,000 arrays
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class _Bounded:
    """A file of which nobody reads more than a limit at once.

    `zipfile` reads the list of members in one go, however long it is.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        most = _MAX_DIRECTORY + 1
        content = self._file.read(most if size < 0 else min(size, most))
        if len(content) > _MAX_DIRECTORY:
            raise InputError("more arrays than are read", file=self._path)
        return content


def read_npz(
    path: Path,
    choose: Callable[[Iterable[str]], tuple[str, ...]],
    text: Callable[[str], bool] = lambda key: False,
) -> dict[str, np.ndarray]:
    """Read some arrays of an archive.

    Args:
        path: what `numpy.savez` or `numpy.savez_compressed` wrote.
        choose: returns the arrays that are wanted of those that are there.
        text: tells whether an array may hold text, of labels.

    Returns:
        The arrays that are wanted, by name.

    Raises:
        InputError: the file is not such an archive, or an array is not usable.
        DiskError: the disk refused.
    """
    with open_regular(path) as file, parsing(path, "not a readable npz file"):
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(_Bounded(file, path)) as archive:  # type: ignore[arg-type]
            infos: dict[str, zipfile.ZipInfo] = {}
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                if key in infos:
                    raise InputError("an array is there twice", file=path, key=key)
                infos[key] = info
            members = {}
            for key in choose(infos):
                with parsing(path, "the array cannot be read", key):
                    members[key] = _member(path, archive, infos[key], text(key))
            _check_total(path, members, max(MAX_UNPACKED, MAX_RATIO * size))
            arrays = {}
            for key, member in members.items():
                with parsing(path, "the array cannot be read", key):
                    arrays[key] = member.read()
    return arrays


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, takes_text: bool
) -> ArrayFile:
    key = info.filename.removesuffix(".npy")
    wrong = functools.partial(InputError, file=path, key=key)
    if info.flag_bits & 1:
        raise wrong("the array is encrypted")
    if info.compress_type not in _METHODS:
        hint = "save it with numpy.savez or numpy.savez_compressed"
        raise wrong("packed in a way that NumPy does not write", hint=hint)
    opened = functools.partial(archive.open, info)
    return ArrayFile(opened, info.file_size, wrong, takes_text)


def _check_total(path: Path, members: dict[str, ArrayFile], limit: int) -> None:
    total = sum(member.header.nbytes for member in members.values())
    if total > limit:
        expected, found = f"at most {limit:,} bytes", f"{total:,}"
        hint = "save it with numpy.savez, which does not compress"
        raise InputError(
            "the arrays are too large for the file", file=path,
            expected=expected, found=found, hint=hint,
        )  # fmt: skip
