"""Arrays of any kind of file, by name."""

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

    What it is shows in its content, and not in its name: safetensors; a file of
    `torch.save`, since PyTorch 1.6; MessagePack of Flax; a checkpoint of Orbax; `.npz`;
    a run of linsey, of which the newest step is read, or one step of it.

    Of safetensors, `.npz` and a state dict of PyTorch the names are those in the file.
    Where dictionaries are nested, a name joins keys and indices with `/`, such as
    `params/Dense_0/kernel`; a `/` inside of a key is `~1`, and a `~` is `~0`. If a
    checkpoint of PyTorch has a state dict in it, and no second one nor arrays beside
    it, that state dict is read, and not the state of the optimizer; else everything
    is. What is no array, such as the number of an epoch, is left out.

    Args:
        path: the file or folder.

    Returns:
        Arrays by name, of the shapes and dtypes in the file, with `bfloat16` and the
        like from `ml_dtypes`. They cannot be written to: copy those that are to be
        changed. Tensors of PyTorch that share memory do so here too.

    Raises:
        InputError: it is of another kind, damaged, or has no arrays; or it has more
            than arrays, and would need code to be run. The message names the file and
            the entry.
        DiskError: the disk refused.
        MissingPackageError: Orbax is needed, and not installed.

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
    # `bfloat16`, for example, is what NumPy writes without its name.
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
    if not isinstance(array.dtype, np.dtype):  # of random keys
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
