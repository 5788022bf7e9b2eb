"""PyTorch tensors: strided views of a storage, checked before they are read.

A tensor has a shape and, for each axis, a stride in items of its storage. Tensors may
share a storage and overlap.
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
    REBUILD_LATER,
    STORAGES,
    UNTYPED,
    Name,
    Rebuilt,
    Storage,
)

MAX_RANK = 64
"""NumPy's limit."""
_WHOLE = "save `tensor.detach().clone()`"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The description of a tensor in a file.

    Attributes:
        storage: name of the member with its items.
        stored: size of that member in bytes.
        dtype: dtype of the items.
        offset: offset of the first item, in items.
        shape: lengths of the axes.
        strides: stride of each axis, in items.
    """

    storage: str
    stored: int
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of all values in bytes, counting axes of length 0 as 1."""
        return math.prod(max(n, 1) for n in self.shape) * self.dtype.itemsize

    def of(self, raw: np.ndarray) -> np.ndarray:
        """Return the array.

        Args:
            raw: the bytes of the storage, as `uint8`, in the byte order of this
                machine.

        Returns:
            A read-only view of the bytes.
        """
        if 0 in self.shape:
            array = np.empty(self.shape, self.dtype)
        else:
            size = self.dtype.itemsize
            # An axis of length 1 needs no stride, and may have an absurd one.
            pairs = zip(self.shape, self.strides, strict=True)
            strides = tuple(stride * size if n > 1 else 0 for n, stride in pairs)
            offset = self.offset * size
            # NumPy checks once more that all of it is inside the buffer.
            array = np.ndarray(self.shape, self.dtype, raw.data, offset, strides)
        array.flags.writeable = False
        return array


def dtype_of(name: str) -> np.dtype:
    """Return the dtype with the given name in PyTorch.

    Example:
        >>> dtype_of("bfloat16"), dtype_of("bool")
        (dtype(bfloat16), dtype('bool'))
    """
    return np.dtype(getattr(ml_dtypes, name, name))


def tensor_of(rebuilt: Rebuilt, file: PathLike, key: str) -> Tensor:
    """Check the arguments of a tensor.

    Args:
        rebuilt: the record from the pickle.
        file: the file, for messages.
        key: the name of the tensor, for messages.

    Raises:
        InputError: the arguments have wrong types, or exceed the storage.
    """

    def wrong(problem: str, expected: object = None, found: object = None):
        return InputError(
            problem, file=file, key=key, expected=expected, found=found, hint=_WHOLE
        )

    def lengths(name: str, value: object) -> tuple[int, ...]:
        # At most 64 bits: products of longer numbers are slow, and long to print.
        if isinstance(value, tuple) and len(value) <= MAX_RANK:
            if all(type(n) is int and 0 <= n < 2**63 for n in value):
                return value
        expected = f"at most {MAX_RANK} whole numbers, none below 0"
        raise wrong(f"not {name} of a tensor", expected, _shown(value))

    if rebuilt.function == PARAMETER:
        inner = rebuilt.arguments[0] if rebuilt.arguments else None
        if not isinstance(inner, Rebuilt) or inner.function == PARAMETER:
            raise wrong("a parameter without a tensor", found=type(inner).__name__)
        rebuilt = inner
    first, rest = rebuilt.arguments[:6], list(rebuilt.arguments[6:])
    dtype_name = rest.pop(0) if rest and rebuilt.function == REBUILD_LATER else None
    metadata = rest.pop() if rest else None
    if len(first) < 6 or rest:
        raise wrong("a tensor with other arguments", found=len(rebuilt.arguments))
    if metadata:
        raise wrong("a conjugated or negated view", found=type(metadata).__name__)
    storage, offset = first[:2]
    if not isinstance(storage, Storage):
        raise wrong("a tensor without a storage", found=type(storage).__name__)
    dtype = _dtype(storage, dtype_name)
    if dtype is None:
        found = f"{storage.kind} and {type(dtype_name).__name__}"
        raise wrong("a dtype that is not known", found=found)
    shape, strides = lengths("shape", first[2]), lengths("strides", first[3])
    if type(offset) is not int or offset < 0:
        raise wrong("not the offset of a tensor", "at least 0", _shown(offset))
    if len(shape) != len(strides):
        raise wrong("not as many strides as axes", len(shape), len(strides))
    itemsize = 1 if storage.kind == UNTYPED else dtype.itemsize
    stored = storage.count * itemsize
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * dtype.itemsize > stored:
        expected = f"at most {stored // dtype.itemsize:,} items"
        raise wrong("a tensor beyond its storage", expected, f"item {last:,}")
    return Tensor(storage.key, stored, dtype, offset, shape, strides)


def _dtype(storage: Storage, name: object) -> np.dtype | None:
    """Return the dtype of a typed storage, or the named dtype of an untyped one."""
    found = STORAGES.get(storage.kind)
    if storage.kind == UNTYPED and isinstance(name, Name):
        found = name.text.removeprefix("torch.")
    elif name is not None:
        found = None
    return None if found not in DTYPES else dtype_of(found)


def _shown(value: object) -> str:
    """Describe a value in a file, without its nested contents."""
    if isinstance(value, tuple) and all(type(n) is int for n in value[: MAX_RANK + 1]):
        return f"{str(value[: MAX_RANK + 1]):.80}"
    return str(value)[:80] if type(value) is int else type(value).__name__
