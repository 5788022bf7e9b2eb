"""Descriptions of the leaves of a tree, and the differences between two trees.

A leaf is described by an `ArraySpec`, or by a word if it is not an array. `differences`
compares two trees of such descriptions, or of the values themselves, and lists at once
all differences that the strict readers of linsey refuse.

Example:
    >>> import numpy as np
    >>> expected = {"w": np.zeros((2, 3), np.float32), "scale": np.ones(3), "step": 0}
    >>> found = {"w": np.zeros((3, 2), np.float32), "gamma": np.ones(3)}
    >>> for difference in differences(expected, found):
    ...     print(difference)
    `w` is float32[3,2], not float32[2,3]
    `scale` is called `gamma`
    `step` is missing
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from linsey.errors.base import printable
from linsey.schema import Between

__all__ = [
    "ArraySpec",
    "Difference",
    "Spec",
    "differences",
    "escape",
    "flatten",
    "spec_of",
]

MAX_ELEMENTS = 2**40
Shape = Annotated[tuple[Annotated[int, Between(0, MAX_ELEMENTS)], ...], Between(0, 32)]
"""The type of a shape, with bounds on the sizes that a file may contain."""
NOTHING = "nothing"
DICTIONARY = "a dictionary"
_NUMBERS: dict[str, Any] = {
    "bool": np.bool_,
    "int": np.integer,
    "float": np.floating,
    "complex": np.complexfloating,
}
_WORDS: dict[type, str] = {
    str: "text",
    bytes: "bytes",
    type(None): NOTHING,
    list: "a list",
}


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of an array.

    Attributes:
        shape: the lengths of its axes.
        dtype: the name of its dtype in NumPy or JAX, including those of random keys.
    """

    shape: Shape
    dtype: str

    @classmethod
    def of(cls, array: Any) -> ArraySpec:
        """Describe anything that has a shape and a dtype.

        Example:
            >>> print(ArraySpec.of(np.zeros((3, 4), np.float32)))
            float32[3,4]
        """
        array = array if hasattr(array, "dtype") else np.asarray(array)
        dtype = array.dtype
        name = dtype.name if hasattr(dtype, "name") else np.dtype(dtype).name
        return cls(tuple(array.shape), name)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


Spec = ArraySpec | str
"""An array, or a word: "int", "text", "nothing" (`None`, an empty dictionary), ..."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference between the tree that was expected and the one that was found.

    Attributes:
        kind: `"shape"`, `"dtype"`, `"type"`, `"missing"`, `"extra"` or `"renamed"`.
        path: names joined by `/`; inside a name, `~1` stands for `/` and `~0` for `~`.
        expected: what should be there; `None` for an extra entry.
        found: what is there; `None` for a missing entry; the new name of a renamed one.
    """

    kind: str
    path: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        texts = {
            "missing": f"`{self.path}` is missing",
            "extra": f"`{self.path}` is not expected",
            "renamed": f"`{self.path}` is called `{self.found}`",
        }
        is_other = f"`{self.path}` is {self.found}, not {self.expected}"
        return printable(texts.get(self.kind, is_other))


def spec_of(value: object) -> Spec:
    """Describe a leaf: a value, or a description of one.

    Example:
        >>> spec_of(1.5), spec_of(None), str(spec_of(np.ones(2)))
        ('float', 'nothing', 'float64[2]')
    """
    if isinstance(value, ArraySpec):
        return value
    if isinstance(value, Mapping):
        return DICTIONARY if value else NOTHING
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return ArraySpec.of(value)
    return _WORDS.get(type(value), type(value).__name__)


