"""Flat versions of nested dictionaries, and traversals, which select parts to update.

`flatten_dict` turns nested dictionaries into one whose keys are paths, and
`unflatten_dict` undoes this. A `Traversal` selects some values inside a structure: it
can `iterate` over them and return an `update`d copy of the whole. Traversals are built
step by step from `t_identity`, which selects the whole structure.

Example:
    >>> flatten_dict({"dense": {"kernel": 1, "bias": 2}}, sep="/")
    {'dense/kernel': 1, 'dense/bias': 2}
    >>> biases = t_identity.each()["bias"]
    >>> layers = [{"kernel": 1, "bias": 2}, {"kernel": 3, "bias": 4}]
    >>> list(biases.iterate(layers))
    [2, 4]
    >>> biases.update(lambda x: 0, layers)
    [{'kernel': 1, 'bias': 0}, {'kernel': 3, 'bias': 0}]
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

import jax

from linsey import struct
from linsey.errors import ArgumentTypeError, MismatchError, OptionError
from linsey.errors.misuse import report_misuse

T = TypeVar("T")

Path = tuple[Any, ...]
Update = Callable[[Any], object]


@struct.dataclass
class _EmptyNode:
    """A placeholder for an empty dictionary in a flat one."""


empty_node = _EmptyNode()


@overload
def flatten_dict(
    xs: Mapping[Any, object],
    keep_empty_nodes: bool = False,
    is_leaf: Callable[[Path, Any], bool] | None = None,
    sep: None = None,
) -> dict[Path, Any]: ...
@overload
def flatten_dict(
    xs: Mapping[Any, object],
    keep_empty_nodes: bool = False,
    is_leaf: Callable[[Path, Any], bool] | None = None,
    *,
    sep: str,
) -> dict[str, Any]: ...
def flatten_dict(
    xs: Mapping[Any, object],
    keep_empty_nodes: bool = False,
    is_leaf: Callable[[Path, Any], bool] | None = None,
    sep: str | None = None,
) -> dict[Any, Any]:
    """Return nested dictionaries as one dictionary with paths as keys.

    Args:
        xs: nested dictionaries, plain or frozen.
        keep_empty_nodes: whether to represent an empty dictionary by `empty_node`. If
            `False`, it is left out and cannot be restored.
        is_leaf: called with a path and the value there, which may be a dictionary;
            returns whether the value is a leaf. It is first called with `xs` itself.
        sep: joins the keys of a path, which must be strings. If `None`, paths are
            tuples.

    Returns:
        A dictionary from paths to values, in the order of the nested ones.

    Raises:
        ArgumentTypeError: if `xs` is not a dictionary.
        OptionError: if two paths become the same text when joined, because a key
            contains the separator; it is a `ValueError`.

    Example:
        >>> flatten_dict({"a": {"b": 1, "c": {}}}, keep_empty_nodes=True)
        {('a', 'b'): 1, ('a', 'c'): _EmptyNode()}
    """
    if not isinstance(xs, Mapping):
        raise ArgumentTypeError(
            f"expected (frozen)dict; got {type(xs)}",
            "Only dictionaries have keys that make up paths.",
            "Flatten the dictionary inside, such as `variables['params']`.",
        )
    flat: dict[Any, object] = {}

    def put(path: Path, value: object) -> None:
        key = path if sep is None else sep.join(path)
        if key in flat:
            report_misuse(_same_key(key, path, sep))
        flat[key] = value

    def visit(path: Path, value: object) -> None:
        if not isinstance(value, Mapping) or (is_leaf and is_leaf(path, value)):
            put(path, value)
        elif value:
            for key, child in value.items():
                visit((*path, key), child)
        elif keep_empty_nodes and path:
            put(path, empty_node)

    visit((), xs)
    return flat


def _same_key(joined: object, path: Path, sep: str | None) -> OptionError:
    inside = [key for key in path if sep and sep in key] or [joined]
    return OptionError(
        f"Two values have the path {joined!r}: a key holds the separator {sep!r} "
        f"(the later one is at {path}).",
        "Joined with the separator both would have one key, and one would be lost.",
        f"Pass another `sep`, `None` for tuples, or rename {inside[0]!r}.",
    )


def unflatten_dict(xs: Mapping[Any, object], sep: str | None = None) -> dict[Any, Any]:
    """Return the nested dictionaries that `flatten_dict` flattened.

    Args:
        xs: a dictionary with paths as keys.
        sep: the separator that joins the keys. If `None`, paths are tuples.

    Raises:
        ArgumentTypeError: if `xs` is not a dictionary, or a path leads through a value.

    Example:
        >>> unflatten_dict({"a/b": 1, "a/c": 2}, sep="/")
        {'a': {'b': 1, 'c': 2}}
    """
    if not isinstance(xs, Mapping):
        raise ArgumentTypeError(
            f"input is not a dict; it is a {type(xs)}",
            "The keys of a dictionary are the paths to build.",
            "Pass the result of `flatten_dict`.",
        )
    nested: dict[Any, Any] = {}
    for path, value in xs.items():
        keys = path if sep is None else path.split(sep)
        node = nested
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ArgumentTypeError(
                    f"The path {path!r} leads through the value of {key!r}",
                    "A key holds a value or a dictionary, and cannot hold both.",
                    "Rename one of the two paths, or remove it.",
                )
        node[keys[-1]] = {} if isinstance(value, _EmptyNode) else value
    return nested


def path_aware_map(
    f: Callable[[Path, Any], object], nested_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Apply a function of path and value to all values of nested dictionaries.

    Args:
        f: called with the path, a tuple of keys, and the value.
        nested_dict: nested dictionaries, plain or frozen.

    Returns:
        Nested dictionaries with the results; empty dictionaries are kept.

    Example:
        >>> path_aware_map(lambda path, x: path[-1], {"a": {"b": 1}, "c": 2})
        {'a': {'b': 'b'}, 'c': 'c'}
    """
    flat = flatten_dict(nested_dict, keep_empty_nodes=True)
    for path, value in flat.items():
        flat[path] = value if isinstance(value, _EmptyNode) else f(path, value)
    return unflatten_dict(flat)


