"""Steps in format 1: an Orbax folder, and a manifest with the hash of every file.

This format can still be read, but is no longer written. It has hashes of files, but not
of arrays, so the files are compared both before and after Orbax reads them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linsey.checkpoint import dtypes, trees
from linsey.checkpoint.manifest import NAME, Count, FileEntry
from linsey.checkpoint.pieces import changed, read_file
from linsey.checkpoint.verified import VerifiedCheckpoint
from linsey.errors import InputError
from linsey.extras import require
from linsey.files import reporting
from linsey.schema import conform
from linsey.specs import ArraySpec

STATE = "state"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a manifest of this format."""

    format: Literal[1]
    step: Count
    metadata: dict[str, Any]
    arrays: dict[str, ArraySpec]
    files: dict[str, FileEntry]


def open_checkpoint(folder: Path, content: Mapping[str, Any]) -> VerifiedCheckpoint:
    """Compare all files with the manifest, and read the arrays.

    Raises:
        InputError: a file is missing, added, or changed. The message names it.
        DiskError: a disk operation failed.
    """
    record: Manifest = conform(dict(content), Manifest, file=folder / NAME)
    _compare(folder, record.files)
    tree = _read(folder)
    _compare(folder, record.files)
    flat = trees.flatten(tree)
    # The manifest of this format joins keys without escapes.
    paths = {"/".join(trees.keys_of(path)): path for path in flat}
    if names := sorted(paths.keys() - record.arrays.keys()):
        problem = "an array that is not in the manifest"
        raise InputError(problem, file=folder, key=names[0])
    values, arrays = {}, {}
    for name, spec in record.arrays.items():
        path = paths.get(name, name)
        # Orbax stores no empty arrays.
        value = np.asarray(flat[path] if name in paths else _empty(spec, folder, name))
        if (found := ArraySpec.of(value)) != spec:
            problem = "the array is not the one that was written"
            raise InputError(problem, file=folder, key=name, expected=spec, found=found)
        value.flags.writeable = False
        values[path], arrays[path] = value, spec
    empty = tuple(path for path, _ in trees.leaves(tree) if path not in flat)
    empty = tuple(path for path in empty if path not in values)
    return VerifiedCheckpoint(
        folder, record.step, record.metadata, arrays, 0, values, empty
    )


def _empty(spec: ArraySpec, folder: Path, name: str) -> np.ndarray:
    if 0 not in spec.shape or dtypes.storage(spec.dtype) is None:
        raise InputError("the array is missing", file=folder, key=name, expected=spec)
    return np.zeros(spec.shape, spec.dtype)


def _compare(folder: Path, files: Mapping[str, FileEntry]) -> None:
    present = set(_list(folder)) - {NAME}
    for name in sorted(present - files.keys()):
        raise InputError("a file that is not in the manifest", file=folder / name)
    for name, entry in files.items():
        if name not in present:
            raise InputError("a file of the manifest is missing", file=folder / name)
        content = read_file(folder / name, entry)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != entry.sha256:
            raise changed(folder / name, entry, FileEntry(len(content), sha256))


def _list(folder: Path, above: str = "") -> Iterator[str]:
    """Yield the names of all files below a folder; only regular files are accepted."""
    with reporting(folder, "read"):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _list(folder / entry.name, f"{above}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield above + entry.name
        else:
            raise InputError("not a regular file or folder", file=folder / entry.name)


def _read(folder: Path) -> dict[str, Any]:
    orbax = require("orbax.checkpoint", "train", "A checkpoint in format 1")
    with orbax.PyTreeCheckpointer() as checkpointer:
        try:
            return checkpointer.restore(folder.resolve() / STATE)
        except Exception as error:
            problem = f"verified, but Orbax cannot read it: {error}"
            hint = "install the orbax-checkpoint version that wrote it"
            raise InputError(problem, file=folder, hint=hint) from error
