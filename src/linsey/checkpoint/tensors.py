"""The layout of a safetensors file: a length, a JSON header, then the arrays.

https://huggingface.co/docs/safetensors. Files are written and parsed here instead of by
the safetensors library: then every call that can fail on the disk is in `durable`,
arrays are written and read without a second copy in memory, and headers are checked
against types like all other data from files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np

from linsey.checkpoint.dtypes import BY_CODE, SAFETENSORS, raw
from linsey.errors import InputError
from linsey.files import parsing
from linsey.schema import Between, conform, parse_json

RESERVED = "__metadata__"
"""The only name that an array in such a file cannot have."""
Size = Annotated[int, Between(0, 2**62)]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An entry of the header, with the names that it has in the file."""

    dtype: str
    shape: Annotated[tuple[Size, ...], Between(0, 64)]
    data_offsets: tuple[Size, Size]


_ITEM_BYTES = {code: dtype.itemsize for code, dtype in BY_CODE.items()}


def encode_header(arrays: Mapping[str, np.ndarray], codes: Mapping[str, str]) -> bytes:
    """Return the bytes before the arrays in a file.

    Args:
        arrays: the arrays, in the order of the file. If they are sorted by decreasing
            item size, each of them is aligned.
        codes: the dtype of each array, as safetensors names it.
    """
    header, offset = {}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = vars(Tensor(codes[name], array.shape, (offset, end)))
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_header(content: bytes, file: Path) -> tuple[dict[str, Tensor], int]:
    """Read the header of a file.

    Args:
        content: the whole file.
        file: its path, for messages.

    Returns:
        The entries by name, and the offset at which the arrays begin.

    Raises:
        InputError: the header is not valid, or its entries do not cover the file.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or start > len(content):
        raise InputError("the header is longer than the file", file=file, key="header")
    header = parse_json(content[8:start], file)
    if isinstance(header, dict):
        header.pop(RESERVED, None)
    tensors: dict[str, Tensor] = conform(header, dict[str, Tensor], file=file)
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        refused = functools.partial(InputError, file=file, key=name)
        if tensor.dtype not in _ITEM_BYTES:
            expected, found = "one of " + ", ".join(_ITEM_BYTES), tensor.dtype
            raise refused("an unknown dtype", expected=expected, found=found)
        size = math.prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]
        if tensor.data_offsets != (end, end + size):
            place = {"expected": (end, end + size), "found": tensor.data_offsets}
            raise refused("the array is not where it has to be", **place)
        end += size
    if start + end != len(content):
        problem = "the arrays do not end where the file ends"
        raise InputError(problem, file=file, expected=start + end, found=len(content))
    return tensors, start


def encode(arrays: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    """Return the content of a file of arrays, in chunks.

    Args:
        arrays: contiguous, little-endian arrays, of dtypes that safetensors has. They
            are sorted by decreasing item size, so that each is aligned.
    """
    ordered = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    codes = {name: SAFETENSORS[array.dtype.name] for name, array in ordered.items()}
    return [encode_header(ordered, codes), *map(raw, ordered.values())]


def decode(content: bytes, file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, in the order of its header.

    Args:
        content: the whole file.
        file: its path, for messages.

    Returns:
        Read-only views of the content.

    Raises:
        InputError: the content is not a valid safetensors file.
    """
    entries, start = parse_header(content, file)
    arrays = {}
    for name, entry in entries.items():
        first, end = (start + offset for offset in entry.data_offsets)
        part = memoryview(content)[first:end]
        values = np.frombuffer(part, BY_CODE[entry.dtype])
        with parsing(file, "an impossible shape", name):
            arrays[name] = values.reshape(entry.shape)
    return arrays