def flatten(tree: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf; an empty dictionary counts as a leaf.

    Example:
        >>> dict(flatten({"params": {"Dense_0": {"bias": 1}}, "batch_stats": {}}))
        {'params/Dense_0/bias': 1, 'batch_stats': {}}
    """
    waiting = [(path, tree)]  # not recursive: a tree from a file may be deeply nested
    while waiting:
        path, tree = waiting.pop()
        if not isinstance(tree, Mapping) or not tree:
            yield path, tree
            continue
        entries = [(_joined(path, name), value) for name, value in tree.items()]
        waiting += reversed(entries)


def differences(expected: object, found: object, path: str = "") -> list[Difference]:
    """List the differences between a tree and the expected one.

    A Python number matches an array without axes of any dtype of its kind. An entry
    counts as renamed if exactly one equal entry has another name in the same
    dictionary.

    Args:
        expected: nested mappings of arrays, their descriptions, or other leaves.
        found: the same.
        path: the path of both trees.
    """
    if not (isinstance(expected, Mapping) and isinstance(found, Mapping)):
        return _of_leaves(spec_of(expected), spec_of(found), path)
    if not expected and not found:
        return []
    theirs = {str(name): value for name, value in found.items()}
    ours = {str(name): value for name, value in expected.items()}
    missing = {name: ours[name] for name in ours if name not in theirs}
    extra = {name: theirs[name] for name in theirs if name not in ours}
    renamed = _renamed(missing, extra)
    listed: list[Difference] = []
    for name, value in ours.items():
        at = _joined(path, name)
        if name in theirs:
            listed += differences(value, theirs[name], at)
        elif name in renamed:
            other = _joined(path, renamed[name])
            listed.append(Difference("renamed", at, at, other))
        else:
            listed += _each("missing", value, at)
    for name, value in extra.items():
        if name not in renamed.values():
            listed += _each("extra", value, _joined(path, name))
    return listed


def _each(kind: str, tree: object, path: str) -> Iterator[Difference]:
    for at, leaf in flatten(tree, path):
        spec = str(spec_of(leaf))
        sides = (spec, None) if kind == "missing" else (None, spec)
        yield Difference(kind, at, *sides)


def _of_leaves(expected: Spec, found: Spec, path: str) -> list[Difference]:
    if expected == found or _is_number(expected, found) or _is_number(found, expected):
        return []
    kind = "type"
    if isinstance(expected, ArraySpec) and isinstance(found, ArraySpec):
        kind = "dtype" if expected.shape == found.shape else "shape"
    return [Difference(kind, path, str(expected), str(found))]


def _is_number(number: Spec, array: Spec) -> bool:
    """Tell whether a Python number can take the place of an array."""
    if number not in _NUMBERS or isinstance(array, str) or array.shape:
        return False
    import jax  # the command describes checkpoints without importing it

    try:
        return jax.numpy.issubdtype(np.dtype(array.dtype), _NUMBERS[str(number)])
    except TypeError:  # the dtype of random keys
        return False


def _renamed(missing: dict[str, Any], extra: dict[str, Any]) -> dict[str, str]:
    """Find the new names of missing entries, if they are unambiguous."""
    names: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, entries in enumerate((missing, extra)):
        for name, value in entries.items():
            names[_outline(value)][side].append(name)
    alone = (pair for pair in names.values() if len(pair[0]) == len(pair[1]) == 1)
    pairs = ((old, new) for (old,), (new,) in alone)
    return {old: new for old, new in pairs if not differences(missing[old], extra[new])}


def _outline(tree: object) -> Hashable:
    """Return a key that equal trees share; a number equals an array without axes."""
    specs = ((path, spec_of(leaf)) for path, leaf in flatten(tree))
    return frozenset(
        (path, "number" if spec in _NUMBERS or _is_scalar(spec) else spec)
        for path, spec in specs
    )


def _is_scalar(spec: Spec) -> bool:
    return isinstance(spec, ArraySpec) and not spec.shape


def _joined(path: str, name: object) -> str:
    text = escape(str(name))
    return f"{path}/{text}" if path else text


def escape(key: str) -> str:
    """Escape a key for a path, as in JSON pointers (RFC 6901).

    Example:
        >>> escape("a/b~c")
        'a~1b~0c'
    """
    return key.replace("~", "~0").replace("/", "~1")
