"""Files that somebody else may have written: opened with care, shown with care.

`open_regular` is the one way to open a file for reading. It follows no link, waits for
no FIFO, touches no device, and knows the size before the first byte is read.
`reporting` turns what the disk refuses into one line with path, cause and sizes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from linsey.errors import DiskError, InputError

MAX_BYTES = 2**40
"""The limit where a caller knows no better: one tebibyte."""
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO without a writer would block for ever
    | getattr(os, "O_BINARY", 0)
)

PathLike = str | os.PathLike[str]


def open_regular(
    path: PathLike, *, limit: int = MAX_BYTES, key: str | None = None
) -> BinaryIO:
    """Open a regular file for reading bytes.

    Args:
        path: the file itself, not a link to it.
        limit: the largest size that is accepted, in bytes.
        key: the option or field that named the file, for messages.

    Returns:
        The file, at its beginning.

    Raises:
        InputError: there is no such file; it is a link, a folder, a FIFO, a socket or a
            device; it is larger than the limit; or it may not be read.
        DiskError: the disk refused.

    Example:
        >>> open_regular("/dev/zero")
        Traceback (most recent call last):
        linsey.errors.files.InputError: /dev/zero: not a regular file: found a device
    """
    refused = functools.partial(InputError, file=path, key=key)

    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            hint = f"name the file itself: {os.path.realpath(path)}"
            raise refused("a link, and links are not followed", hint=hint)
        if not stat.S_ISREG(found.st_mode):
            raise refused("not a regular file", found=_kind(found.st_mode))
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise refused("no such file") from None
    except PermissionError:
        raise refused("may not be read", hint="look at its permissions") from None
    except ValueError as error:  # a null byte in the name
        raise refused(f"not the name of a file: {error}") from None
    except OSError as error:
        raise DiskError(error, path, "read") from error
    try:
        # Again, of what was opened: the name may have changed its meaning.
        with reporting(path, "read"):
            found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise refused("not a regular file", found=_kind(found.st_mode))
        if found.st_size > limit:
            expected, size = f"at most {limit:,} bytes", f"{found.st_size:,}"
            raise refused("the file is too large", expected=expected, found=size)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(
    path: PathLike, *, limit: int = MAX_BYTES, key: str | None = None
) -> bytes:
    """Read a regular file, as `open_regular` opens it: what it holds at that time.

    Raises:
        InputError: as `open_regular`.
        DiskError: the disk refused.
    """
    with open_regular(path, limit=limit, key=key) as file, reporting(path, "read"):
        # The size, and not the limit: Python sets aside what it is asked to read.
        return file.read(os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def reporting(
    path: PathLike, doing: str = "write", needed: int | None = None
) -> Iterator[None]:
    """Report what the disk refuses in a block as a `DiskError`.

    Args:
        path: the file or folder that the block is about.
        doing: the verb of the message, such as "save".
        needed: bytes that the block was going to write.

    Raises:
        DiskError: instead of any other `OSError`.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(error, path, doing, needed) from error


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path, its links resolved, lies in a folder.

    Example:
        >>> is_inside(Path("/run/step/a.bin"), Path("/run/step"))
        True
        >>> is_inside(Path("/run/step/../a.bin"), Path("/run/step"))
        False
    """
    return path.resolve().is_relative_to(folder.resolve())


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
