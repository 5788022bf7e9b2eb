"""Writes that survive a crash at any instant.

A path on disk has no content, the old content, or the complete new content. This is
guaranteed by the order of operations: write under a temporary name, fsync the files,
rename them, fsync the folder. Only then does the write succeed. A write that fails
keeps the old content, removes its temporary files, and raises a `DiskError` with the
path.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from linsey.files import reporting

TEMPORARY = ".tmp-"
"""The prefix of the names of unfinished writes."""
DOOMED = ".gone-"
"""The prefix of the names of unfinished removals."""
_NEW_FILE = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def mode_of(path: Path) -> int:
    """Return the mode of a path, without following links, or 0 if it does not exist.

    Unlike `Path.is_dir` and similar methods, it raises an error if the disk cannot be
    read.

    Raises:
        OSError: a disk operation failed.
    """
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        DiskError: a disk operation failed.
    """
    with reporting(folder, "sync"):
        _sync(folder)


def sync_file(path: Path) -> None:
    """Make the content of a file durable, but not its name.

    Raises:
        OSError: a disk operation failed.
    """
    _sync(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents durably, if they do not exist.

    Raises:
        DiskError: a disk operation failed, or the path is a file.
    """
    with reporting(path, "create"):
        missing = [p for p in (path, *path.parents) if not mode_of(p)]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(folder)
            _sync(folder.parent)
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


@contextlib.contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Give a file or a folder its name once it is complete and durable.

    Args:
        path: the final path, in an existing folder. An existing file is replaced, a
            folder only if it is empty.
        needed: number of bytes that the block will write, for error messages.

    Yields:
        An unused path in the same folder, to which the block writes.

    Raises:
        DiskError: a disk operation failed, or a nonempty folder has this path. Nothing
            new is left behind, unless removing it fails too.

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
    named = False
    try:
        with reporting(path, "save", needed):
            _delete(temporary)  # left by an interrupted write
            yield temporary
            _sync_tree(temporary)
            os.replace(temporary, path)
            named = True
            _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            if named and stat.S_ISDIR(mode_of(path)):
                # It may not survive a crash, so it must not look like a success.
                os.rename(path, temporary)
            _delete(temporary)
        raise


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that does not exist yet. This alone does not make it durable.

    Args:
        path: the file, in an existing folder.
        chunks: the content, in order.

    Raises:
        OSError: a disk operation failed, or the path exists.
    """
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                # The system may write only a part, and say why in the next call.
                written = os.write(descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                rest = rest[written:]
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Replace the whole content of a file.

    Args:
        path: the file, in an existing folder. A link is replaced, not followed.
        content: the new bytes.

    Raises:
        DiskError: a disk operation failed; the old file is kept.
    """
    with replacing(path, len(content)) as temporary:
        write_new(temporary, [content])


def unused(path: Path) -> Path:
    """Return a path, with a number appended if it already exists."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    names = itertools.chain([path], numbered)
    return next(p for p in names if not os.path.lexists(p))


def rename(path: Path, name: str) -> Path:
    """Rename a file or a folder durably, and return its new path.

    Raises:
        DiskError: a disk operation failed.
    """
    with reporting(path, "rename"):
        os.rename(path, path.with_name(name))
        _sync(path.parent)
    return path.with_name(name)


def remove_folder(folder: Path) -> None:
    """Remove a folder: first its name, atomically, and then its content.

    If the path is a link, the link is removed, but not its target.

    Raises:
        DiskError: a disk operation failed.
    """
    with reporting(folder, "remove"):
        _delete(folder.with_name(DOOMED + folder.name))
        _delete(rename(folder, DOOMED + folder.name))


def sweep(folder: Path) -> None:
    """Remove the remains of interrupted writes and removals from a folder.

    Raises:
        DiskError: a disk operation failed.
    """
    with reporting(folder, "clean"):
        for name in os.listdir(folder):
            if name.startswith((TEMPORARY, DOOMED)):
                _delete(folder / name)


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open folders, and syncs only files open for writing
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    """Sync all files at once: then the file system commits once, not for each file."""
    paths = list(_tree(path))
    try:
        with ThreadPoolExecutor(min(len(paths), 16)) as pool:
            list(pool.map(_sync, paths))  # `list` raises the exceptions of the calls
    except RuntimeError:  # no thread can be started
        for path in paths:
            _sync(path)


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if stat.S_ISDIR(mode_of(path)):
        for name in os.listdir(path):  # `os.walk` would hide errors
            yield from _tree(path / name)


def _delete(path: Path) -> None:
    mode = mode_of(path)
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    elif mode:
        os.unlink(path)
