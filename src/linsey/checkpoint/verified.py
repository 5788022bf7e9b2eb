"""A checkpoint that was read and verified: its content, and how to restore it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linsey.checkpoint.trees import Nested, flatten, leaves, nest
from linsey.errors import InputError
from linsey.specs import ArraySpec, differences


@dataclasses.dataclass(frozen=True)
class VerifiedCheckpoint:
    """A checkpoint whose arrays are verified to be those that were saved.

    Attributes:
        folder: the folder from which it was read.
        step: the training step at which it was saved.
        metadata: the JSON values saved with it.
        arrays: shapes and dtypes of the arrays, by path, such as
            `params/Dense_0/kernel`; see `flatten`.
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
        """Return the arrays, if they match the template exactly.

        Args:
            template: nested dictionaries of arrays or `jax.ShapeDtypeStruct`s.

        Returns:
            The stored NumPy arrays, nested like the template. They are read-only: copy
            those that you want to change.

        Raises:
            InputError: a name, a shape or a dtype differs. The message lists every
                difference.
        """
        expected = {k: ArraySpec.of(v) for k, v in flatten(template).items()}
        if found := differences(nest(expected), nest(self.arrays)):
            problem = "checkpoint of another model: " + "; ".join(map(str, found))
            hint = "use the options the checkpoint was written with"
            raise InputError(problem, file=self.folder, hint=hint)
        empty = [path for path, leaf in leaves(template) if path not in expected]
        return nest({path: self._values[path] for path in expected}, empty)

    def read(self) -> dict[str, Any]:
        """Return all arrays, nested by path, without a template; see `restore`."""
        return nest(self._values, self._empty)
