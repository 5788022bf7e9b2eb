"""Names of arrays: of those in a flat file, and of leaves of a tree.

A tree has keys, and a name joins them with `/`, as paths of `linsey.checkpoint` do: a
`/` inside of a key is `~1`, and a `~` is `~0`. In a file without a tree a name is what
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from linsey.checkpoint.trees import MAX_DEPTH, keys_of, nest
from linsey.errors import InputError, OptionError
from linsey.files import PathLike
from linsey.specs import escape

MAX_VALUES = 2**17
"""How many values a tree may have."""
MAX_NAME = 1024
"""How long a name may be: each value has one of its own."""


def flat(
    tree: object,
    is_array: Callable[[object], bool],
    file: PathLike,
    spelled: Callable[[str], str] = escape,
) -> dict[str, Any]:
    """Find the arrays in nested dictionaries, lists and tuples.

    Numbers, text, `None` and the like are left out: they are no arrays.

    Args:
        tree: what was read; the same part may be in it many times, or in itself.
        is_array: tells which leaves count.
        file: where it is from, for messages.
        spelled: how a key stands in a name.

    Returns:
        The arrays by name, in the order of the tree.

    Raises:
        InputError: it is nested too deeply, has too many values, or two of one name.

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
    """Make a tree of arrays by name: the inverse of `flat`.

    Raises:
        OptionError: a name is no path, or two of them exclude each other.

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