class Traversal(abc.ABC):
    """A selection of values inside a structure, independent of the structure itself.

    A subclass defines `update` and `iterate`.
    """

    @abc.abstractmethod
    def update(self, fn: Update, inputs: T) -> T:
        """Return a copy of a structure with a function applied to the values.

        Args:
            fn: called with a value; returns the new one.
            inputs: the structure.
        """

    @abc.abstractmethod
    def iterate(self, inputs: object) -> Iterator[Any]:
        """Return the values in a structure, in the order in which they are updated.

        Args:
            inputs: the structure.
        """

    def set(self, values: Iterable[object], inputs: T) -> T:
        """Return a copy of a structure with new values, assigned one by one.

        Args:
            values: as many as `iterate` returns.
            inputs: the structure.

        Raises:
            MismatchError: if there are too few values or too many.
        """
        remaining = list(values)[::-1]
        count = len(remaining)

        def take(_: object) -> object:
            if not remaining:
                raise self._wrong_count("Not enough", count)
            return remaining.pop()

        outputs = self.update(take, inputs)
        if remaining:
            raise self._wrong_count("Too many", count)
        return outputs

    def _wrong_count(self, judgement: str, count: int) -> MismatchError:
        return MismatchError(
            f"{judgement} values provided",
            f"There are {count}; `set` takes one for each value that it selects.",
            "Pass as many as `list(traversal.iterate(inputs))` has.",
        )

    def compose(self, other: Traversal) -> Traversal:
        """Select the values of `other` inside the values of this traversal."""
        return TraverseCompose(self, other)

    def merge(self, *traversals: Traversal) -> Traversal:
        """Select the values of several traversals inside those of this one."""
        return self.compose(TraverseMerge(*traversals))

    def each(self) -> Traversal:
        """Select the items of lists and tuples, and the values of dictionaries."""
        return self.compose(TraverseEach())

    def tree(self) -> Traversal:
        """Select the leaves of pytrees."""
        return self.compose(TraverseTree())

    def filter(self, fn: Callable[[Any], bool]) -> Traversal:
        """Select the values for which a function returns true."""
        return self.compose(TraverseFilter(fn))

    def __getattr__(self, attr: str) -> Traversal:
        if attr.startswith("__"):
            # Protocols such as copying and pickling look these up.
            raise AttributeError(attr)
        return self.compose(TraverseAttr(attr))

    def __getitem__(self, key: object) -> Traversal:
        return self.compose(TraverseItem(key))


class TraverseId(Traversal):
    """The structure itself."""

    def update(self, fn: Update, inputs: object) -> Any:  # noqa: D102
        return fn(inputs)

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        yield inputs


t_identity = TraverseId()


class TraverseMerge(Traversal):
    """The values of several traversals, one after the other."""

    def __init__(self, *traversals: Traversal) -> None:
        self._traversals = traversals

    def update(self, fn: Update, inputs: T) -> T:  # noqa: D102
        for traversal in self._traversals:
            inputs = traversal.update(fn, inputs)
        return inputs

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        for traversal in self._traversals:
            yield from traversal.iterate(inputs)


class TraverseCompose(Traversal):
    """The values of one traversal inside those of another."""

    def __init__(self, x: Traversal, y: Traversal) -> None:
        self._x, self._y = x, y

    def update(self, fn: Update, inputs: T) -> T:  # noqa: D102
        return self._x.update(lambda value: self._y.update(fn, value), inputs)

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        for value in self._x.iterate(inputs):
            yield from self._y.iterate(value)


class TraverseFilter(Traversal):
    """The structure itself if a function of it is true, otherwise nothing."""

    def __init__(self, fn: Callable[[Any], bool]) -> None:
        self._fn = fn

    def update(self, fn: Update, inputs: object) -> Any:  # noqa: D102
        return fn(inputs) if self._fn(inputs) else inputs

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        if self._fn(inputs):
            yield inputs


