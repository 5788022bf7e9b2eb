"""Errors of general kinds whose texts are long or are used by several checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from linsey.errors.base import (
    ArgumentTypeError,
    LinseyError,
    MismatchError,
    OptionError,
    ShapeError,
)
from linsey.errors.modules import NameInUseError
from linsey.errors.scopes import InvalidRngError, ScopeVariableNotFoundError

Shape = tuple[int, ...]


def not_text(name: object) -> ArgumentTypeError:
    """Make the error for a name that is not a string."""
    return ArgumentTypeError(
        f"The type of scope {name!r} should be string but it is {type(name)}",
        "Names are the keys under which variables are stored.",
        f'Write `"{name}"`.',
    )


def no_attribute(cls: type, name: str, is_bound: bool) -> AttributeError:
    """Make the error for an attribute that a module lacks, as Python words it."""
    hint = (
        f" If \"{name}\" is defined in '.setup()', remember these fields are only"
        " accessible from inside 'init' or 'apply'."
    )
    return AttributeError(
        f'"{cls.__name__}" object has no attribute "{name}".{"" if is_bound else hint}'
    )


def not_set_up(cls: type, method: str) -> LinseyError:
    """Make the error for a `compact_name_scope` method of an unbound module."""
    return OptionError(
        f"Cannot call compact_name_scope method '{method}' on a Module that has not"
        f" been setup. This is likely because you are calling '{method}' from outside"
        " of init or apply.",
        f"{cls.__name__} is only the description; its parameters are held outside.",
        "Write `variables = module.init(key, x)`, then `module.apply(variables, x)`.",
    )


def no_parent(cls: type, parent: object) -> LinseyError:
    """Make the error for a module whose parent is neither a module nor a scope."""
    return OptionError(
        "parent must be None, Module or Scope: that of"
        f" {cls.__name__} is of type {type(parent).__name__}.",
        "The parent is what the module finds its variables through.",
        f"Leave it out, or write `{cls.__name__}(..., parent=None)`.",
    )


def not_callable(cls: type, method: str, found: object) -> LinseyError:
    """Make the error for a `method` that does not name a function of the module."""
    return ArgumentTypeError(
        f"'{cls.__name__}.{method}' must be a callable, got {type(found)}.",
        "`method` says what to run.",
        "Pass the name of a method, for example `method='__call__'`.",
    )


def no_such_axis(axis: object, shape: Shape) -> LinseyError:
    """Make the error for an axis that an array of this shape lacks."""
    return ShapeError(
        f"axis {axis} is out of bounds for array of dimension {len(shape)}, one of"
        f" shape {shape}.",
        "Every array that is mapped must have the axis of the instances or steps.",
        "Use an axis that it has, or `None` (in a scan `broadcast`) if it has none.",
    )


def lengths_differ(lengths: Iterable[int], shapes: Iterable[Shape]) -> LinseyError:
    """Make the error for mapped axes of several lengths."""
    return ShapeError(
        f"Inconsistent batch axis sizes: {set(lengths)}, in arrays of the shapes"
        f" {sorted(shapes, key=str)}.",
        "All mapped axes are iterated over together, so their lengths must be equal.",
        "Pass inputs of the same length, or use the axis `None` for what is shared.",
    )


def no_length(transform: str, option: str) -> LinseyError:
    """Make the error for a transform that cannot tell how many instances it has."""
    return OptionError(
        f"{option} should be specified manually.",
        "No argument and no variable has a mapped axis to take it from.",
        f"Give the number, for example `nn.{transform}(..., {option}=8)`.",
    )


def no_scan_axis(axes: object) -> LinseyError:
    """Make the error for collections that a scan is to stack without an axis."""
    return OptionError(
        f"`variable_axes` of a scan must be indices of axes, not {axes}.",
        "Collections with an axis have one slice for each step.",
        "Use `variable_broadcast` for collections that all steps share.",
    )


def no_pair(result: object, error: Exception) -> LinseyError:
    """Make the error for a scan step that does not return a pair `(carry, y)`."""
    return (MismatchError if isinstance(error, ValueError) else ArgumentTypeError)(
        f"What is scanned must return a pair `(carry, y)`, not {result!r}.",
        "The carry goes to the next step; the values `y` are stacked.",
        "If there is nothing to collect, write `return carry, None`.",
    )


def broadcast_without_check() -> LinseyError:
    """Make the error for a broadcast result that is not checked to be constant."""
    return OptionError(
        "nn.scan run with check_constancy_invariants=False does not support"
        " broadcast non-carry function outputs.",
        "They are computed by the trace that this option leaves out.",
        "Stack them, `out_axes=0`, or leave the option alone.",
    )


def data_dependency(value: Any) -> LinseyError:
    """Make the error for a broadcast value that is computed by a step of the scan."""
    return MismatchError(
        "broadcasted variable has a data dependency on the scan body: a value of shape"
        f" {value.shape} is computed from the carry or from a scanned input.",
        "What is broadcast must be the same at every step, and so must the first value"
        " of a variable that is carried.",
        "Give it a scan axis, `variable_axes={collection: 0}`, or make it a carry.",
    )


def field_without_hash(cls: type, name: str, value: object) -> LinseyError:
    """Make the error for an unhashable field, which cannot key compiled programs."""
    return ArgumentTypeError(
        f"Field `{name}` of {cls.__name__} holds a {type(value).__name__}, which"
        " has no hash.",
        "Compiled programs are found again by the fields of their modules.",
        "Pass arrays to the call; use tuples, strings, numbers as fields.",
    )


def no_streams(what: str, rngs: object) -> LinseyError:
    """Make the error for a value that is not a mapping from streams to keys."""
    return InvalidRngError(
        f"{what} should be a ``jax.PRNGKey`` or a dictionary mapping strings to"
        f" ``jax.PRNGKey``, got {_describe(rngs)}.",
        fix=STREAMS,
    )


def no_key(module: object, rngs: object) -> LinseyError:
    """Make the error for a value that a module is given as keys but is not one."""
    return InvalidRngError(
        f"RNGs should be of shape (2,) or PRNGKey in Module {type(module).__name__},"
        f" but rngs are: {rngs}.",
        fix=STREAMS,
    )


STREAMS = (
    "rngs should be a dictionary mapping strings to `jax.PRNGKey`. Pass for example"
    ' `{"dropout": jax.random.key(0)}`.'
)


def no_node(scope: Any, col: str) -> LinseyError:
    """Make the error for a leaf found in place of the variables of a scope."""
    if scope.has_flag("initializing"):
        return NameInUseError("submodule", scope.path[-1], scope.parent.path_text)
    return ScopeVariableNotFoundError("*", col, scope.path_text)


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_describe(v)}" for k, v in value.items()) + "}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return repr(value)
