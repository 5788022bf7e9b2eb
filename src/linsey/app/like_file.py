"""Names, shapes, dtypes and order of another file: `linsey convert --like FILE`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from linsey.errors import InputError
from linsey.weights.groups import is_counter
from linsey.weights.matching import owner_of
from linsey.weights.translation import essential

_MOST = 6  # arrays that are listed
Arrays = Mapping[str, np.ndarray]


def arranged(arrays: Arrays, like: Arrays, source: Path, file: Path) -> dict[str, Any]:
    """Give arrays the order, shapes and dtypes of others with the same names.

    Args:
        arrays: the arrays by name.
        like: arrays with these names. Only axes of size 1 may differ.
        source: the file of `arrays`, for messages.
        file: the file of `like`.

    Raises:
        InputError: names occur in one of them only, shapes differ, or a dtype cannot
            hold the values.
    """
    missing = [name for name in like if name not in arrays]
    extra = [name for name in arrays if name not in like]
    if missing or extra:
        lines = [
            f"{len(names)} {what}: {_listed(names, others)}"
            for names, others, what in (
                (missing, extra, f"of {file} not in {source}"),
                (extra, missing, f"of {source} not in {file}"),
            )
            if names
        ]
        hint = "give --model NAME, whose layers say which arrays correspond"
        problem = f"the names differ: {'; '.join(lines)}"
        raise InputError(problem, file=source, key="--like", hint=hint)
    shapes = [
        f"`{name}` {arrays[name].shape} instead of {wanted.shape}"
        for name, wanted in like.items()
        if essential(arrays[name].shape) != essential(wanted.shape)
    ]
    if shapes:
        hint = "give --model NAME, which turns layouts, or the file of this model"
        problem = f"{len(shapes)} shapes differ: {_listed(shapes)}"
        raise InputError(problem, file=source, key="--like", hint=hint)
    found = {}
    for name, wanted in like.items():
        array = arrays[name]
        with np.errstate(over="ignore", invalid="ignore"):
            found[name] = array.reshape(wanted.shape).astype(wanted.dtype)
    check_values(arrays, found, source, file)
    return found


def without_counts(arrays: Arrays) -> dict[str, np.ndarray]:
    """Set the counters of updates to 0: those of a pattern are not those of weights."""
    return {n: np.zeros_like(a) if is_counter(n) else a for n, a in arrays.items()}


def entries_for(
    mapping: Mapping[str, Any], arrays: Arrays, other: Arrays
) -> dict[str, Any]:
    """Return the entries of `--map` for one of two files.

    Entries that name nothing in either file are returned for both, to be refused.

    Example:
        >>> mapping, one = {"a": "x", "b": "y"}, {"a.weight": np.ones(1)}
        >>> entries_for(mapping, one, {"b.weight": np.ones(1)})
        {'a': 'x'}
    """
    return {
        key: value
        for key, value in mapping.items()
        if _names_any(key, arrays) or not _names_any(key, other)
    }


def check_values(before: Arrays, after: Arrays, source: Path, file: Path) -> None:
    """Refuse dtypes that cannot hold the values.

    Args:
        before: the arrays with their own dtypes.
        after: the arrays with the dtypes of `file`, with the same names.
        source: the file of `before`, for messages.
        file: the file with the dtypes.

    Raises:
        InputError: integers changed, or floats by more than rounding.
    """
    for name, array in before.items():
        if not _are_near(array, after[name].reshape(array.shape)):
            raise InputError(
                f"the dtypes of {file} cannot hold its values",
                file=source, key=name, hint="name a file of wider dtypes as --like",
            )  # fmt: skip


def _are_near(before: np.ndarray, after: np.ndarray) -> bool:
    if not jnp.issubdtype(before.dtype, jnp.inexact):
        return np.array_equal(before, after)
    kind = complex if jnp.issubdtype(before.dtype, np.complexfloating) else float
    one, other = before.astype(kind), after.astype(kind)
    largest = float(np.abs(one[np.isfinite(one)]).max(initial=0))
    # More than the rounding of any format with three bits or more after the first.
    return np.allclose(one, other, rtol=0, atol=0.1 * largest, equal_nan=True)


def _names_any(key: str, arrays: Arrays) -> bool:
    above = owner_of(key)
    return any(
        name == key or owner_of(name) == above or name.startswith((f"{above}.",
                                                                  f"{above}/"))
        for name in arrays
    )  # fmt: skip


def _listed(names: list[str], others: Iterable[str] = ()) -> str:
    shown = []
    for name in names[:_MOST]:
        near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.7)
        quoted = name if name.startswith("`") else f"`{name}`"
        shown.append(quoted + (f" (most like `{near[0]}`)" if near else ""))
    more = len(names) - _MOST
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