class TraverseAttr(Traversal):
    """The value of an attribute of a dataclass, a named tuple or another object."""

    def __init__(self, attr: str) -> None:
        self._attr = attr

    def update(self, fn: Update, inputs: Any) -> Any:  # noqa: D102
        changes = {self._attr: fn(getattr(inputs, self._attr))}
        if _is_namedtuple(inputs):
            return inputs._replace(**changes)
        if dataclasses.is_dataclass(inputs):
            return dataclasses.replace(inputs, **changes)  # pyrefly: ignore
        outputs = copy.copy(inputs)
        setattr(outputs, self._attr, changes[self._attr])
        return outputs

    def iterate(self, inputs: Any) -> Iterator[object]:  # noqa: D102
        yield getattr(inputs, self._attr)


class TraverseItem(Traversal):
    """The item of a dictionary, a list or a tuple, or a slice of a sequence."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def update(self, fn: Update, inputs: Any) -> Any:  # noqa: D102
        key = self._key
        if isinstance(inputs, Mapping) and not isinstance(inputs, dict):
            return inputs.copy({key: fn(inputs[key])})  # pyrefly: ignore
        outputs: Any = list(inputs) if isinstance(inputs, tuple) else copy.copy(inputs)
        if isinstance(key, slice):
            outputs[key] = [fn(item) for item in inputs[key]]
        else:
            outputs[key] = fn(inputs[key])
        return _like_tuple(inputs, outputs) if isinstance(inputs, tuple) else outputs

    def iterate(self, inputs: Any) -> Iterator[object]:  # noqa: D102
        if isinstance(self._key, slice):
            yield from inputs[self._key]
        else:
            yield inputs[self._key]


class TraverseEach(Traversal):
    """The items of a list or a tuple, or the values of a dictionary."""

    def update(self, fn: Update, inputs: Any) -> Any:  # noqa: D102
        self._check(inputs)
        if isinstance(inputs, Mapping):
            cls: Any = type(inputs)
            return cls({key: fn(value) for key, value in inputs.items()})
        outputs = [fn(value) for value in inputs]
        return _like_tuple(inputs, outputs) if isinstance(inputs, tuple) else outputs

    def iterate(self, inputs: Any) -> Iterator[object]:  # noqa: D102
        self._check(inputs)
        yield from inputs.values() if isinstance(inputs, Mapping) else inputs

    def _check(self, inputs: object) -> None:
        if not isinstance(inputs, list | tuple | Mapping):
            raise OptionError(
                "Only the entries of a list or tuple can be traversed, or the values "
                f"of a dictionary; found {type(inputs)}.",
                "Values of other types have no entries.",
                "Select one part before, `t_identity['layers'].each()`, or use "
                "`.tree()` for the leaves of a pytree.",
            )


class TraverseTree(Traversal):
    """The leaves of a pytree."""

    def update(self, fn: Update, inputs: T) -> T:  # noqa: D102
        return jax.tree.map(fn, inputs)

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        yield from jax.tree.leaves(inputs)


class ModelParamTraversal(Traversal):
    """The values of nested dictionaries whose paths a function accepts.

    Args:
        filter_fn: called with a path such as `/dense/kernel` and the value there.

    Example:
        >>> kernels = ModelParamTraversal(lambda path, x: "kernel" in path)
        >>> kernels.update(lambda x: x * 2, {"dense": {"kernel": 1, "bias": 2}})
        {'dense': {'bias': 2, 'kernel': 2}}
    """

    def __init__(self, filter_fn: Callable[[str, Any], bool]) -> None:
        self._filter_fn = filter_fn

    def update(self, fn: Update, inputs: Any) -> Any:  # noqa: D102
        flat = {
            path: fn(value) if self._accepts(path, value) else value
            for path, value in self._flat(inputs)
        }
        nested = unflatten_dict(flat)
        return nested if isinstance(inputs, dict) else type(inputs)(nested)

    def iterate(self, inputs: object) -> Iterator[object]:  # noqa: D102
        for path, value in self._flat(inputs):
            if self._accepts(path, value):
                yield value

    def _accepts(self, path: Path, value: object) -> bool:
        if isinstance(value, _EmptyNode):
            return False
        return self._filter_fn("/" + "/".join(map(str, path)), value)

    def _flat(self, inputs: object) -> list[tuple[Path, object]]:
        if not isinstance(inputs, Mapping):
            raise OptionError(
                "Can only traverse a flax Model instance or a nested dict, not "
                f"{type(inputs)}",
                "The filter function is called with paths of keys.",
                "Pass the parameters, such as `variables['params']`.",
            )
        flat = flatten_dict(inputs, keep_empty_nodes=True)
        return sorted(flat.items(), key=lambda item: item[0])


def _is_namedtuple(value: object) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _like_tuple(original: tuple[Any, ...], items: list[object]) -> Any:
    """Return the items as a tuple of the same kind."""
    kind: Callable[..., Any] = type(original)
    return kind(*items) if _is_namedtuple(original) else kind(items)
