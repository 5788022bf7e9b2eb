"""Files that somebody else may have written: opened with care, shown with care.

`open_regular` is the one way to open a file for reading. It follows no link, waits for
no FIFO, touches no device, and knows the size before the first byte is read.
`parsing` turns whatever a parser stumbles over into an `InputError`, `reporting` what
the disk refuses into one line with path, cause and sizes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import struct
import zipfile
import zlib
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

# What parsers raise when bytes are not what they should be: nothing that means a
# mistake of ours in a call (`NameError`, `ImportError`) or that somebody wants to stop.
_STUMBLES = (
    ValueError,  # among them UnicodeError, JSONDecodeError, TOMLDecodeError
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    SyntaxError,
    EOFError,
    RuntimeError,  # among them NotImplementedError and RecursionError
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    Warning,  # where warnings are errors
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
        InputError: as `open_regular`, or the memory does not hold it.
        DiskError: the disk refused.
    """
    with (
        open_regular(path, limit=limit, key=key) as file,
        parsing(path, "larger than the memory", key),
    ):
        # The size, and not the limit: Python sets aside what it is asked to read.
        return file.read(os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def parsing(path: PathLike, problem: str, key: str | None = None) -> Iterator[None]:
    """Report whatever goes wrong while a block parses a file.

    Args:
        path: the file.
        problem: what it then is, such as "not a readable image".
        key: what in the file is parsed.

    Raises:
        InputError: the block could not parse it, or raised one itself.
        DiskError: the disk refused.

    Example:
        >>> with parsing("a.bin", "not a number"):
        ...     int("x")
        Traceback (most recent call last):
        linsey.errors.files.InputError: a.bin: not a number: invalid literal for int()
        with base 10: 'x'
    """
    try:
        yield
    except (InputError, DiskError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise DiskError(error, path, "read") from error
        # Parsers raise it on their own account, such as pillow.
        raise _stumbled(error, path, problem, key) from error
    except _STUMBLES as error:
        raise _stumbled(error, path, problem, key) from error


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


def _stumbled(
    error: Exception, path: PathLike, problem: str, key: str | None
) -> InputError:
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{problem}: {cause}", file=path, key=key)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_own(path: PathLike, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Open a file that is kept up to date in place, such as a log or a lock.

    What is written goes to the file of that name and to no other one.

    Args:
        path: created if there is none.
        flags: of `os.open`.

    Returns:
        The descriptor.

    Raises:
        InputError: it is a link, has further names, or is no regular file.
        DiskError: the disk refused.

    Example:
        >>> open_own("/dev/null")
        Traceback (most recent call last):
        linsey.errors.files.InputError: /dev/null: not a regular file: found a device
        (move it away)
    """
    refused = functools.partial(InputError, file=path, hint="move it away")
    with reporting(path):
        found = os.lstat(path) if os.path.lexists(path) else None
        if found is not None and stat.S_ISLNK(found.st_mode):
            raise refused("a link, and links are not written through")
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise refused("not a regular file", found=_kind(found.st_mode))
        descriptor = os.open(path, flags | _FLAGS, 0o644)
    found = os.fstat(descriptor)  # of what was opened, and not what had the name
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise refused("has other names too (hard links), which would change as well")
