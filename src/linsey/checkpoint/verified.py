"""A checkpoint that was read and compared: what it holds, and how it is restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from linsey.checkpoint.manifest import ArraySpec
from linsey.checkpoint.trees import Nested, flatten, leaves, nest
from linsey.errors import InputError


@dataclasses.dataclass(frozen=True)
class VerifiedCheckpoint:
    """A checkpoint whose arrays are those that were saved.

    Attributes:
        folder: where it was read.
        step: the training step it was taken at.
        metadata: the JSON values saved with it.
        arrays: what it holds, by path, such as `params/Dense_0/kernel`; see `flatten`.
        revision: how often the step was replaced.
    """

    folder: Path
    step: int
    metadata: dict[str, Any]
    arrays: dict[str, ArraySpec]
    revision: int = 0
    _values: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    _empty: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def restore(self, template: Nested) -> dict[str, Any]:
        """Return the arrays, if they are exactly those of the template.

        Args:
            template: nested dictionaries of arrays or `jax.ShapeDtypeStruct`s.

        Returns:
            The stored NumPy arrays, nested as the template. They cannot be written to:
            copy those that are to be changed.

        Raises:
            InputError: a name, a shape or a dtype differs; it lists every difference.
        """
        expected = {k: ArraySpec.of(v) for k, v in flatten(template).items()}
        if differences := list(_differences(expected, self.arrays)):
            problem = "checkpoint of another model: " + "; ".join(differences)
            hint = "use the options the checkpoint was written with"
            raise InputError(problem, file=self.folder, hint=hint)
        empty = [path for path, leaf in leaves(template) if path not in expected]
        return nest({path: self._values[path] for path in expected}, empty)

    def read(self) -> dict[str, Any]:
        """Return the arrays as they are, nested by path; see `restore`."""
        return nest(self._values, self._empty)


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
