"""One checkpoint on disk: safetensors files and the manifest that vouches for them.

A checkpoint is a folder that appears under its name only when it is complete and on
the disk. It is opened by reading everything in it once and comparing each array with
the hash that was taken of it in memory: an open checkpoint holds right arrays, whatever
happens to its files later.
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
    """Return the name that a step has in its store.

    Example:
        >>> folder_name(42), folder_name(42, revision=1)
        ('step_00000042', 'step_00000042+1')
    """
    return f"step_{step:08d}" + (f"+{revision}" if revision else "")


def parse_name(name: str) -> tuple[int, int] | None:
    """Return step and revision of such a name; `None` for other names."""
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
    """Write a checkpoint: when this returns it is on the disk, complete.

    Args:
        folder: the name it gets; must not exist, while its parent must.
        step: the training step.
        tree: nested dictionaries with text as keys and arrays as leaves.
        metadata: JSON values to record beside the arrays.
        revision: how often the step was replaced.
        group: the processes that write it, of which this is the first one; the others
            call `write_share`.

    Raises:
        DiskError: there is a folder of that name, or the disk refused.
        ArgumentTypeError: something in the tree or the metadata cannot be stored.
        InputError: there is a key or a value that could not be read again.
        UnsupportedError: there is too much of it, or it is spread over processes.
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
    # What could not be read is not written: keys, numbers, sizes that nobody can have.
    record = manifest.check(manifest.decode(sealed, folder), folder)
    needed = sum(share.file.bytes for share in shares) + len(sealed)
    with reporting(folder, "save", needed):
        if durable.mode_of(folder):
            raise FileExistsError(errno.EEXIST, "there is a checkpoint of that name")
    with durable.replacing(folder, needed) as temporary:
        os.mkdir(temporary)
        group.gather(os.fsencode(temporary.name))  # the others begin to write
        durable.write_new(temporary / name, chunks)
        group.gather(b"")  # all have written
        durable.write_new(temporary / manifest.NAME, [sealed])
        try:
            _read_back(temporary, record, sealed)
        except InputError as error:
            told = str(error).replace(durable.TEMPORARY, "")
            refused = OSError(errno.EIO, f"something else was written: {told}")
            raise DiskError(refused, folder, "save", needed) from error
    group.gather(b"")  # it has its name


def write_share(parent: Path, tree: Nested, group: Group) -> None:
    """Write what a process has of a checkpoint that another one gives its name.

    Args:
        parent: the folder in which the checkpoint will be.
        tree: the one that the first process passes to `write_checkpoint`, with the
            pieces of arrays that this one has.
        group: the processes that write it.

    Raises:
        DiskError: the disk refused.
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
    """Return the file of this process, its content, and what each process writes."""
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
        folder: one step, as `write_checkpoint` wrote it, in this format or an older
            one.

    Returns:
        The verified checkpoint, its arrays in memory.

    Raises:
        InputError: the folder is not what was written; it names file and array.
        DiskError: the disk refused.
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
