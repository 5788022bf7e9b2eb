"""Reading and writing the contents of files and folders of any kind.

Kinds are those of `linsey.training.formats`. Trees are represented as state dicts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linsey import files
from linsey.checkpoint import (
    flatten,
    nest,
    open_checkpoint,
    tensors,
    write_checkpoint,
)
from linsey.checkpoint.trees import keys_of
from linsey.errors import InputError
from linsey.serialization import to_bytes
from linsey.training import checkpoints, orbax_utils
from linsey.training.formats import Kind, read_state

__all__ = ["Contents", "read_contents", "write_contents"]


@dataclasses.dataclass(frozen=True)
class Contents:
    """A tree and its metadata.

    Attributes:
        tree: nested dictionaries.
        step: the training step, if it is recorded.
        metadata: the metadata of a step of `linsey.checkpoint`.
        separator: the text that joins keys in formats with flat names.
    """

    tree: dict[str, Any]
    step: int | None = None
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    separator: str = "/"


def read_contents(path: Path, kind: Kind) -> Contents:
    """Read the whole contents of a file or folder.

    Args:
        path: the file or folder.
        kind: its kind, as returned by `formats.recognize`.

    Raises:
        InputError: it is damaged, or of another kind.
        DiskError: the disk or the system refused.
    """
    return _READ[kind](path)


def write_contents(path: Path, kind: Kind, contents: Contents) -> None:
    """Write the whole contents to a path that does not exist yet.

    Args:
        path: the file or folder to create.
        kind: its kind.
        contents: the contents; writing fails for leaves that the kind cannot hold.
    """
    if kind == "step":
        write_checkpoint(path, contents.step or 0, contents.tree, contents.metadata)
    elif kind == "msgpack":
        path.write_bytes(to_bytes(contents.tree))
    elif kind == "safetensors":
        path.write_bytes(_safetensors(contents))
    else:
        with orbax_utils.reading(os.fspath(path), "write"):
            writer = checkpoints.orbax().PyTreeCheckpointer()
            writer.save(path.absolute(), contents.tree)


def _read_step(path: Path) -> Contents:
    checkpoint = open_checkpoint(path)
    return Contents(checkpoint.read(), checkpoint.step, checkpoint.metadata)


def _read_tree(path: Path) -> Contents:
    return Contents(checkpoints.restore_checkpoint(path, None))


def _read_bytes(path: Path) -> Contents:
    return Contents(read_state(path))


def _read_safetensors(path: Path) -> Contents:
    """Split flat names at `/` or, if no name has one, at `.`, as in PyTorch."""
    found = tensors.decode(files.read_regular(path), path)
    separator = "/" if any("/" in name for name in found) else "."
    flat = {name.replace(separator, "/"): array for name, array in found.items()}
    try:
        return Contents(nest(flat), separator=separator)
    except ValueError as error:
        raise InputError(
            "two names exclude each other", file=path, key=str(error)
        ) from error


def _safetensors(contents: Contents) -> bytes:
    arrays = {
        contents.separator.join(keys_of(path)): np.asarray(leaf, order="C")
        for path, leaf in flatten(contents.tree).items()
    }
    return b"".join(tensors.encode(arrays))


_READ: dict[str, Callable[[Path], Contents]] = {
    "step": _read_step,
    "orbax": _read_tree,
    "msgpack": _read_bytes,
    "safetensors": _read_safetensors,
}
