"""Arrays of a NumPy archive, read by somebody who trusts nothing in it.

NumPy's own reader runs Python's parser over the header of each array and allocates what
the header asks for. Here a header has to match an expression, and what it asks for is
compared with what the archive holds before a byte of data is read. Nothing is ever
unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_AXES = 32
MAX_UNPACKED = 128 * 2**20
"""Bytes that the arrays of a file may have whatever its size."""
MAX_RATIO = 100
"""Bytes that they may have for each byte of a larger file."""
_MAX_DIRECTORY = 2**21  # bytes of the list of members, about 20,000 arrays
_MAX_HEADER = 2**16
_PIECE = 2**20
_ENTRY = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?P<value>'[^'"\\]*'|"[^'"\\]*"|True|False|\([\dL,\s]*\))\s*(?:,|$)"""
)
_DTYPE = re.compile(r"[<>|=](?:b1|[iu][1248]|f[248]|c8|c16)")
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@dataclasses.dataclass(frozen=True)
class _Header:
    """What a member says about its array."""

    dtype: np.dtype
    shape: tuple[int, ...]
    in_fortran_order: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Member:
    """One array of an archive: checked, described, and read when it is asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
        self.key = info.filename.removesuffix(".npy")
        self.wrong = functools.partial(InputError, file=path, key=self.key)
        if info.flag_bits & 1:
            raise self.wrong("the array is encrypted")
        if info.compress_type not in _METHODS:
            hint = "save it with numpy.savez or numpy.savez_compressed"
            raise self.wrong("packed in a way that NumPy does not write", hint=hint)
        self._open = functools.partial(archive.open, info)
        with self._open() as file:
            self.header = self._read_header(file, info.file_size)

    def _read_header(self, file: IO[bytes], size: int) -> _Header:
        start = file.read(10)
        if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
            raise self.wrong("not an array")
        count = 2 if start[6] == 1 else 4
        length = int.from_bytes(start[8:] + file.read(count - 2), "little")
        if length > _MAX_HEADER:
            limit = f"at most {_MAX_HEADER:,} bytes"
            raise self.wrong("a header too long", expected=limit, found=f"{length:,}")
        header = self._parsed(file.read(length).decode("latin-1"))
        self.offset = 8 + count + length
        # An axis of length 0 would hide the others.
        claimed = math.prod(max(n, 1) for n in header.shape) * header.dtype.itemsize
        if claimed != header.nbytes and claimed > MAX_UNPACKED:
            raise self.wrong("an impossible shape", found=header.shape)
        if self.offset + header.nbytes != size:
            expected, found = f"{header.nbytes:,} bytes", f"{size - self.offset:,}"
            problem = "the data are not as large as shape and dtype say"
            raise self.wrong(problem, expected=expected, found=found)
        return header

    def _parsed(self, text: str) -> _Header:
        found: dict[str, str] = {}
        body, place = text.strip(), 1
        if body[:1] + body[-1:] != "{}":
            raise self.wrong("not the header of an array")
        while body[place:-1].strip():
            match = _ENTRY.match(body, place, len(body) - 1)
            if match is None or match["key"] in found:
                raise self._unreadable(body)
            found[match["key"]], place = match["value"], match.end()
        order = found.get("fortran_order")
        if len(found) < 3 or order not in ("True", "False"):
            raise self.wrong("not the header of an array")
        descr = found["descr"].strip("'\"")
        if not _DTYPE.fullmatch(descr):
            raise self._unreadable(body)
        if not re.fullmatch(
            r"\((?:\s*\d{1,18}L?\s*(?:,|(?=\))))*\s*\)", found["shape"]
        ):
            raise self.wrong("an impossible shape", found=found["shape"])
        shape = tuple(map(int, re.findall(r"\d+", found["shape"])))
        if len(shape) > MAX_AXES:
            expected = f"at most {MAX_AXES}"
            raise self.wrong("too many axes", expected=expected, found=len(shape))
        return _Header(np.dtype(descr), shape, order == "True")

    def _unreadable(self, body: str) -> InputError:
        """Objects, records, text: dtypes that are legal, but of no use here."""
        match = re.search(
            r"""descr['"]\s*:\s*([^,]*(?:,(?!\s*'(?:f|s))[^,]*)*)""", body
        )
        described = match[1].strip() if match else body
        if _DTYPE.fullmatch(described.strip("'\"")):
            return self.wrong("not the header of an array", found=body)
        if described.strip("'\"|").startswith("O"):
            problem = "the array holds Python objects, which are never unpickled"
            return self.wrong(problem, hint="save an array of numbers")
        return self.wrong("not numbers", expected="real numbers", found=described)

    def read(self) -> np.ndarray:
        """Read the array, piece by piece: the archive may be lying still."""
        header = self.header
        array = np.empty(header.size, header.dtype)
        raw = array.view(np.uint8)
        with self._open() as file:
            file.read(self.offset)
            for start in range(0, len(raw), _PIECE):
                wanted = raw[start : start + _PIECE]
                piece = file.read(len(wanted))
                if len(piece) != len(wanted):
                    raise self.wrong("the array ends early")
                wanted[:] = np.frombuffer(piece, np.uint8)
            file.read(1)  # compares the checksum
        order = "F" if header.in_fortran_order else "C"
        return array.reshape(header.shape, order=order)


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


def read_npz(path: Path, *choices: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read some arrays of an archive.

    Args:
        path: what `numpy.savez` or `numpy.savez_compressed` wrote.
        *choices: the arrays that are wanted; of several groups the first that is there.

    Returns:
        The arrays of that group, by name.

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
            keys = next((keys for keys in choices if infos.keys() >= {*keys}), ())
            if not keys:
                expected = " or ".join(", ".join(keys) for keys in reversed(choices))
                found = ", ".join(list(infos)[:10]) or "none"
                problem = "arrays are missing"
                raise InputError(problem, file=path, expected=expected, found=found)
            members = []
            for key in keys:
                with parsing(path, "the array cannot be read", key):
                    members.append(_Member(path, archive, infos[key]))
            _check_total(path, members, max(MAX_UNPACKED, MAX_RATIO * size))
            arrays = {}
            for member in members:
                with parsing(path, "the array cannot be read", member.key):
                    arrays[member.key] = member.read()
    return arrays


def _check_total(path: Path, members: list[_Member], limit: int) -> None:
    total = sum(member.header.nbytes for member in members)
    if total > limit:
        expected, found = f"at most {limit:,} bytes", f"{total:,}"
        hint = "save it with numpy.savez, which does not compress"
        raise InputError(
            "the arrays are too large for the file", file=path,
            expected=expected, found=found, hint=hint,
        )  # fmt: skip
