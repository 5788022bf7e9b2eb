"""State of any kind that a user passes, converted to variables by collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from linsey.batch_stats.objects import is_object, variables_of
from linsey.batch_stats.statistics import Path, Variables, unbox
from linsey.errors import ArgumentTypeError

COLLECTIONS = ("params", "batch_stats", "batch_counts")
# Entries of a train state that are not variables.
_OTHERS = ("opt_state", "step", "tx", "apply_fn", "skipped", "noise", "rngs", "rng")
# Under these names the files of other libraries hold all their arrays.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Subject:
    """The parts of a state.

    Attributes:
        variables: by collection, as the user passed them.
        arrays: the same as nested dictionaries with string keys, without boxes.
        opt_state: state of the optimizer; `None` if there is none.
        step: number of training steps so far, if the state contains it.
        model: the model or `apply` function found in the state, if any.
    """

    variables: Variables
    arrays: dict[str, Any] = field(default_factory=dict)
    opt_state: object = None
    step: int | None = None
    model: object = None


def read_subject(value: object) -> Subject:
    """Split a state into its parts.

    Args:
        value: variables by collection, parameters alone, an object of `linsey.treex`,
            or a train state: `params`, `batch_stats`, `opt_state` and `step` as
            attributes, or as keys of a dictionary.

    Raises:
        ArgumentTypeError: `value` is none of these.

    Example:
        >>> read_subject({"params": {"w": 1.0}, "step": 3}).step
        3
    """
    if is_object(value):
        variables = variables_of(value)
        return Subject(variables, plain(variables), model=value)
    fields = _fields(value)
    if fields is None:
        raise ArgumentTypeError(
            f"The variables are of type `{type(value).__name__}`.",
            "They are a mapping of collections, a state with the attribute `params`, "
            "or an object of `linsey.treex`.",
            'Pass `{"params": params, "batch_stats": batch_stats}`.',
        )
    for name in _WRAPPERS:
        if not {*COLLECTIONS} & {*fields} and isinstance(fields.get(name), Mapping):
            fields = fields[name]
    if {*COLLECTIONS} & {*fields}:
        variables = {k: v for k, v in fields.items() if k not in _OTHERS}
        inner = variables.get("params")
        if isinstance(inner, Mapping) and {*COLLECTIONS} & {*inner}:
            # The optimizer was given all collections as its parameters.
            variables = {**variables, **inner}
        variables = {k: v for k, v in variables.items() if v is not None}
    else:
        variables = {"params": fields}
    step = fields.get("step")
    return Subject(
        variables,
        plain(variables),
        fields.get("opt_state"),
        _number(step),
        fields.get("apply_fn"),
    )


def plain(tree: Any) -> Any:
    """Return a tree as plain dictionaries with string keys and without boxes."""
    if isinstance(tree, Mapping):
        return {str(name): plain(value) for name, value in tree.items()}
    return unbox(tree)


def nodes(tree: object, path: Path = ()) -> dict[Path, dict[str, object]]:
    """Return the arrays that are directly in each mapping of a tree, by its path.

    Example:
        >>> nodes({"norm": {"scale": 1.0, "bias": 0.0}})
        {('norm',): {'scale': 1.0, 'bias': 0.0}}
    """
    found: dict[Path, dict[str, object]] = {}
    if not isinstance(tree, Mapping):
        return found
    leaves = {k: v for k, v in tree.items() if not isinstance(v, Mapping)}
    if leaves:
        found[path] = leaves
    for name, inner in tree.items():
        found.update(nodes(inner, (*path, str(name))))
    return found


def shape_of(leaf: object) -> tuple[int, ...]:
    """Return the shape of an array, or `()` for a number."""
    return tuple(getattr(leaf, "shape", ()))


def _fields(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if hasattr(value, "params"):
        names = (*COLLECTIONS, "opt_state", "step", "apply_fn")
        return {n: getattr(value, n) for n in names if hasattr(value, n)}
    return None


def _number(value: Any) -> int | None:
    is_one = getattr(value, "shape", None) == () or isinstance(value, int)
    return int(value) if is_one else None
