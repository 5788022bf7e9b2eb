"""Writes that survive a crash at any instant.

A name on disk has no content, the old content, or the new content in full. The order
that guarantees it: write under a temporary name, fsync what was written, rename it,
fsync the folder. Only then is the write reported as done. A write that fails leaves the
old content, takes its temporary files away, and raises a `DiskError` with the path.
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
"""What the names of unfinished writes begin with."""
DOOMED = ".gone-"
"""What the names of unfinished removals begin with."""
_NEW_FILE = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def mode_of(path: Path) -> int:
    """Return the mode of what has a name, a link not followed; 0 if nothing has it.

    Unlike `Path.is_dir` and its like it does not say no where the disk refuses to say.

    Raises:
        OSError: the disk refused.
    """
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        DiskError: the disk refused.
    """
    with reporting(folder, "sync"):
        _sync(folder)


def sync_file(path: Path) -> None:
    """Make the content of a file durable, whatever becomes of its name.

    Raises:
        OSError: the disk refused.
    """
    _sync(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, all of them durable; it may exist.

    Raises:
        DiskError: the disk refused, or there is a file of that name.
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
    """Give a file or a folder its name when it is complete and durable.

    Args:
        path: the name; its folder exists. A file of that name is replaced, a folder
            with anything in it is not.
        needed: bytes that the block is going to write, for the message of an error.

    Yields:
        A free name beside it, under which the block writes.

    Raises:
        DiskError: the disk refused, or there is a folder of that name. Nothing new is
            left, unless the disk refuses that too.

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
            _delete(temporary)  # left by a write that was interrupted
            yield temporary
            _sync_tree(temporary)
            os.replace(temporary, path)
            named = True
            _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            if named and stat.S_ISDIR(mode_of(path)):
                # It may not survive a crash, so it must not be taken for a success.
                os.rename(path, temporary)
            _delete(temporary)
        raise


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that does not exist yet; it is not durable by that alone.

    Args:
        path: the file; its folder exists.
        chunks: the content, in order.

    Raises:
        OSError: the disk refused, or there is something of that name.
    """
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                # The system may take a part only, and say why with the next call.
                written = os.write(descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                rest = rest[written:]
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole.

    Args:
        path: the file; its folder exists. A link of that name is replaced, not
            followed.
        content: the new bytes.

    Raises:
        DiskError: the disk refused; the file is the old one.
    """
    with replacing(path, len(content)) as temporary:
        write_new(temporary, [content])


def unused(path: Path) -> Path:
    """Return a path, numbered if something has that name already."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    names = itertools.chain([path], numbered)
    return next(p for p in names if not os.path.lexists(p))


def rename(path: Path, name: str) -> Path:
    """Give a file or a folder another name in its folder, durably; return its path.

    Raises:
        DiskError: the disk refused.
    """
    with reporting(path, "rename"):
        os.rename(path, path.with_name(name))
        _sync(path.parent)
    return path.with_name(name)


def remove_folder(folder: Path) -> None:
    """Remove a folder: its name goes in one instant, its content after that.

    A link of that name is removed, and what it points to stays.

    Raises:
        DiskError: the disk refused.
    """
    with reporting(folder, "remove"):
        _delete(folder.with_name(DOOMED + folder.name))
        _delete(rename(folder, DOOMED + folder.name))


def sweep(folder: Path) -> None:
    """Remove what interrupted writes and removals left behind in a folder.

    Raises:
        DiskError: the disk refused.
    """
    with reporting(folder, "clean"):
        for name in os.listdir(folder):
            if name.startswith((TEMPORARY, DOOMED)):
                _delete(folder / name)


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders, and syncs what is open for writing only
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    """Sync everything at once: the file system then commits once, not once a file."""
    paths = list(_tree(path))
    try:
        with ThreadPoolExecutor(min(len(paths), 16)) as pool:
            list(pool.map(_sync, paths))  # the list raises what a call raised
    except RuntimeError:  # no thread can be started
        for path in paths:
            _sync(path)


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if stat.S_ISDIR(mode_of(path)):
        for name in os.listdir(path):  # `os.walk` would hide a refusal
            yield from _tree(path / name)


def _delete(path: Path) -> None:
    mode = mode_of(path)
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    elif mode:
        os.unlink(path)
