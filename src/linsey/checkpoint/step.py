"""One checkpoint on disk: safetensors files, and the manifest that verifies them.

A checkpoint is a folder that gets its name only when it is complete and on the disk.
Opening it reads everything once and compares each array with the hash that was computed
in memory before writing. The arrays of an open checkpoint are therefore correct,
whatever happens to its files later.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from operator import index
from pathlib import Path
from typing import Any

from linsey.checkpoint import durable, format_1, manifest, pieces
from linsey.checkpoint.group import ALONE, Group
from linsey.checkpoint.manifest import Manifest
from linsey.checkpoint.pieces import Share
from linsey.checkpoint.trees import Nested, flatten, leaves
from linsey.checkpoint.verified import VerifiedCheckpoint
from linsey.errors import DiskError, InputError
from linsey.files import reporting
from linsey.schema import conform, parse_json
from linsey.specs import ArraySpec

_NAME = re.compile(r"step_([0-9]{8,19})(?:\+([0-9]{1,9}))?")


def folder_name(step: int, revision: int = 0) -> str:
    """Return the name of the folder of a step.

    Example:
        >>> folder_name(42), folder_name(42, revision=1)
        ('step_00000042', 'step_00000042+1')
    """
    return f"step_{step:08d}" + (f"+{revision}" if revision else "")


def parse_name(name: str) -> tuple[int, int] | None:
    """Return the step and revision in a folder's name; `None` for other names."""
    if match := _NAME.fullmatch(name):
        step, revision = int(match[1]), int(match[2] or 0)
        if folder_name(step, revision) == name:
            return step, revision
    return None


def write_checkpoint(
    folder: Path,
    step: int,
    tree: Nested,
    metadata: Nested,
    *,
    revision: int = 0,
    group: Group = ALONE,
) -> None:
    """Write a checkpoint. When this returns, it is complete and on the disk.

    Args:
        folder: folder of the checkpoint. It must not exist, but its parent must.
        step: the training step.
        tree: nested dictionaries with strings as keys and arrays as leaves.
        metadata: JSON values to record with the arrays.
        revision: how often the step was replaced.
        group: the processes that write the checkpoint. This one is the first of them;
            the others call `write_share`.

    Raises:
        DiskError: the folder exists, or a disk operation failed.
        ArgumentTypeError: something in the tree or the metadata cannot be stored.
        InputError: a key or a value could not be read back.
        UnsupportedError: the manifest is too long, or an array is spread over several
            processes, but only one writes.
    """
    name, chunks, shares = _shared_out(tree, group)
    names = [manifest.file_name(i, group.count) for i in range(group.count)]
    paths = flatten(tree)
    record = Manifest(
        manifest.FORMAT,
        index(step),
        revision,
        dict(metadata),
        {name: share.file for name, share in zip(names, shares, strict=True)},
        pieces.merged(shares, paths),
        tuple(path for path, leaf in leaves(tree) if path not in paths),
    )
    sealed = manifest.encode(record)
    # Do not write keys, numbers or sizes that the reader would reject.
    record = manifest.check(manifest.decode(sealed, folder), folder)
    needed = sum(share.file.bytes for share in shares) + len(sealed)
    with reporting(folder, "save", needed):
        if durable.mode_of(folder):
            raise FileExistsError(errno.EEXIST, "there is a checkpoint of that name")
    with durable.replacing(folder, needed) as temporary:
        os.mkdir(temporary)
        group.gather(os.fsencode(temporary.name))  # the others start writing
        durable.write_new(temporary / name, chunks)
        group.gather(b"")  # all have written
        durable.write_new(temporary / manifest.NAME, [sealed])
        try:
            _read_back(temporary, record, sealed)
        except InputError as error:
            told = str(error).replace(durable.TEMPORARY, "")
            refused = OSError(errno.EIO, f"something else was written: {told}")
            raise DiskError(refused, folder, "save", needed) from error
    group.gather(b"")  # the folder has its name


