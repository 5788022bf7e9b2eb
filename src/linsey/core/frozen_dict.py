"""An immutable dictionary that is a pytree, for variables that must not change.

A `FrozenDict` owns one plain nested dictionary. Its structure is copied once, at
construction; from then on all readers share it: an inner dictionary is wrapped when it
is read, never copied. Leaves are not copied at all.

The functions `copy`, `pop`, `freeze` and `unfreeze` work on frozen and on plain
variables alike. None of them changes its argument.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterable, Iterator, KeysView, Mapping, ValuesView
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from linsey import serialization
from linsey.errors import ArgumentTypeError, FrozenDictIsImmutableError

__all__ = ["FrozenDict", "copy", "freeze", "pop", "pretty_repr", "unfreeze"]

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")


class FrozenKeysView(KeysView[K]):
    """The keys of a frozen dictionary."""

    def __repr__(self) -> str:
        return f"frozen_dict_keys({list(self)})"


class FrozenValuesView(ValuesView[V]):
    """The values of a frozen dictionary."""

    def __repr__(self) -> str:
        return f"frozen_dict_values({list(self)})"


class FrozenDict(Mapping[K, V]):
    """An immutable mapping whose inner dictionaries are immutable too.

    It takes the same arguments as `dict`. It is equal to a plain dictionary with the
    same items, hashable if its leaves are, and a pytree with sorted keys, like `dict`.

    Example:
        >>> variables = FrozenDict({"params": {"bias": 0.0}, "batch_stats": {}})
        >>> rest, params = variables.pop("params")
        >>> params
        FrozenDict({
            bias: 0.0,
        })
        >>> rest
        FrozenDict({
            batch_stats: {},
        })
        >>> params.copy({"bias": 1.0}) == {"bias": 1.0}
        True
    """

    __slots__ = ("_dict", "_hash")

    def __init__(
        self, *args: Any, __unsafe_skip_copy__: bool = False, **kwargs: Any
    ) -> None:
        if len(args) == 1 and isinstance(args[0], FrozenDict) and not kwargs:
            self._dict: dict[K, V] = args[0]._dict
        else:
            items: dict[K, V] = dict(*args, **kwargs)
            self._dict = items if __unsafe_skip_copy__ else _owned(items)
        self._hash: int | None = None

    def __getitem__(self, key: K) -> V:
        value = self._dict[key]
        return _wrap(value) if isinstance(value, dict) else value  # pyrefly: ignore

    def __setitem__(self, key: K, value: V) -> None:
        raise FrozenDictIsImmutableError(key)

    def __delitem__(self, key: K) -> None:
        raise FrozenDictIsImmutableError(key, deletes=True)

    def __contains__(self, key: object) -> bool:
        return key in self._dict

    def __iter__(self) -> Iterator[K]:
        return iter(self._dict)

    def __len__(self) -> int:
        return len(self._dict)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenDict):
            return self._dict == other._dict
        if isinstance(other, Mapping):
            return self._dict == dict(other)
        return NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.items()))
        return self._hash

    def __repr__(self) -> str:
        return self.pretty_repr()

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenDict, (self.unfreeze(),)

    def keys(self) -> FrozenKeysView[K]:
        """Return the keys."""
        return FrozenKeysView(self)

    def values(self) -> FrozenValuesView[V]:
        """Return the values; inner dictionaries are frozen."""
        return FrozenValuesView(self)

    def pretty_repr(self, num_spaces: int = 4) -> str:
        """Return this dictionary as text, indented by `num_spaces` per level."""
        return f"FrozenDict({pretty_repr(self._dict, num_spaces)})"

    def copy(
        self, add_or_replace: Mapping[K, V] = MappingProxyType({})
    ) -> FrozenDict[K, V]:
        """Return a new dictionary with the items of `add_or_replace` inserted."""
        return _wrap({**self._dict, **_owned(dict(add_or_replace))})

    def pop(self, key: K) -> tuple[FrozenDict[K, V], V]:
        """Return this dictionary without `key`, and the value of `key`."""
        value = self[key]
        return _wrap({k: v for k, v in self._dict.items() if k != key}), value

    def unfreeze(self) -> dict[K, V]:
        """Return a copy that consists of plain dictionaries and may be changed."""
        return unfreeze(self)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[object, V], ...], Hashable]:
        """Return the children with their path keys, and the sorted keys."""
        children, keys = _flatten(self)
        return tuple(zip(map(jax.tree_util.DictKey, keys), children, strict=True)), keys

    @classmethod
    def tree_unflatten(cls, keys: Any, values: Iterable[V]) -> FrozenDict[Any, V]:
        """Build a dictionary from sorted keys and their values."""
        return _wrap(dict(zip(keys, values, strict=True)))


def _flatten(tree: FrozenDict[Any, V]) -> tuple[list[V], tuple[Any, ...]]:
    # Children are the plain dictionaries inside: only the outermost level of a
    # tree is flattened by Python code.
    items = tree._dict
    keys = tuple(sorted(items))
    return [items[key] for key in keys], keys


jax.tree_util.register_pytree_with_keys(
    FrozenDict, FrozenDict.tree_flatten_with_keys, FrozenDict.tree_unflatten, _flatten
)


serialization.register_serialization_state(
    FrozenDict,
    lambda tree: serialization.to_state_dict(tree._dict),
    lambda tree, state: _wrap(serialization.restore_dict(tree._dict, state)),
)


def _wrap(items: dict[K, V]) -> FrozenDict[K, V]:
    """Freeze a dictionary that no other code will change, without a copy."""
    frozen = FrozenDict.__new__(FrozenDict)
    frozen._dict, frozen._hash = items, None
    return frozen


def _owned(tree: object) -> Any:
    """Copy the structure of plain dictionaries; frozen parts are shared."""
    if isinstance(tree, FrozenDict):
        return tree._dict
    if not isinstance(tree, dict):
        return tree
    return {key: _owned(value) for key, value in tree.items()}


def freeze(xs: Mapping[K, V]) -> FrozenDict[K, V]:
    """Return a frozen copy of a nested dictionary.

    Args:
        xs: a mapping; inner dictionaries are frozen too.

    Returns:
        A dictionary that later changes of `xs` do not affect.

    Example:
        >>> freeze({"a": {"b": 1}})["a"]["b"]
        1
    """
    return FrozenDict(xs)


def unfreeze(x: FrozenDict[K, V] | dict[K, V]) -> dict[K, V]:
    """Return a plain copy of a nested dictionary, frozen or not.

    Args:
        x: nested dictionaries; anything else is returned unchanged.

    Returns:
        New dictionaries at all levels, with the same leaves; those that were frozen
        have sorted keys.

    Example:
        >>> unfreeze(freeze({"a": {"b": 1}}))
        {'a': {'b': 1}}
    """
    if isinstance(x, FrozenDict):
        return in_order(x._dict)
    if not isinstance(x, dict):
        return x
    return {key: unfreeze(value) for key, value in x.items()}  # pyrefly: ignore


def in_order(tree: T) -> T:
    """Copy the containers of a tree, sorting keys as every JAX transform does."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return jax.tree_util.tree_unflatten(structure, leaves)


