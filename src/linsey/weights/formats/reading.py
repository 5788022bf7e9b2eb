"""Reading of arrays by name, from any of the formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from linsey._array_files.npz import read_npz
from linsey.checkpoint import tensors
from linsey.errors import InputError
from linsey.files import read_regular
from linsey.training import checkpoints, orbax_utils
from linsey.training.contents import read_contents
from linsey.weights.formats import names
from linsey.weights.formats.kinds import (
    AGAIN,
    Kind,
    advising,
    recognize,
    run_steps,
)
from linsey.weights.formats.pt_archive import read_pt

Reader = Callable[[Path], dict[str, np.ndarray]]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a file or folder of weights.

    The format is detected by the content, not by the name: safetensors; a file of
    `torch.save`, since PyTorch 1.6; MessagePack of Flax; an Orbax checkpoint; `.npz`; a
    run of linsey, whose newest step is read, or one of its steps.

    For safetensors, `.npz` and a PyTorch state dict, the names are those in the file.
    In nested dictionaries, a name joins keys and indices with `/`, as in
    `params/Dense_0/kernel`; a `/` in a key is written as `~1`, and a `~` as `~0`. If a
    PyTorch checkpoint contains exactly one state dict and no arrays next to it, only
    this state dict is read, without the state of the optimizer; otherwise everything is
    read. Values that are not arrays, such as the epoch number, are left out.

    Args:
        path: the file or folder.

    Returns:
        Arrays by name, with the shapes and dtypes in the file; dtypes such as
        `bfloat16` are from `ml_dtypes`. The arrays are read-only: copy those that you
        want to change. PyTorch tensors that share memory still do so.

    Raises:
        InputError: the file has another format, is damaged, or has no arrays; or it has
            more than arrays, and reading it would require running code. The message
            names the file and the entry.
        DiskError: a disk operation failed.
        MissingPackageError: Orbax is needed, but not installed.

    Example:
        >>> import tempfile
        >>> from linsey.weights import write
        >>> path = Path(tempfile.mkdtemp(), "weights.safetensors")
        >>> write(path, {"conv1.weight": np.ones((2, 3), np.float32)})
        >>> read(path)
        {'conv1.weight': array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)}
    """
    path = Path(path)
    arrays = _READERS[recognize(path)](path)
    if not arrays:
        raise InputError("no arrays in it", file=path)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with advising(AGAIN):
        return tensors.decode(read_regular(path), path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # NumPy writes dtypes such as `bfloat16` without their names.
    with advising("save numbers that NumPy has, such as float32, or use safetensors"):
        arrays = read_npz(path, tuple)
    return {
        name: array.astype(array.dtype.newbyteorder("="), copy=False)
        for name, array in arrays.items()
    }


def _read_run(path: Path) -> dict[str, np.ndarray]:
    newest = run_steps(path).newest()
    return {} if newest is None else _arrays_of(newest.read(), path)


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    reader = checkpoints.orbax().PyTreeCheckpointer()
    return _arrays_of(orbax_utils.stored_arrays(reader, os.path.abspath(path)), path)


def _tree_reader(kind: Literal["step", "msgpack"]) -> Reader:
    return lambda path: _arrays_of(read_contents(path, kind).tree, path)


def _arrays_of(tree: object, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        found = type(tree).__name__
        raise InputError("not a dictionary of arrays", file=path, found=found)
    return {k: _on_host(v) for k, v in names.flat(tree, _is_array, path).items()}


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array)


def _on_host(array: Any) -> np.ndarray:
    if not isinstance(array.dtype, np.dtype):  # random keys
        array = jax.random.key_data(array)
    return np.asarray(array)


_READERS: dict[Kind, Reader] = {
    "safetensors": _read_safetensors,
    "pt": read_pt,
    "npz": _read_npz,
    "msgpack": _tree_reader("msgpack"),
    "orbax": _read_orbax,
    "step": _tree_reader("step"),
    "run": _read_run,
}
