"""One checkpoint on disk: arrays written by Orbax, sealed by a manifest.

A checkpoint is a folder that appears under its name only when it is complete and on
the disk, and is read only after every byte of it has been compared with the
manifest. The manifest also records name, shape and dtype of each array, so that a
checkpoint of another model is refused with the list of what differs, before the
arrays are parsed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linsey.checkpoint import durable, manifest
from linsey.errors import InputError
from linsey.extras import require

Nested = Mapping[str, object]
STATE = "state"
MAX_RANK = 32


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one stored array."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, array: Any) -> ArraySpec:
        """Describe anything that has a shape and a dtype.

        Example:
            >>> print(ArraySpec.of(np.zeros((3, 4), np.float32)))
            float32[3,4]
        """
        return cls(tuple(array.shape), np.dtype(array.dtype).name)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class VerifiedCheckpoint:
    """A checkpoint whose bytes were compared with its manifest.

    Attributes:
        folder: where it is.
        step: the training step it was taken at.
        metadata: the JSON values saved with it.
        arrays: what it holds, by path, such as `params/Dense_0/kernel`.
    """

    folder: Path
    step: int
    metadata: dict[str, Any]
    arrays: dict[str, ArraySpec]

    def restore(self, template: Nested) -> dict[str, Any]:
        """Read the arrays, if they are exactly those of the template.

        Args:
            template: nested dictionaries of arrays or `jax.ShapeDtypeStruct`s.

        Returns:
            The stored NumPy arrays, nested as the template.

        Raises:
            InputError: a name, a shape or a dtype differs; it lists every difference.
        """
        expected = {k: ArraySpec.of(v) for k, v in flatten(template).items()}
        if differences := list(_differences(expected, self.arrays)):
            problem = "checkpoint of another model: " + "; ".join(differences)
            hint = "use the options the checkpoint was written with"
            raise InputError(problem, file=self.folder, hint=hint)
        return _shaped_like(template, flatten(self.read()))

    def read(self) -> dict[str, Any]:
        """Read the arrays as they are, nested by path.

        Raises:
            InputError: Orbax cannot read them.
        """
        with _orbax().PyTreeCheckpointer() as checkpointer:
            try:
                return checkpointer.restore(self.folder.resolve() / STATE)
            except Exception as error:
                problem = f"verified, but Orbax cannot read it: {error}"
                hint = "install the orbax-checkpoint version that wrote it"
                raise InputError(problem, file=self.folder, hint=hint) from error


def write_checkpoint(folder: Path, step: int, tree: Nested, metadata: Nested) -> None:
    """Write a checkpoint: when this returns it is on the disk, complete.

    Args:
        folder: the name it gets; must not exist, while its parent must.
        step: the training step.
        tree: nested dictionaries with string keys and arrays as leaves.
        metadata: JSON values to record beside the arrays.

    Raises:
        OSError: there is a folder of that name, or the disk refused.
    """
    orbax, stored = _orbax(), _storable(tree)
    with durable.replacing(folder) as temporary:
        temporary.mkdir()
        with orbax.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(temporary.resolve() / STATE, stored)
        specs = {k: vars(ArraySpec.of(np.asarray(v))) for k, v in flatten(tree).items()}
        header = {"step": step, "metadata": metadata, "arrays": specs}
        manifest.write_manifest(temporary, header)


def open_checkpoint(folder: Path) -> VerifiedCheckpoint:
    """Verify a checkpoint and describe it; its arrays are not parsed yet.

    Args:
        folder: one step, as `write_checkpoint` named it.

    Returns:
        The verified checkpoint.

    Raises:
        InputError: the folder is not what was written; it names the file.
    """
    if not folder.is_dir():
        raise InputError("no such checkpoint", file=folder)
    record = manifest.verify_manifest(folder)
    specs = record["arrays"].items()
    arrays = {k: ArraySpec(tuple(spec["shape"]), spec["dtype"]) for k, spec in specs}
    if any(len(spec.shape) > MAX_RANK for spec in arrays.values()):
        raise InputError(f"an array of more than {MAX_RANK} axes", file=folder)
    return VerifiedCheckpoint(folder, record["step"], record["metadata"], arrays)


def flatten(tree: Nested, prefix: str = "") -> dict[str, Any]:
    """Name each leaf of nested dictionaries by its path.

    Example:
        >>> flatten({"params": {"Dense_0": {"bias": 1}}, "batch_stats": {}})
        {'params/Dense_0/bias': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _orbax() -> Any:
    return require("orbax.checkpoint", "train", "A checkpoint")


def _storable(tree: Nested) -> dict[str, Any]:
    """The arrays on the host, without empty ones: Orbax refuses those."""
    return {
        key: _storable(value) if isinstance(value, dict) else np.asarray(value)
        for key, value in tree.items()
        if isinstance(value, dict) or np.asarray(value).size
    }


def _shaped_like(template: Any, flat: dict[str, Any], prefix: str = "") -> Any:
    # Orbax gives back scalars as Python numbers and may lose empty dictionaries:
    # structure, shapes and dtypes are the template's.
    if isinstance(template, dict):
        return {k: _shaped_like(v, flat, f"{prefix}/{k}") for k, v in template.items()}
    value = flat.get(prefix.removeprefix("/"), ())
    return np.asarray(value, template.dtype).reshape(template.shape)


def _differences(
    expected: dict[str, ArraySpec], found: dict[str, ArraySpec]
) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"`{name}` is missing"
        elif name not in expected:
            yield f"`{name}` is not in this model"
        elif expected[name] != found[name]:
            yield f"`{name}` is {found[name]}, not {expected[name]}"
