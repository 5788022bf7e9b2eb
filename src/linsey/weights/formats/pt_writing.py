"""Writing of files that `torch.load(weights_only=True)` reads, without torch."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from linsey._array_files.archive import add_member
from linsey.checkpoint.dtypes import raw
from linsey.weights.formats.pt_pickle import (
    REBUILD,
    REBUILD_LATER,
    STORAGES,
    UNTYPED,
)

_ROOT = "archive/"
_KINDS = {dtype: kind for kind, dtype in STORAGES.items()}


def write_pt(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a state dict.

    Args:
        path: the file to create.
        arrays: contiguous arrays by name. Arrays in the same memory, such as tied
            weights, share a storage.

    Raises:
        OSError: a disk operation failed.
    """
    storages: dict[tuple[int, int, str], tuple[str, np.ndarray]] = {}
    entries = []
    for name, array in arrays.items():
        memory = array.ctypes.data, array.nbytes, array.dtype.name
        key, _ = storages.setdefault(memory, (str(len(storages)), array))
        entries += [_text(name), _tensor(array, key)]
    pickle = b"\x80\x02}(" + b"".join(entries) + b"u."
    with zipfile.ZipFile(path, "x") as file:
        add_member(file, f"{_ROOT}data.pkl", pickle)
        add_member(file, f"{_ROOT}byteorder", sys.byteorder.encode())
        for key, array in storages.values():
            add_member(file, f"{_ROOT}data/{key}", raw(array))
        add_member(file, f"{_ROOT}version", b"3\n")


def _tensor(array: np.ndarray, key: str) -> bytes:
    """Return the call of the function that makes a tensor; see `pt_tensors`."""
    dtype = array.dtype.name
    is_typed = dtype in _KINDS
    kind = f"torch.{_KINDS[dtype]}" if is_typed else f"torch.storage.{UNTYPED}"
    count = array.size if is_typed else array.nbytes
    storage = (_text("storage"), _name(kind), _text(key), _text("cpu"), _number(count))
    strides, stride = [], 1
    for length in reversed(array.shape):
        strides.insert(0, stride)
        stride *= max(length, 1)
    arguments = [
        _tuple(storage) + b"Q",
        _number(0),
        _tuple(map(_number, array.shape)),
        _tuple(map(_number, strides)),
        b"\x89",  # requires no gradient
        _name("collections.OrderedDict") + b")R",  # no hooks
    ]
    if not is_typed:
        arguments.append(_name(f"torch.{dtype}"))
    return _name(REBUILD if is_typed else REBUILD_LATER) + _tuple(arguments) + b"R"


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def _number(number: int) -> bytes:
    if number < 2**31:
        return b"J" + number.to_bytes(4, "little")
    return b"\x8a\x09" + number.to_bytes(9, "little")


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _name(text: str) -> bytes:
    module, _, name = text.rpartition(".")
    return f"c{module}\n{name}\n".encode()
