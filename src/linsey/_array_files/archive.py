"""Zip archives whose list of members is not trusted."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from linsey._array_files.array_file import MAX_UNPACKED
from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_RATIO = 100
"""For larger files, the largest number of bytes of arrays per byte of the file."""
_MAX_DIRECTORY = 2**21  # bytes of the list of members, about 20,000 arrays


class Archive(NamedTuple):
    """An open archive.

    Attributes:
        path: path of the file.
        size: size of the file in bytes.
        file: the zip file, which reads the members.
        members: the entries in the list of members, by name.
    """

    path: Path
    size: int
    file: zipfile.ZipFile
    members: Mapping[str, zipfile.ZipInfo]

    @property
    def limit(self) -> int:
        """The largest number of bytes that all arrays together may have."""
        return max(MAX_UNPACKED, MAX_RATIO * self.size)

    def check_total(self, total: int, hint: str) -> None:
        """Raise an error if the arrays are too large for their file."""
        if total > self.limit:
            expected, found = f"at most {self.limit:,} bytes", f"{total:,}"
            problem = "the arrays are too large for the file"
            raise InputError(
                problem, file=self.path, expected=expected, found=found, hint=hint
            )


class _Bounded:
    """A file that limits the size of a single read.

    `zipfile` reads the whole list of members at once, however long it is.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:  # this would look like a disk error
            raise InputError("a member before the file begins", file=self._path)
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        most = _MAX_DIRECTORY + 1
        content = self._file.read(most if size < 0 else min(size, most))
        if len(content) > _MAX_DIRECTORY:
            raise InputError("more arrays than are read", file=self._path)
        return content


@contextlib.contextmanager
def open_archive(path: Path, problem: str, suffix: str = "") -> Iterator[Archive]:
    """Open an archive.

    Args:
        path: the file.
        problem: the error message if it cannot be read, such as "not a readable npz
            file".
        suffix: suffix that is removed from the names of members.

    Yields:
        The archive. Errors in the block are reported as by `linsey.files.parsing`.

    Raises:
        InputError: the file is not such an archive.
        DiskError: a disk operation failed.
    """
    with open_regular(path) as opened, parsing(path, problem):
        size = os.fstat(opened.fileno()).st_size
        bounded = _Bounded(opened, path)
        with zipfile.ZipFile(bounded) as file:  # type: ignore[arg-type]
            members: dict[str, zipfile.ZipInfo] = {}
            for info in file.infolist():
                key = info.filename.removesuffix(suffix)
                if key in members:
                    raise InputError("an array is there twice", file=path, key=key)
                members[key] = info
            yield Archive(path, size, file, members)


def add_member(file: zipfile.ZipFile, name: str, *content: bytes | memoryview) -> None:
    """Write a member whose bytes depend only on its name and content.

    Args:
        file: an archive that is being written.
        name: name of the member.
        content: content in chunks, which is not compressed.
    """
    info = zipfile.ZipInfo(name)  # dated 1980, not now
    info.file_size = sum(len(chunk) for chunk in content)
    with file.open(info, "w") as member:
        for chunk in content:
            member.write(chunk)
