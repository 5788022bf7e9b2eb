"""Names of arrays, in flat files and in trees.

In a tree, a name joins keys with `/`, like the paths of `linsey.checkpoint`: a `/` in a
key is written as `~1`, and a `~` as `~0`. Names in flat files are not escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from linsey.checkpoint.trees import MAX_DEPTH, keys_of, nest
from linsey.errors import InputError, OptionError
from linsey.files import PathLike
from linsey.specs import escape

MAX_VALUES = 2**17
"""The largest number of values in a tree."""
MAX_NAME = 1024
"""The largest length of a name; each value has its own name."""


def flat(
    tree: object,
    is_array: Callable[[object], bool],
    file: PathLike,
    spelled: Callable[[str], str] = escape,
) -> dict[str, Any]:
    """Find the arrays in nested dictionaries, lists and tuples.

    Values that are not arrays, such as numbers, text and `None`, are left out.

    Args:
        tree: the tree that was read. A part may occur in it many times, even in itself.
        is_array: tells which leaves are arrays.
        file: the file of the tree, for messages.
        spelled: function from a key to its form in a name.

    Returns:
        The arrays by name, in the order of the tree.

    Raises:
        InputError: the tree is nested too deeply, has too many values or a name that is
            too long, or two arrays have the same name.

    Example:
        >>> flat({"a": [1.5, {"b/c": 2}], "d": 3}, lambda x: type(x) is int, "x.pt")
        {'a/1/b~1c': 2, 'd': 3}
    """
    found: dict[str, Any] = {}
    waiting, count = [("", 0, tree)], 0
    while waiting:
        name, depth, value = waiting.pop()
        if len(name) > MAX_NAME:
            expected = f"at most {MAX_NAME:,} characters"
            raise InputError("a name too long", file=file, key=name, expected=expected)
        if is_array(value):
            if name in found:
                raise InputError("two arrays have this name", file=file, key=name)
            found[name] = value
            continue
        entries = list(_entries(value))
        count += len(entries)
        if count > MAX_VALUES:
            expected = f"at most {MAX_VALUES:,}"
            raise InputError("too many values", file=file, expected=expected)
        if entries and depth == MAX_DEPTH:
            expected = f"at most {MAX_DEPTH} levels"
            raise InputError("nested too deeply", file=file, expected=expected)
        above = f"{name}/" if depth else ""
        waiting += [(above + spelled(k), depth + 1, v) for k, v in reversed(entries)]
    return found


def _entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(index), item) for index, item in enumerate(value))


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Make a tree from arrays by name: the inverse of `flat`.

    Raises:
        OptionError: a name is not a path, or two names exclude each other.

    Example:
        >>> unflatten({"params/Dense_0/bias": 1, "params/a~1b": 2})
        {'params': {'Dense_0': {'bias': 1}, 'a/b': 2}}
    """
    for name in arrays:
        path = "/".join(map(escape, keys_of(name)))
        if path != name:
            raise OptionError(
                f"The name `{name}` has a `~`, and no 0 or 1 after it.",
                "A name joins the keys of a tree, in which `~1` stands for `/`.",
                f"Name the array `{path}`.",
            )
    try:
        return nest(arrays)
    except ValueError as error:
        raise OptionError(
            f"The name `{error}` goes on where another one ends, or has more than "
            f"{MAX_DEPTH} keys.",
            "Names are paths in a tree, and an array has nothing below it.",
            "Rename one of the two arrays.",
        ) from None
