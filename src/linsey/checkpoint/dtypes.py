"""The form of arrays in files: contiguous, little-endian, in safetensors dtypes.

An array of another dtype is stored as its bits, with an additional last axis of bytes.
Of an array of random keys, the key data are stored. The manifest holds the original
dtype.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from linsey.errors import ArgumentTypeError


@dataclasses.dataclass(frozen=True)
class StorageFormat:
    """The form in which the elements of an array are stored.

    Attributes:
        code: the stored dtype, as safetensors names it.
        dtype: the stored dtype in NumPy.
        axes: sizes of the axes that are appended to the shape.
    """

    code: str
    dtype: np.dtype
    axes: tuple[int, ...] = ()


CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""The safetensors names of the dtypes that are stored unchanged."""
_BITS = """
    complex64 complex128 int1 int2 int4 uint1 uint2 uint4 float4_e2m1fn float6_e2m3fn
    float6_e3m2fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fnuz
    float8_e5m2fnuz float8_e8m0fnu
""".split()
# The name of the implementation, and the number of integers in a key.
_KEYS = {
    "key<fry>": ("threefry2x32", 2),
    "key<rbg>": ("rbg", 4),
    "key<urbg>": ("unsafe_rbg", 4),
}
# Which of these dtypes exist depends on the version of ml_dtypes.
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in [*CODES, *_BITS]
    if hasattr(ml_dtypes, name) or hasattr(np, name)
}
SAFETENSORS = {
    **CODES,
    "complex64": "C64",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
"""All safetensors dtypes. Those missing in `CODES` are newer; steps hold their bits."""
BY_CODE = {code: _DTYPES[name] for name, code in SAFETENSORS.items() if name in _DTYPES}
"""The NumPy dtypes by their safetensors names."""


def name_of(dtype: Any) -> str:
    """Return the name of a NumPy or JAX dtype, including those of random keys."""
    return dtype.name if hasattr(dtype, "name") else np.dtype(dtype).name


def storage(name: str) -> StorageFormat | None:
    """Return the form in which a dtype is stored, or `None` if it cannot be stored.

    Example:
        >>> storage("complex64")
        StorageFormat(code='U8', dtype=dtype('uint8'), axes=(8,))
    """
    if name in _KEYS:
        return StorageFormat("U32", np.dtype(np.uint32), (_KEYS[name][1],))
    dtype = _DTYPES.get(name)
    if dtype is None or name in CODES:
        return None if dtype is None else StorageFormat(CODES[name], dtype)
    return StorageFormat("U8", np.dtype(np.uint8), (dtype.itemsize,))


def to_stored(array: Any, path: str) -> tuple[str, np.ndarray]:
    """Copy an array to the host, in the form in which it is stored.

    Args:
        array: anything that `numpy.asarray` takes, or random keys of JAX.
        path: name of the array, for messages.

    Returns:
        The name of its dtype, and the stored array, without a copy if possible.

    Raises:
        ArgumentTypeError: it is not an array, or has a dtype that cannot be stored.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None and np.isscalar(array):
        dtype = np.asarray(array).dtype
    # NumPy would convert a list to an array, but no template could match it.
    name = type(array).__name__ if dtype is None else name_of(dtype)
    found = None if dtype is None else storage(name)
    if found is None:
        kind = "type" if dtype is None else "dtype"
        raise ArgumentTypeError(
            f"`{path}` is of {kind} {name}, which a checkpoint cannot hold.",
            "It holds arrays of numbers and truth values.",
            "Convert it to such an array, or save it as metadata.",
        )
    if name in _KEYS:
        import jax

        return name, np.asarray(jax.random.key_data(array), np.uint32, order="C")
    host = np.asarray(array).astype(_DTYPES[name], order="C", copy=False)
    if not found.axes:
        return name, host
    return name, host.reshape(-1).view(np.uint8).reshape(host.shape + found.axes)


def from_stored(stored: np.ndarray, name: str) -> Any:
    """Return the original array: the inverse of `to_stored`."""
    if name in _KEYS:
        import jax

        numbers = jax.numpy.asarray(stored)
        return jax.random.wrap_key_data(numbers, impl=_KEYS[name][0])
    if name in CODES:
        return stored
    return stored.view(_DTYPES[name]).reshape(stored.shape[:-1])


def raw(stored: np.ndarray) -> memoryview:
    """Return the bytes of a stored array, without a copy."""
    return stored.reshape(-1).view(np.uint8).data
