"""Writing of arrays by name, in any of the formats."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from linsey._array_files.archive import add_member
from linsey.checkpoint import dtypes, durable, tensors
from linsey.checkpoint.trees import keys_of
from linsey.errors import ArgumentTypeError, OptionError
from linsey.training import checkpoints, orbax_utils
from linsey.training.contents import Contents, write_contents
from linsey.weights.formats import names
from linsey.weights.formats.pt_pickle import DTYPES
from linsey.weights.formats.pt_writing import write_pt

Format = Literal["safetensors", "pt", "msgpack", "orbax", "npz"]
Arrays = Mapping[str, np.ndarray]
_SUFFIXES: dict[str, Format] = {
    **{f".{name}": name for name in get_args(Format)},
    ".pth": "pt",
}
_OF_NUMPY = {
    *("bool", "float16", "float32", "float64", "complex64", "complex128"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    format: Format | None = None,
) -> None:
    """Write arrays by name to a file or folder of weights.

    The file gets its name only when it is complete and on the disk. The same arrays in
    the same order give the same bytes, except with Orbax. With `"pt"`, they are tensors
    that `torch.load(path, weights_only=True)` reads. `"msgpack"` (of Flax) and
    `"orbax"` hold trees: a name such as `params/Dense_0/kernel` is split at each `/`.

    Args:
        path: the file or folder to create. An existing file is replaced, but not an
            existing folder. Missing parent folders are created.
        arrays: NumPy or JAX arrays by name.
        format: the format. If `None`, it is determined by the suffix: `.safetensors`,
            `.pt` or `.pth`, `.msgpack`, `.orbax`, `.npz`.

    Raises:
        OptionError: the format is unknown, there are no arrays, or a name is not
            possible in the format.
        ArgumentTypeError: a value is not an array, or has a dtype that the format
            cannot hold.
        DiskError: a disk operation failed. Nothing new is left behind.
        MissingPackageError: Orbax is needed, but not installed.

    Example:
        >>> import tempfile
        >>> from linsey.weights import read
        >>> path = Path(tempfile.mkdtemp(), "weights.msgpack")
        >>> write(path, {"params/Dense_0/bias": np.zeros(2, np.float16)})
        >>> read(path)
        {'params/Dense_0/bias': array([0., 0.], dtype=float16)}
    """
    path = Path(path)
    chosen = _SUFFIXES.get(path.suffix) if format is None else format
    if chosen is None or chosen not in _WRITERS:
        shown = f"`{path.name}`" if format is None else f"`format={format!r}`"
        raise OptionError(
            f"{shown} does not say which format is meant.",
            f"These are written: {', '.join(get_args(Format))}.",
            'Write `write(path, arrays, format="safetensors")`.',
        )
    if not arrays:
        raise OptionError(
            "There are no arrays to write.",
            "A file without arrays is most likely a mistake.",
            "Pass at least one array.",
        )
    if chosen == "orbax":
        checkpoints.orbax()  # if it is missing, say so before anything else
    found = {name: _prepared(name, array, chosen) for name, array in arrays.items()}
    durable.make_folder(path.absolute().parent)
    with durable.replacing(path, sum(a.nbytes for a in found.values())) as temporary:
        _WRITERS[chosen](temporary, found)


def _prepared(name: str, array: Any, format: Format) -> np.ndarray:
    """Check a name and an array; return it on the host, contiguous, little-endian."""
    if not _is_name(name):
        raise OptionError(
            f"The name {name!r:.80} cannot be one.",
            f"Names are text of at most {names.MAX_NAME:,} characters of Unicode, "
            f"without null bytes; `{tensors.RESERVED}` is taken.",
            "Rename the array.",
        )
    if not isinstance(array, np.ndarray | np.generic | jax.Array):
        raise ArgumentTypeError(
            f"`{name}` is of type {type(array).__name__}.",
            "A file of weights holds arrays.",
            "Pass `numpy.asarray(value)`, or leave it out.",
        )
    if not _can_hold(format, array.dtype, array.size):
        kind = f"of dtype {dtypes.name_of(array.dtype)}" if array.size else "empty"
        raise ArgumentTypeError(
            f"`{name}` is {kind}, which {format} cannot hold.",
            "It would be read as something else, or not at all.",
            "Convert it, such as by `array.astype(numpy.float32)`, leave it out, or "
            "write another format.",
        )
    host = np.asarray(array, order="C")
    return host.astype(host.dtype.newbyteorder("<"), copy=False)


def _is_name(name: object) -> bool:
    if not isinstance(name, str) or len(name) > names.MAX_NAME or "\0" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return name != tensors.RESERVED


def _can_hold(format: Format, dtype: object, size: int) -> bool:
    if not isinstance(dtype, np.dtype):  # random keys
        return False
    if format == "orbax":
        return orbax_utils.is_storable(dtype) and size > 0
    if format == "msgpack":
        return dtypes.storage(dtype.name) is not None
    return dtype.name in _DTYPES[format]


def _write_safetensors(path: Path, arrays: Arrays) -> None:
    durable.write_new(path, tensors.encode(arrays))


def _write_npz(path: Path, arrays: Arrays) -> None:
    with zipfile.ZipFile(path, "x") as file:
        for name, array in arrays.items():
            header = io.BytesIO()
            described = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(header, described)
            add_member(file, f"{name}.npy", header.getvalue(), dtypes.raw(array))


def _write_msgpack(path: Path, arrays: Arrays) -> None:
    write_contents(path, "msgpack", Contents(names.unflatten(arrays)))


def _write_orbax(path: Path, arrays: Arrays) -> None:
    stored: dict[str, str] = {}
    for name in arrays:
        other = stored.setdefault(".".join(keys_of(name)), name)
        if other != name:
            raise OptionError(
                f"The names `{other}` and `{name}` are one to Orbax.",
                "It joins keys with a point, and one array would replace the other.",
                "Rename one of the two arrays, or write msgpack.",
            )
    write_contents(path, "orbax", Contents(names.unflatten(arrays)))


_WRITERS: dict[Format, Callable[[Path, Arrays], None]] = {
    "safetensors": _write_safetensors,
    "pt": write_pt,
    "msgpack": _write_msgpack,
    "orbax": _write_orbax,
    "npz": _write_npz,
}
_DTYPES: dict[str, Collection[str]] = {
    "safetensors": dtypes.SAFETENSORS,
    "pt": DTYPES,
    "npz": _OF_NUMPY,
}
