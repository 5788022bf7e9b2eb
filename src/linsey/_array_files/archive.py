"""Zip archives whose list of members is not believed."""

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
"""Bytes that the arrays may have for each byte of a larger file."""
_MAX_DIRECTORY = 2**21  # bytes of the list of members, about 20,000 arrays


class Archive(NamedTuple):
    """An archive that is open.

    Attributes:
        path: where it is.
        size: of the file, in bytes.
        file: reads the members.
        members: what the list says of each, by name.
    """

    path: Path
    size: int
    file: zipfile.ZipFile
    members: Mapping[str, zipfile.ZipInfo]

    @property
    def limit(self) -> int:
        """Bytes that its arrays may have together."""
        return max(MAX_UNPACKED, MAX_RATIO * self.size)

    def check_total(self, total: int, hint: str) -> None:
        """Refuse arrays that are too large for the file that they are in."""
        if total > self.limit:
            expected, found = f"at most {self.limit:,} bytes", f"{total:,}"
            problem = "the arrays are too large for the file"
            raise InputError(
                problem, file=self.path, expected=expected, found=found, hint=hint
            )


class _Bounded:
    """A file of which nobody reads more than a limit at once.

    `zipfile` reads the list of members in one go, however long it is.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:  # which would be a refusal of the disk
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
        problem: what it is if it cannot be read, such as "not a readable npz file".
        suffix: of names of members; left out.

    Yields:
        The archive. What the block stumbles over is reported as in
        `linsey.files.parsing`.

    Raises:
        InputError: it is no such archive.
        DiskError: the disk refused.
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
    """Write a member that depends on its name and content only.

    Args:
        file: an archive that is being written.
        name: of the member.
        content: in chunks; not compressed.
    """
    info = zipfile.ZipInfo(name)  # of 1980, and not of now
    info.file_size = sum(len(chunk) for chunk in content)
    with file.open(info, "w") as member:
        for chunk in content:
            member.write(chunk)
