"""Detection of the format of a file or folder of weights by its content."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from linsey._array_files.archive import open_archive
from linsey.checkpoint import CheckpointStore
from linsey.errors import InputError
from linsey.files import MAX_BYTES, open_regular, reporting
from linsey.training.formats import kind_of

Kind = Literal["safetensors", "pt", "msgpack", "npz", "orbax", "step", "run"]
CHECKPOINTS = "checkpoints"
"""The folder of the steps in the folder of a run."""
AGAIN = "copy or download it again"
READ = (
    "safetensors, a file of `torch.save`, MessagePack of Flax, npz, a checkpoint of "
    "Orbax, a run of linsey or a step of it"
)
_SAVE_ANEW = "load it with torch, and save it anew: `torch.save(model.state_dict(), F)`"
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}  # the first byte of a MessagePack dictionary


def recognize(path: Path) -> Kind:
    """Detect the format of a file or folder.

    Raises:
        InputError: the path does not exist, or the format is not supported.
        DiskError: a disk operation failed.
    """
    if path.is_dir():
        found = kind_of(path)
        if found == "step" or found == "orbax":
            return found
        if run_steps(path).steps():
            return "run"
        raise InputError("a folder without weights", file=path, expected=READ)
    with open_regular(path) as file, reporting(path, "read"):
        size, start = os.fstat(file.fileno()).st_size, file.read(512)
    # Check this first: the length of the header can look like any other format.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MAX_BYTES:
        return "safetensors"
    if start[:2] == b"PK":
        return _of_archive(path)
    if start.startswith(_BEFORE_ZIP) or start[257:262] == b"ustar":
        problem = "a file of PyTorch before 1.6, or of its old format: a pickle"
        raise InputError(problem, file=path, hint=_SAVE_ANEW)
    if start[:1] == b"\x80" and size > 1 and start[1] <= 5:
        raise InputError("a pickle, and no pickle is read", file=path, hint=_SAVE_ANEW)
    if start and start[0] in _MAPS:
        return "msgpack"
    found = start[:8].hex(" ") or "an empty file"
    problem = "weights of an unknown kind"
    raise InputError(problem, file=path, expected=READ, found=found)


def run_steps(path: Path) -> CheckpointStore:
    """Return the steps of a run, given its folder or the folder of the steps."""
    inside = path / CHECKPOINTS
    return CheckpointStore(inside if inside.is_dir() else path)


@contextlib.contextmanager
def advising(hint: str) -> Iterator[None]:
    """Add advice to an error about a file that has no advice yet."""
    try:
        yield
    except InputError as error:
        if error.hint is None:
            raise error.with_hint(hint) from error
        raise


def _of_archive(path: Path) -> Kind:
    opened = open_archive(path, "not a readable zip archive")
    with advising(AGAIN), opened as archive:
        if any(name.endswith("/data.pkl") for name in archive.members):
            return "pt"
        if any(name.endswith(".npy") for name in archive.members):
            return "npz"
    expected = "one of `torch.save` or `numpy.savez`"
    raise InputError("an archive of another kind", file=path, expected=expected)
