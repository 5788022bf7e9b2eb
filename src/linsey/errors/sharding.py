"""Misuse of names of array axes and of the rules that map them to a mesh.

Each class also derives from the built-in exceptions that programs written for Flax
catch at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linsey.errors.base import LinseyError


class DuplicateAxisNamesError(LinseyError, ValueError):
    """Two axes of one array have the same logical name."""

    def __init__(self, names: Sequence[Any], duplicates: Sequence[Any]) -> None:
        super().__init__(
            f"Unsupported: Dimensions {tuple(duplicates)} occur more than once in "
            f"array names: found {tuple(names)}.",
            "An axis of the mesh can split one axis of an array only.",
            "Give the axes different names, for example ('embed', 'embed_out').",
        )


class AxisRulesError(LinseyError, ValueError):
    """Rules that map logical names to mesh axes are no sequence of pairs."""

    def __init__(self, rules: Any) -> None:
        super().__init__(
            f"Unknown axis rule specification type. Found {rules!r}.",
            "Rules are tried in order, so they are a sequence of pairs (logical name, "
            "mesh axis).",
            "Write for example `(('batch', 'data'), ('embed', None))`.",
        )


class InconsistentRulesError(LinseyError, ValueError):
    """Two sets of rules send one logical name to different mesh axes."""

    def __init__(self, name: str, first: Any, second: Any) -> None:
        super().__init__(
            f"Inconsistent logical axis annotations for {name}: {first} vs {second}",
            "Put together, each name has one mesh axis.",
            f"Remove '{name}' from one of the two sets of rules.",
        )


class NoAxisRuleError(LinseyError, ValueError):
    """A logical name has no rule, and the fallback asks for an error."""

    def __init__(self, names: Sequence[Any]) -> None:
        super().__init__(
            f"Axis names {tuple(names)} did not match a rule",
            "With `RulesFallback.RAISE_ERROR` each name needs one; a mesh axis splits "
            "one axis of an array only, so a rule may be used up.",
            "Add a rule `(name, mesh_axis)`, or `(name, None)` for an axis that stays "
            "whole.",
        )


class AxisNamesChangedError(LinseyError, ValueError):
    """The stored axis names of a variable are not the ones declared now."""

    def __init__(self, stored: Any, declared: Any) -> None:
        super().__init__(
            "If axis names are sown twice, expected them to match. Got "
            f"{stored} and {declared}.",
            "The names belong to the variable, which is the same.",
            "Declare the same `axes` at each place, or initialise the variables anew.",
        )


class AxisMetadataTypeError(LinseyError, AssertionError, AttributeError, TypeError):
    """A collection of axis names holds something else."""

    def __init__(self, value: Any) -> None:
        super().__init__(
            f"Non-initial-or-AxisMetadata value encountered: {value!r}",
            "A collection whose name ends in `_axes` holds the axis names of the "
            "variables of another one.",
            "Make it with `init`, and rename other collections that end so.",
        )


class MeshNeededError(LinseyError, ValueError):
    """A value should be split over mesh axes, but no mesh is known."""

    def __init__(self, spec: Any) -> None:
        super().__init__(
            "An auto mesh context or metadata is required if creating a variable with "
            f"annotation out_sharding={spec}.",
            "Names of mesh axes mean nothing without the mesh.",
            "Run the code under `with jax.set_mesh(mesh):`, or pass the mesh.",
        )
