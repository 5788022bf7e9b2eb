"""Tensors of PyTorch: strides over the items of a storage, checked before they are read.

A tensor has a shape, and for each axis the stride from an item to the next one, counted
in items of its storage. Tensors may share a storage, and overlap.
"""

from __future__ import annotations

import dataclasses
import math

import ml_dtypes
import numpy as np

from linsey.errors import InputError
from linsey.files import PathLike
from linsey.weights.formats.pt_pickle import (
    DTYPES,
    PARAMETER,
    REBUILD,
    REBUILD_LATER,
    STORAGES,
    Name,
    Rebuilt,
    Storage,
)

MAX_RANK = 64
"""The limit of NumPy."""
_WHOLE = "save `tensor.detach().clone()`"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a file says of a tensor.

    Attributes:
        storage: the name of the member with its items.
        stored: the bytes of that member.
        dtype: of the items.
        offset: of the first item.
        shape: the lengths of the axes.
        strides: in items, as many.
    """

    storage: str
    stored: int
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all values, and at least those of one along each axis."""
        return math.prod(max(n, 1) for n in self.shape) * self.dtype.itemsize

    def of(self, raw: np.ndarray) -> np.ndarray:
        """Return the array.

        Args:
            raw: the bytes of the storage, as `uint8`, in the order of this machine.

        Returns:
            A view of them, which cannot be written to.
        """
        if 0 in self.shape:
            array = np.empty(self.shape, self.dtype)
        else:
            size = self.dtype.itemsize
            strides = tuple(stride * size for stride in self.strides)
            # A length of 1 needs no stride, and may have an absurd one.
            strides = tuple(s if n > 1 else 0 for n, s in zip(self.shape, strides))
            offset = self.offset * size
            # NumPy compares all of it with the size of the buffer once more.
            array = np.ndarray(self.shape, self.dtype, raw.data, offset, strides)
        array.flags.writeable = False
        return array


def dtype_of(name: str) -> np.dtype:
    """Return the dtype that has a name in PyTorch.

    Example:
        >>> dtype_of("bfloat16"), dtype_of("bool")
        (dtype(bfloat16), dtype('bool'))
    """
    return np.dtype(getattr(ml_dtypes, name, name))


def tensor_of(rebuilt: Rebuilt, file: PathLike, key: str) -> Tensor:
    """Check the arguments of a tensor.

    Args:
        rebuilt: what the pickle has.
        file: where it is, for messages.
        key: the name of the tensor, for messages.

    Raises:
        InputError: they are of other types, or lead out of the storage.
    """

    def wrong(problem: str, expected: object = None, found: object = None):
        return InputError(
            problem, file=file, key=key, expected=expected, found=found, hint=_WHOLE
        )

    if rebuilt.function == PARAMETER:
        inner = rebuilt.arguments[0] if rebuilt.arguments else None
        if not isinstance(inner, Rebuilt) or inner.function == PARAMETER:
            raise wrong("a parameter without a tensor", found=type(inner).__name__)
        rebuilt = inner
    arguments: list[object] = list(rebuilt.arguments)
    metadata: object = None
    dtype_name: object = None
    if rebuilt.function == REBUILD_LATER and 7 <= len(arguments) <= 8:
        dtype_name = arguments.pop(6)
    if 6 < len(arguments) <= 7:
        metadata = arguments.pop(6)
    if len(arguments) != 6 or rebuilt.function not in (REBUILD, REBUILD_LATER):
        raise wrong("a tensor with other arguments", found=len(rebuilt.arguments))
    if metadata:
        raise wrong("a conjugated or negated view", found=type(metadata).__name__)
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise wrong("a tensor without a storage", found=type(storage).__name__)
    dtype = _dtype(storage, dtype_name, rebuilt.function)
    if dtype is None:
        found = f"{storage.kind} and {type(dtype_name).__name__}"
        raise wrong("a dtype that is not known", found=found)
    for name, lengths in (("shape", shape), ("strides", strides)):
        if not _are_lengths(lengths):
            expected = f"at most {MAX_RANK} whole numbers, none below 0"
            raise wrong(f"not {name} of a tensor", expected, _shown(lengths))
    if type(offset) is not int or offset < 0:
        raise wrong("not the offset of a tensor", "at least 0", _shown(offset))
    if len(shape) != len(strides):
        raise wrong("as many strides as axes", len(shape), len(strides))
    itemsize = dtype.itemsize
    stored = storage.count * (1 if storage.kind == "UntypedStorage" else itemsize)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
    if 0 not in shape and (last + 1) * itemsize > stored:
        expected = f"at most {stored // itemsize:,} items"
        raise wrong("a tensor beyond its storage", expected, f"item {last:,}")
    return Tensor(storage.key, stored, dtype, offset, shape, strides)


def _dtype(storage: Storage, name: object, function: str) -> np.dtype | None:
    if function == REBUILD:
        found = STORAGES.get(storage.kind)
    else:
        text = name.text.removeprefix("torch.") if isinstance(name, Name) else ""
        is_untyped = storage.kind == "UntypedStorage"
        found = text if is_untyped and text in DTYPES else None
    return None if found is None else dtype_of(found)


def _are_lengths(value: object) -> bool:
    # Not more than 64 bits: the product of large ones is slow, and long to print.
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_RANK
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _shown(value: object) -> str:
    """What a file has, without what may be nested in it."""
    if isinstance(value, tuple) and all(type(n) is int for n in value[: MAX_RANK + 1]):
        return f"{str(value[: MAX_RANK + 1]):.80}"
    return str(value)[:80] if type(value) is int else type(value).__name__
