"""Local files, and remote files with TensorFlow's file system.

The functions are those of the standard library, or of `tensorflow.io.gfile` in the mode
`BackendMode.TF`, which reads and writes paths such as `gs://bucket/file`. TensorFlow is
imported only when that mode is set.
"""

from __future__ import annotations

import contextlib
import enum
import glob as glob_module
import importlib
import os
import shutil
from collections.abc import Iterator
from typing import IO, Any

from linsey.errors import AlreadyExistsError, OptionError
from linsey.extras import MissingPackageError

Path = str | os.PathLike[str]


class BackendMode(enum.Enum):
    """The library that reads and writes files."""

    DEFAULT = 0
    TF = 1


io_mode = BackendMode.DEFAULT


def set_mode(override: BackendMode) -> None:
    """Choose the library that reads and writes files from now on.

    Raises:
        OptionError: there is no such mode; it is a `ValueError`.
        MissingPackageError: TensorFlow is requested but not installed; it is an
            `ImportError`.
    """
    global io_mode
    if not isinstance(override, BackendMode):
        raise OptionError(
            f"Unknown IO Backend Mode. Found {override!r}.",
            "Files are read and written by Python or by TensorFlow.",
            "Write `set_mode(BackendMode.DEFAULT)` or `set_mode(BackendMode.TF)`.",
        )
    if override is BackendMode.TF:
        _gfile()
    io_mode = override


@contextlib.contextmanager
def override_mode(override: BackendMode) -> Iterator[None]:
    """Choose the library that reads and writes files in a `with` block.

    Example:
        >>> with override_mode(BackendMode.DEFAULT):
        ...     exists("/")
        True
    """
    before = io_mode
    set_mode(override)
    try:
        yield
    finally:
        set_mode(before)


def _gfile() -> Any:
    try:
        return importlib.import_module("tensorflow").io.gfile
    except ImportError as error:
        raise MissingPackageError(
            "Remote files need TensorFlow, which is not installed.",
            "Its file system reads and writes paths such as `gs://bucket/file`.",
            "Install `tensorflow`, or use `set_mode(BackendMode.DEFAULT)`.",
        ) from error


def _is_remote() -> bool:
    return io_mode is BackendMode.TF


def GFile(name: Path, mode: str) -> IO[Any]:  # noqa: N802 (the name that programs use)
    """Open a file.

    Args:
        name: its path.
        mode: "r", "rb", "w", "wb", "a" and so on, as for `open`.

    Returns:
        A file object.
    """
    if _is_remote():
        return _gfile().GFile(name, mode)
    return open(name, mode, encoding=None if "b" in mode else "utf-8")


def listdir(path: Path) -> list[str]:
    """List the names in a folder."""
    return _gfile().listdir(path) if _is_remote() else os.listdir(path)


def isdir(path: Path) -> bool:
    """Tell whether a path is a folder."""
    return _gfile().isdir(path) if _is_remote() else os.path.isdir(path)


def exists(path: Path) -> bool:
    """Tell whether a file or folder exists."""
    return _gfile().exists(path) if _is_remote() else os.path.exists(path)


def getsize(path: Path) -> int:
    """Return the size of a file, in bytes."""
    return _gfile().stat(path).length if _is_remote() else os.path.getsize(path)


def copy(src: Path, dst: Path, overwrite: bool = False) -> None:
    """Copy a file.

    Raises:
        AlreadyExistsError: the destination exists, and may not be overwritten.
    """
    _check_free(dst, overwrite)
    if _is_remote():
        _gfile().copy(src, dst, overwrite=overwrite)
    else:
        shutil.copy(src, dst)


def rename(src: Path, dst: Path, overwrite: bool = False) -> None:
    """Rename a file or folder.

    Raises:
        AlreadyExistsError: the destination exists, and may not be overwritten.
    """
    _check_free(dst, overwrite)
    if _is_remote():
        _gfile().rename(src, dst, overwrite=overwrite)
    else:
        os.replace(src, dst)


def _check_free(path: Path, overwrite: bool) -> None:
    if not overwrite and exists(path):
        raise AlreadyExistsError(path)


def glob(pattern: str) -> list[str]:
    """List the paths that match a pattern."""
    return _gfile().glob(pattern) if _is_remote() else glob_module.glob(pattern)


def makedirs(path: Path) -> None:
    """Make a folder and its parents, if they do not exist."""
    if _is_remote():
        _gfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def rmtree(path: Path) -> None:
    """Remove a folder and everything in it."""
    _gfile().rmtree(path) if _is_remote() else shutil.rmtree(path)


def remove(path: Path) -> None:
    """Remove a file."""
    _gfile().remove(path) if _is_remote() else os.remove(path)