def write_share(parent: Path, tree: Nested, group: Group) -> None:
    """Write this process's share of a checkpoint, in all processes but the first.

    The first process calls `write_checkpoint` instead, which gives the folder its name.

    Args:
        parent: the folder in which the checkpoint will be.
        tree: the same tree that the first process passes to `write_checkpoint`, with
            the pieces of arrays that this process has.
        group: the processes that write the checkpoint.

    Raises:
        DiskError: a disk operation failed.
        ArgumentTypeError: something in the tree cannot be stored.
    """
    name, chunks, shares = _shared_out(tree, group)
    folder = parent / os.fsdecode(group.gather(b"")[0])
    with reporting(folder / name, "save", shares[group.index].file.bytes):
        durable.write_new(folder / name, chunks)
        durable.sync_file(folder / name)
    group.gather(b"")
    group.gather(b"")


def _shared_out(
    tree: Nested, group: Group
) -> tuple[str, list[bytes | memoryview], list[Share]]:
    """Return this process's file name, its content, and the share of each process."""
    name = manifest.file_name(group.index, group.count)
    chunks, share = pieces.pack(flatten(tree), name, group)
    if group.count == 1:
        return name, chunks, [share]
    told = group.gather(manifest.as_json(vars(share)))
    return (
        name,
        chunks,
        [
            conform(parse_json(text, Path(name)), Share, file=Path(name))
            for text in told
        ],
    )


def _read_back(folder: Path, record: Manifest, sealed: bytes) -> None:
    if manifest.read(folder) != sealed:
        file = folder / manifest.NAME
        raise InputError("the file is not the one that was written", file=file)
    pieces.unpack(folder, record)


def open_checkpoint(folder: Path) -> VerifiedCheckpoint:
    """Read a checkpoint and compare everything in it with its manifest.

    Args:
        folder: one step, written by `write_checkpoint` in this format or an older one.

    Returns:
        The verified checkpoint, with its arrays in memory.

    Raises:
        InputError: the folder differs from what was written. The message names the file
            and the array.
        DiskError: a disk operation failed.
    """
    _refuse_what_is_no_folder(folder)
    content = manifest.decode(manifest.read(folder), folder / manifest.NAME)
    if content.get("format") == 1:
        found = format_1.open_checkpoint(folder, content)
    else:
        found = _open(folder, content)
    named = parse_name(folder.name)
    if named not in (None, (found.step, found.revision)):
        problem = "the folder has the name of another step"
        expected = folder_name(found.step, found.revision)
        raise InputError(problem, file=folder, expected=expected, found=folder.name)
    return found


def _open(folder: Path, content: dict[str, Any]) -> VerifiedCheckpoint:
    file = folder / manifest.NAME
    if (found := content.get("format")) != manifest.FORMAT:
        hint = "use the version of linsey that wrote it"
        refused = functools.partial(InputError, file=file, found=found, hint=hint)
        raise refused("written in another format", expected=f"1 or {manifest.FORMAT}")
    record = manifest.check(content, file)
    with reporting(folder, "read"):
        present = set(os.listdir(folder)) - {manifest.NAME}
    for name in sorted(present - record.files.keys()):
        raise InputError("a file that is not in the manifest", file=folder / name)
    for name in sorted(record.files.keys() - present):
        raise InputError("a file of the manifest is missing", file=folder / name)
    values = pieces.unpack(folder, record)
    arrays = {k: ArraySpec(e.shape, e.dtype) for k, e in record.arrays.items()}
    return VerifiedCheckpoint(
        folder, record.step, record.metadata, arrays, record.revision, values,
        record.empty,
    )  # fmt: skip


def _refuse_what_is_no_folder(path: Path) -> None:
    try:
        with reporting(path, "read"):
            mode = durable.mode_of(path)
    except ValueError:  # a null byte in the name
        mode = 0
    if not mode:
        raise InputError("no such checkpoint", file=path)
    if stat.S_ISLNK(mode):
        hint = f"name the folder itself: {os.path.realpath(path)}"
        raise InputError("a link, and links are not followed", file=path, hint=hint)
    if not stat.S_ISDIR(mode):
        raise InputError("not a folder", file=path)
