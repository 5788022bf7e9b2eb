"""Recognition and description of files and folders of arrays, whoever wrote them.

A *kind* is recognized from the content and not from the name: a step of
`linsey.checkpoint`, a checkpoint of Orbax, msgpack bytes of Flax or linsey, or a
safetensors file.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from linsey.serialization import to_bytes
    >>> folder = Path(tempfile.mkdtemp())
    >>> tree = {"params": {"w": np.zeros((2, 3), np.float32)}, "note": "first"}
    >>> _ = (folder / "a.msgpack").write_bytes(to_bytes(tree))
    >>> kind_of(folder / "a.msgpack")
    'msgpack'
    >>> {name: str(spec) for name, spec in describe(folder / "a.msgpack").items()}
    {'params/w': 'float32[2,3]', 'note': 'text'}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from linsey import files, schema
from linsey.checkpoint import dtypes, manifest, open_checkpoint, tensors
from linsey.errors import InputError, OptionError
from linsey.serialization import to_state_dict
from linsey.specs import ArraySpec, Spec, flatten, spec_of
from linsey.training import checkpoints, orbax_utils

__all__ = ["Kind", "describe", "kind_of", "read_state", "recognize"]

Kind = Literal["step", "orbax", "msgpack", "safetensors"]


def kind_of(path: Path) -> Kind | None:
    """Recognize the kind of a file or folder.

    Returns:
        The kind; `None` if the path does not exist or is some other folder.

    Raises:
        InputError: it is a link, or not a regular file.
        DiskError: the disk or the system refused.
    """
    if path.is_dir():
        if os.path.lexists(path / manifest.NAME):
            return "step"
        return "orbax" if checkpoints.is_orbax(os.fspath(path)) else None
    if not os.path.lexists(path):
        return None
    with files.open_regular(path) as file, files.reporting(path, "read"):
        size, start = os.fstat(file.fileno()).st_size, file.read(9)
    header = int.from_bytes(start[:8], "little")
    is_safetensors = start[8:] == b"{" and header + 8 <= size
    return "safetensors" if is_safetensors else "msgpack"


def describe(path: str | os.PathLike[str]) -> dict[str, Spec]:
    """List the contents of a file or folder, without a model.

    Args:
        path: a file or folder of any kind; see `kind_of`.

    Returns:
        For each name, an `ArraySpec` or a word such as "int" or "text".

    Raises:
        InputError: it is of no known kind, or damaged.
        DiskError: the disk or the system refused.
    """
    path = Path(path)
    kind = recognize(path)
    if kind == "safetensors":
        return dict(_safetensors(path))
    if kind == "orbax":
        reader = checkpoints.orbax().PyTreeCheckpointer()
        tree = orbax_utils.stored_specs(reader, os.path.abspath(path))
    elif kind == "step":
        return {k: ArraySpec.of(v) for k, v in open_checkpoint(path).arrays.items()}
    else:
        tree = read_state(path)
    return {name: spec_of(leaf) for name, leaf in flatten(tree)}


def recognize(path: Path) -> Kind:
    """Recognize the kind of a file or folder like `kind_of`, which must have one.

    Raises:
        InputError: it is of no known kind, or does not exist.
        DiskError: the disk or the system refused.
    """
    kind = kind_of(path)
    if kind is not None:
        return kind
    if not path.is_dir():
        raise InputError("no such file or folder", file=path)
    names = (f"{above}step_*/{manifest.NAME}" for above in ("", "*/"))
    steps = sorted(found.parent for name in names for found in path.glob(name))
    hint = f"name one step of it: {steps[-1]}" if steps else None
    raise InputError("neither a step nor a checkpoint of Orbax", file=path, hint=hint)


def read_state(path: Path) -> Any:
    """Read a file of msgpack bytes as a state dict, in which lists are dictionaries.

    Raises:
        InputError: it is damaged, or two keys of a dictionary are the same as text.
        DiskError: the disk or the system refused.
    """
    try:
        return to_state_dict(checkpoints.read_bytes(path))
    except OptionError as error:
        raise InputError(error.found, file=path) from error


# -- safetensors ---------------------------------------------------------------------

_MAX_HEADER = 100_000_000  # the limit of the format
_NAMES = {code: name for name, code in dtypes.CODES.items()}


def _safetensors(path: Path) -> dict[str, Spec]:
    """Read only the header of a safetensors file."""
    with files.open_regular(path) as file, files.reporting(path, "read"):
        size = os.fstat(file.fileno()).st_size - 8
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, _MAX_HEADER):
            expected = f"at most {min(size, _MAX_HEADER):,} bytes"
            raise InputError(
                "the header is too long", file=path, expected=expected, found=length
            )
        header = schema.parse_json(file.read(length), path)
    if not isinstance(header, dict):
        raise InputError("the header is not a JSON object", file=path)
    header.pop("__metadata__", None)
    entries = schema.conform(header, dict[str, tensors.Tensor], file=path)
    for name, entry in entries.items():
        first, end = entry.data_offsets
        if not first <= end <= size - length:
            raise InputError("an array outside of the file", file=path, key=name)
    return {
        name: ArraySpec(entry.shape, _NAMES.get(entry.dtype, entry.dtype))
        for name, entry in entries.items()
    }
