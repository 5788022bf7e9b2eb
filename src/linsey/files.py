"""Files that may come from elsewhere: opened carefully, reported carefully.

`open_regular` is the only way to open a file for reading. It does not follow links,
wait for FIFOs or touch devices, and checks the size before the first byte is read.
`parsing` turns every error of a parser into an `InputError`, and `reporting` turns
errors of the disk into one line with path, cause and sizes.
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
"""The default limit of a file's size: one tebibyte."""
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO without a writer would block forever
    | getattr(os, "O_BINARY", 0)
)

# Errors that parsers raise for malformed bytes, without those that mean a mistake in
# our code (`NameError`, `ImportError`) or an interruption by the user.
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
    Warning,  # if warnings are turned into errors
)

PathLike = str | os.PathLike[str]


def open_regular(
    path: PathLike, *, limit: int = MAX_BYTES, key: str | None = None
) -> BinaryIO:
    """Open a regular file for reading bytes.

    Args:
        path: the file itself, and not a link to it.
        limit: the largest size that is accepted, in bytes.
        key: the option or field that named the file, for messages.

    Returns:
        The file, at its beginning.

    Raises:
        InputError: there is no such file; it is a link, a folder, a FIFO, a socket or a
            device; it is larger than the limit; or it may not be read.
        DiskError: the disk reports an error.

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
        # Checked again for the opened file: the name may refer to another one by now.
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
    """Read the current contents of a regular file, opened by `open_regular`.

    Raises:
        InputError: as for `open_regular`, or the file does not fit into memory.
        DiskError: the disk reports an error.
    """
    with (
        open_regular(path, limit=limit, key=key) as file,
        parsing(path, "larger than the memory", key),
    ):
        # The size and not the limit, because Python allocates as much as is requested.
        return file.read(os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def parsing(path: PathLike, problem: str, key: str | None = None) -> Iterator[None]:
    """Report any error that occurs while a block parses a file.

    Args:
        path: the file.
        problem: what is wrong with the file then, such as "not a readable image".
        key: the entry of the file that is parsed.

    Raises:
        InputError: the block could not parse the file, or raised an `InputError`.
        DiskError: the disk reports an error.

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
        # Parsers such as pillow raise it themselves.
        raise _stumbled(error, path, problem, key) from error
    except _STUMBLES as error:
        raise _stumbled(error, path, problem, key) from error


@contextlib.contextmanager
def reporting(
    path: PathLike, doing: str = "write", needed: int | None = None
) -> Iterator[None]:
    """Report errors of the disk in a block as a `DiskError`.

    Args:
        path: the file or folder that the block works on.
        doing: the verb of the message, such as "save".
        needed: number of bytes that the block would have written.

    Raises:
        DiskError: in place of any other `OSError`.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(error, path, doing, needed) from error


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path lies in a folder, after its links are resolved.

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
    """Open a file that is updated in place, such as a log or a lock.

    Writes go to the file of that name and to no other one.

    Args:
        path: the file, which is created if it does not exist.
        flags: flags of `os.open`.

    Returns:
        The descriptor.

    Raises:
        InputError: it is a link, has other hard links, or is not a regular file.
        DiskError: the disk reports an error.

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
    found = os.fstat(descriptor)  # of the opened file, whatever the name refers to now
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise refused("has other names too (hard links), which would change as well")
