"""A reader of NumPy's file format that does not trust the files.

NumPy's own reader runs Python's parser on the header of each array, and allocates as
much memory as the header asks for. Here, a header must match a regular expression, and
its size is compared with that of the file before any data are read. Nothing is ever
unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_AXES = 32
MAX_TEXT = 255
"""The largest number of characters in a text, such as a label."""
MAX_UNPACKED = 128 * 2**20
"""The number of bytes that the arrays of a file may have, whatever the file's size."""
_MAX_HEADER = 2**16
_PIECE = 2**20
_ENTRY = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?P<value>'[^'"\\]*'|"[^'"\\]*"|True|False|\([\dL,\s]*\))\s*(?:,|$)"""
)
_DTYPE = re.compile(r"[<>|=](?:b1|[iu][1248]|f[248]|c8|c16)")
_TEXT = re.compile(r"(?P<kind>[<>=]U|\|S)(?P<length>[1-9]\d{0,3})")


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an array: its dtype, shape and memory order."""

    dtype: np.dtype
    shape: tuple[int, ...]
    in_fortran_order: bool

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of all values."""
        return self.size * self.dtype.itemsize


class ArrayFile:
    """One array in a file, whose header is checked first and whose data are read later.

    Args:
        opened: opens the file of the array at its beginning.
        size: size of the file in bytes.
        wrong: makes errors that contain the names of the file and the array.
        takes_text: whether the array may hold text, such as labels.

    Attributes:
        header: the header of the array.

    Raises:
        InputError: it is not a file of this format, or the array cannot be used.
    """

    def __init__(
        self,
        opened: Callable[[], IO[bytes]],
        size: int,
        wrong: functools.partial[InputError],
        takes_text: bool = False,
    ) -> None:
        self._open, self.wrong, self._takes_text = opened, wrong, takes_text
        with opened() as file:
            self.header = self._read_header(file, size)

    def _read_header(self, file: IO[bytes], size: int) -> Header:
        start = file.read(10)
        if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
            hint = "numpy.save and numpy.savez write arrays"
            raise self.wrong("not an array of NumPy", found=_begin(start), hint=hint)
        count = 2 if start[6] == 1 else 4
        length = int.from_bytes(start[8:] + file.read(count - 2), "little")
        if length > _MAX_HEADER:
            limit = f"at most {_MAX_HEADER:,} bytes"
            raise self.wrong("a header too long", expected=limit, found=f"{length:,}")
        header = self._parsed(file.read(length).decode("latin-1"))
        self.offset = 8 + count + length
        # An axis of length 0 would hide the size of the others.
        claimed = math.prod(max(n, 1) for n in header.shape) * header.dtype.itemsize
        if claimed != header.nbytes and claimed > MAX_UNPACKED:
            raise self.wrong("an impossible shape", found=header.shape)
        if self.offset + header.nbytes != size:
            expected, found = f"{header.nbytes:,} bytes", f"{size - self.offset:,}"
            problem = "the data are not as large as shape and dtype say"
            raise self.wrong(problem, expected=expected, found=found)
        return header

    def _parsed(self, text: str) -> Header:
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
        if not (_DTYPE.fullmatch(descr) or self._is_text(descr)):
            raise self._unreadable(body)
        if not re.fullmatch(
            r"\((?:\s*\d{1,18}L?\s*(?:,|(?=\))))*\s*\)", found["shape"]
        ):
            raise self.wrong("an impossible shape", found=found["shape"])
        shape = tuple(map(int, re.findall(r"\d+", found["shape"])))
        if len(shape) > MAX_AXES:
            expected = f"at most {MAX_AXES}"
            raise self.wrong("too many axes", expected=expected, found=len(shape))
        return Header(np.dtype(descr), shape, order == "True")

    def _is_text(self, descr: str) -> bool:
        match = _TEXT.fullmatch(descr) if self._takes_text else None
        if match is None:
            return False
        # UTF-8 uses up to four bytes per character.
        most, unit = (4 * MAX_TEXT, "bytes") if match["kind"] == "|S" else (
            MAX_TEXT, "characters")  # fmt: skip
        if (length := int(match["length"])) > most:
            expected = f"at most {most:,} {unit}"
            raise self.wrong("labels too long", expected=expected, found=f"{length:,}")
        return True

    def _unreadable(self, body: str) -> InputError:
        """Return the error for dtypes that are legal, but not accepted here."""
        match = re.search(
            r"""descr['"]\s*:\s*([^,]*(?:,(?!\s*'(?:f|s))[^,]*)*)""", body
        )
        described = match[1].strip() if match else body
        if _DTYPE.fullmatch(described.strip("'\"")):
            return self.wrong("not the header of an array", found=body)
        if described.strip("'\"|").startswith("O"):
            problem = "the array holds Python objects, which are never unpickled"
            how = "numbers or text" if self._takes_text else "numbers"
            return self.wrong(problem, hint=f"save an array of {how}")
        expected = "real numbers or text" if self._takes_text else "real numbers"
        return self.wrong("not numbers", expected=expected, found=described)

    def read(self) -> np.ndarray:
        """Read the array, chunk by chunk, as an archive may still state wrong sizes."""
        header = self.header
        array = np.empty(header.size, header.dtype)
        raw = array.view(np.uint8)
        with self._open() as file:
            file.read(self.offset)
            if not fill(raw, file):
                raise self.wrong("the array ends early")
        order = "F" if header.in_fortran_order else "C"
        return array.reshape(header.shape, order=order)


def fill(raw: np.ndarray, file: IO[bytes]) -> bool:
    """Read bytes, chunk by chunk, into an array.

    Args:
        raw: the array, of dtype `uint8` and with one axis.
        file: file of a member of an archive, whose checksum is compared at its end.

    Returns:
        Whether the file had enough bytes.
    """
    for start in range(0, len(raw), _PIECE):
        wanted = raw[start : start + _PIECE]
        piece = file.read(len(wanted))
        if len(piece) != len(wanted):
            return False
        wanted[:] = np.frombuffer(piece, np.uint8)
    file.read(1)  # compares the checksum
    return True


def _begin(start: bytes) -> str:
    """Return the beginning of a file that is not an array, as text."""
    return repr(start.decode("ascii", "replace")) if start else "nothing"


def read_npy(path: Path, takes_text: bool = False) -> np.ndarray:
    """Read the array of a file.

    Args:
        path: file written by `numpy.save`.
        takes_text: whether the array may hold text, such as labels.

    Returns:
        The array.

    Raises:
        InputError: the file does not have this format, or the array cannot be used.
        DiskError: a disk operation failed.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    with parsing(path, "the array cannot be read"):
        wrong = functools.partial(InputError, file=path)
        return ArrayFile(lambda: open_regular(path), size, wrong, takes_text).read()