AnyDict = FrozenDict[Any, Any] | dict[Any, Any]


def copy(x: AnyDict, add_or_replace: AnyDict = FrozenDict({})) -> AnyDict:  # noqa: B008
    """Return a copy with some items added or replaced; it is frozen if `x` is.

    Args:
        x: a dictionary, frozen or plain; it is not changed.
        add_or_replace: the items to insert.

    Returns:
        A dictionary of the same type as `x`.

    Raises:
        ArgumentTypeError: if `x` is not a dictionary.

    Example:
        >>> copy({"a": 1, "b": 2}, {"b": 3})
        {'a': 1, 'b': 3}
    """
    if isinstance(x, FrozenDict):
        return x.copy(add_or_replace)
    return {**in_order(unfreeze(_checked(x))), **unfreeze(add_or_replace)}


def pop(x: AnyDict, key: object) -> tuple[AnyDict, Any]:
    """Return a copy without `key`, and the value of `key`.

    Args:
        x: a dictionary, frozen or plain; it is not changed.
        key: the key to remove.

    Returns:
        A dictionary of the same type as `x`, and the value.

    Raises:
        KeyError: if there is no such key.
        ArgumentTypeError: if `x` is not a dictionary.

    Example:
        >>> rest, params = pop({"params": 1, "batch_stats": 2}, "params")
        >>> rest
        {'batch_stats': 2}
    """
    if isinstance(x, FrozenDict):
        return x.pop(key)
    rest = in_order(unfreeze(_checked(x)))
    return rest, rest.pop(key)


def _checked(x: AnyDict) -> AnyDict:
    if not isinstance(x, dict):
        raise ArgumentTypeError(
            f"Expected FrozenDict or dict, got {type(x)}",
            "Only dictionaries have items that can be replaced or taken out.",
            "Pass a dictionary, for example `variables['params']`.",
        )
    return x


def pretty_repr(x: object, num_spaces: int = 4) -> str:
    """Return nested dictionaries as text with one item per line.

    Args:
        x: nested dictionaries, frozen or plain; of anything else, the `repr` is given.
        num_spaces: indentation per level.

    Example:
        >>> print(pretty_repr({"a": {"b": 1}, "c": {}}))
        {
            a: {
                b: 1,
            },
            c: {},
        }
    """
    if isinstance(x, FrozenDict):
        return x.pretty_repr(num_spaces)
    if not isinstance(x, dict):
        return repr(x)
    if not x:
        return "{}"
    body = "".join(f"{k}: {pretty_repr(v, num_spaces)},\n" for k, v in x.items())
    return "{\n" + textwrap.indent(body, " " * num_spaces, lambda line: True) + "}"
