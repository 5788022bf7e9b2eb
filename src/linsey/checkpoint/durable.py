"""Writes that survive a crash at any instant.

A name on disk has no content, the old content, or the new content in full. The order
that guarantees it: write under a temporary name, fsync what was written, rename it,
fsync the folder. Only then is the write reported as done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""What the names of unfinished writes begin with."""
DOOMED = ".gone-"
"""What the names of unfinished removals begin with."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_tree(path: Path) -> None:
    """Make a file, or a folder with everything below it, durable, leaves first."""
    if path.is_file():
        sync_file(path)
    for parent, _, names in os.walk(path, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file or a folder its name when it is complete and durable.

    Args:
        path: the name; its folder exists. A file of that name is replaced, a folder
            is not.

    Yields:
        A free name beside it, under which the block writes.

    Raises:
        OSError: the disk refused, or there is a folder of that name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "greeting")
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("hello")
        ...     path.exists()
        False
        >>> path.read_text()
        'hello'
    """
    temporary = path.with_name(TEMPORARY + path.name)
    _delete(temporary)  # left by a write that was interrupted
    yield temporary
    sync_tree(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole.

    Args:
        path: the file; its folder exists.
        content: the new bytes.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def unused(path: Path) -> Path:
    """Return a path, numbered if something has that name already."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def remove_folder(folder: Path) -> None:
    """Remove a folder: its name goes in one instant, its content after that."""
    doomed = folder.with_name(DOOMED + folder.name)
    _delete(doomed)
    os.rename(folder, doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Remove what interrupted writes and removals left behind in a folder."""
    for path in folder.iterdir():
        if path.name.startswith((TEMPORARY, DOOMED)):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
