"""Writing files so that they survive a crash at any instant.

A name on disk is either absent, the old content, or the new content in full. The
order that guarantees it: write under a temporary name, fsync the file, fsync its
folder, rename, fsync the parent. Only then is the write reported as done.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TEMPORARY = ".tmp-"
DOOMED = ".gone-"


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes the bytes of a file durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Makes a folder durable with everything below it, leaves first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def write_file(path: Path, content: bytes) -> None:
    """Replaces a file as a whole.

    Args:
        path: the file; its folder exists.
        content: the new bytes.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder: its name goes in one instant, its content after that."""
    doomed = folder.with_name(DOOMED + folder.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Removes what interrupted writes and removals left behind in a folder."""
    for path in folder.iterdir():
        if not path.name.startswith((TEMPORARY, DOOMED)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
