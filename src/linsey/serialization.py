"""State dicts: trees as nested dictionaries of arrays, and as bytes.

`to_state_dict` turns a tree of registered types into dictionaries with string keys,
and `from_state_dict` restores a *target* of the same structure from them: the target
determines the types, the state dict the values. A value of any other type is a leaf.
`to_bytes` and `from_bytes` add MessagePack, in the format of Flax: each library can
read the bytes of the other.

Example:
    >>> import numpy as np
    >>> target = {"layers": [np.zeros(2), np.zeros(2)], "step": 0}
    >>> to_state_dict({"layers": ["a", "b"]})
    {'layers': {'0': 'a', '1': 'b'}}
    >>> stored = to_bytes({"layers": [np.ones(2), np.ones(2)], "step": 3})
    >>> from_bytes(target, stored)
    {'layers': [array([1., 1.]), array([1., 1.])], 'step': 3}
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from linsey import errors, msgpack_format, specs
from linsey.errors.misuse import report_misuse

__all__ = [
    "from_bytes",
    "from_state_dict",
    "is_serializable",
    "msgpack_restore",
    "msgpack_serialize",
    "register_serialization_state",
    "to_bytes",
    "to_state_dict",
]

K = TypeVar("K")

ToState = Callable[[Any], object]
FromState = Callable[[Any, Any], object]


class _NamedTuple:
    """The entry of all named tuples in the registry."""


_REGISTRY: dict[type, tuple[ToState, FromState]] = {}


# ---------------------------------------------------------------- where we are


class _Path(threading.local):
    """The path of the value that this thread is restoring, for messages."""

    def __init__(self) -> None:
        self.names: list[str] = []


_path = _Path()


def current_path() -> str:
    """Return the path of the value being restored, names joined by slashes."""
    return "/".join(_path.names)


# ---------------------------------------------------------------- the registry


def _registered(target: object) -> type | None:
    cls = target if isinstance(target, type) else type(target)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _NamedTuple
    return cls if cls in _REGISTRY else None


def register_serialization_state(
    ty: type,
    ty_to_state_dict: ToState,
    ty_from_state_dict: FromState,
    override: bool = False,
) -> None:
    """Make a type known to `to_state_dict` and `from_state_dict`.

    Args:
        ty: the type; its subclasses are not included.
        ty_to_state_dict: called with an instance; returns its state: a dictionary with
            string keys, or any other value, such as a number or an array.
        ty_from_state_dict: called with an instance and such a state; returns an
            instance with these contents.
        override: whether to replace an earlier registration.

    Raises:
        OptionError: if the type is registered and `override` is `False`.
    """
    if ty in _REGISTRY and not override:
        raise errors.OptionError(
            f'a serialization handler for "{ty.__name__}" is already registered.',
            "State dicts written with one handler are not read with another.",
            "Pass `override=True` to replace it.",
        )
    _REGISTRY[ty] = (ty_to_state_dict, ty_from_state_dict)


def is_serializable(target: object) -> bool:
    """Return whether a type, or the type of a value, is registered.

    Example:
        >>> is_serializable({}), is_serializable(3)
        (True, False)
    """
    return _registered(target) is not None


def to_state_dict(target: object) -> Any:
    """Return the contents of a tree as nested dictionaries with string keys.

    Args:
        target: a tree of registered types: dictionaries, lists, tuples, named tuples,
            `struct` dataclasses, frozen dictionaries, and types that were added with
            `register_serialization_state`.

    Returns:
        The state dict; a leaf is returned unchanged.

    Raises:
        OptionError: if two keys of a dictionary have the same text.
    """
    ty = None if isinstance(target, type) else _registered(target)
    if ty is None:
        return target
    state = _REGISTRY[ty][0](target)
    if isinstance(state, Mapping) and not all(isinstance(key, str) for key in state):
        raise errors.OptionError(
            f"A state dict must only have string keys. The handler of {ty.__name__} "
            f"returned {state!r:.80}.",
            "The keys make up the paths by which values are found again.",
            "Return `{str(key): value, ...}` from the handler.",
        )
    return state


def from_state_dict(
    target: object, state: object, name: str = ".", *, strict: bool = False
) -> Any:
    """Return a tree like `target` with the contents of a state dict.

    As in Flax, a leaf may be replaced by one of any shape and dtype, and entries of the
    state that a dictionary does not have are ignored. `strict=True` refuses both.

    Args:
        target: a tree with the desired structure and types; it is not changed.
        state: the result of `to_state_dict` for such a tree.
        name: the name of `target` in error messages.
        strict: whether shapes, dtypes and names must be those of the target; see
            `refuse_differences`.

    Returns:
        A new tree, whose leaves are those of the state.

    Raises:
        StateDictMismatchError: if the state does not fit; the message has the path.

    Example:
        >>> from_state_dict({"w": np.zeros(2)}, {"v": np.ones(2)}, strict=True)
        Traceback (most recent call last):
        linsey.errors.trees.StateDictMismatchError: The state and the target differ at
        path .: `w` is called `v`
        The target is strict about names, shapes and dtypes.
        Restore into a target built with the settings that the state was saved with, or
        read it without one: `from_bytes(None, data)`.
    """
    if strict:
        refuse_differences(target, state, f"at path {name}")
    ty = None if isinstance(target, type) else _registered(target)
    if ty is None:
        return state
    _path.names.append(name)
    try:
        return _REGISTRY[ty][1](target, state)
    finally:
        _path.names.pop()


def refuse_differences(target: object, state: object, where: str) -> None:
    """Do what `strict=True` does: list all differences of a state from a target.

    Args:
        target: a tree of registered types, with arrays or their descriptions.
        state: its state dict, with arrays or their descriptions.
        where: the place in the message, such as "at path .", or "in FILE".

    Raises:
        StateDictMismatchError: if there is a difference; it lists all `differences`.
        OptionError: if there is no target to compare with.
    """
    if target is None:
        raise errors.OptionError(
            "`strict=True` compares with a target, and the target is None.",
            "Nothing says which names, shapes and dtypes are right.",
            "Pass a target, or leave `strict` out.",
        )
    found = specs.differences(to_state_dict(target), state)
    if found:
        listed = "; ".join(map(str, found))
        raise errors.StateDictMismatchError(
            f"The state and the target differ {where}: {listed}",
            "The target is strict about names, shapes and dtypes.",
            found,
        )


def _mismatch(found: str, why: str) -> errors.StateDictMismatchError:
    return errors.StateDictMismatchError(f"{found} at path {current_path()}", why)


def entries(target: object, state: object) -> Mapping[str, Any]:
    """Return the state of a container, which must be a mapping."""
    if isinstance(state, Mapping):
        return state
    raise _mismatch(
        f"Found a value of type {type(state).__name__} in the state dict where the "
        f"target has a {type(target).__name__}",
        "Only a dictionary can be restored into a container.",
    )


# ---------------------------------------------------------------- built-in types


def _dict_to_state(tree: Mapping[object, object]) -> dict[str, object]:
    state = {str(key): to_state_dict(value) for key, value in tree.items()}
    if len(state) < len(tree):
        raise errors.OptionError(
            "Dict keys do not have a unique string representation: "
            f"{set(state)} vs given: {tree}",
            "A state dict has the texts of the keys, and two of them are equal.",
            "Rename a key.",
        )
    return state


def restore_dict(tree: Mapping[K, object], state: object) -> dict[K, Any]:
    """Return a dictionary with the values of its state; surplus keys are ignored."""
    state = entries(tree, state)
    missing = {str(key) for key in tree} - set(state)
    if missing:
        raise _mismatch(
            "The target dict keys and state dict keys do not match, target dict "
            f"contains keys {missing} which are not present in state dict",
            f"The state dict has {sorted(state)} there.",
        )
    return {
        key: from_state_dict(value, state[str(key)], name=str(key))
        for key, value in tree.items()
    }


def _sequence_to_state(values: Iterable[object]) -> dict[str, object]:
    return _dict_to_state(dict(enumerate(values)))


def _sequence_from_state(values: Sequence[object], state: object) -> list[object]:
    state = entries(values, state)
    if len(state) != len(values):
        raise _mismatch(
            "The size of the list and the state dict do not match, got "
            f"{len(values)} and {len(state)}",
            "A sequence is restored item by item.",
        )
    missing = [str(i) for i in range(len(values)) if str(i) not in state]
    if missing:
        raise _mismatch(
            f"The state dict of a sequence lacks the items {missing}",
            f"The state dict has {sorted(state)} there.",
        )
    return [*restore_dict(dict(enumerate(values)), state).values()]


def _namedtuple_to_state(values: Any) -> dict[str, object]:
    return _dict_to_state(values._asdict())


def _namedtuple_from_state(values: Any, state: object) -> object:
    state = entries(values, state)
    if set(state) == {"name", "fields", "values"}:
        # The layout of old checkpoints has names and values in two dictionaries.
        count = len(state["fields"])
        state = {state["fields"][str(i)]: state["values"][str(i)] for i in range(count)}
    if set(state) != set(values._fields):
        raise _mismatch(
            "The field names of the state dict and the named tuple do not match, got "
            f"{set(state)} and {set(values._fields)}",
            f"A {type(values).__name__} is restored field by field.",
        )
    return type(values)(**restore_dict(values._asdict(), state))


def _partial_to_state(partial: jax.tree_util.Partial) -> dict[str, object]:
    return _dict_to_state({"args": partial.args, "keywords": partial.keywords})


def _partial_from_state(
    partial: jax.tree_util.Partial, state: object
) -> jax.tree_util.Partial:
    state = entries(partial, state)
    return jax.tree_util.Partial(
        partial.func,
        *from_state_dict(partial.args, state["args"], name="args"),
        **from_state_dict(partial.keywords, state["keywords"], name="keywords"),
    )


register_serialization_state(dict, _dict_to_state, restore_dict)
register_serialization_state(list, _sequence_to_state, _sequence_from_state)
register_serialization_state(
    tuple, _sequence_to_state, lambda xs, state: tuple(_sequence_from_state(xs, state))
)
register_serialization_state(_NamedTuple, _namedtuple_to_state, _namedtuple_from_state)
register_serialization_state(
    jax.tree_util.Partial, _partial_to_state, _partial_from_state
)


# ---------------------------------------------------------------- bytes

# A larger array is written in pieces: MessagePack holds 4 GiB in one value.
MAX_CHUNK_SIZE = 2**30


def _array_to_bytes(value: np.ndarray | np.generic | jax.Array) -> bytes:
    import msgpack

    if not isinstance(value.dtype, np.dtype):  # for example the dtype of random keys
        raise _nameless(value.dtype)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.fields:
        raise errors.OptionError(
            "Object and structured dtypes not supported for serialization of "
            f"ndarrays: {array.dtype}.",
            "An array is stored as its bytes and the name of its dtype.",
            "Store a list of objects, or a dictionary with one array for each field.",
        )
    if array.dtype.byteorder == ">":
        # The name of a dtype does not include its byte order.
        array = array.astype(array.dtype.newbyteorder("<"))
    if not _is_named(array.dtype):
        report_misuse(_nameless(array.dtype))  # Flax writes bytes that cannot be read
    parts = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.packb(parts)  # pyrefly: ignore


def _nameless(dtype: object) -> errors.ArgumentTypeError:
    return errors.ArgumentTypeError(
        f"Arrays of dtype {dtype} cannot be serialized.",
        "NumPy does not find this dtype by its name, which is what is stored.",
        "Store text as a list of strings, random keys as `jax.random.key_data(key)`.",
    )


def _is_named(dtype: np.dtype) -> bool:
    """Return whether NumPy finds a dtype by its name."""
    # JAX registers bfloat16 and similar dtypes with NumPy, so it knows their names.
    try:
        return np.dtype(dtype.name) == dtype
    except TypeError:
        return False


def _pack_unknown(value: object) -> object:
    import msgpack

    if isinstance(value, np.ndarray | jax.Array):
        return msgpack.ExtType(msgpack_format.ARRAY, _array_to_bytes(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(msgpack_format.SCALAR, _array_to_bytes(value))
    if isinstance(value, complex):
        parts = msgpack.packb((value.real, value.imag))
        return msgpack.ExtType(msgpack_format.COMPLEX, parts)
    raise errors.ArgumentTypeError(
        f"can not serialize {type(value).__name__!r} object: {value!r:.80}",
        "MessagePack holds dictionaries, lists, arrays, numbers, text, bytes and None.",
        "Write `to_bytes(tree)`, which turns registered types into dictionaries.",
    )


def _chunk(array: np.ndarray) -> dict[str, object]:
    flat = np.ravel(array)
    size = max(1, MAX_CHUNK_SIZE // array.dtype.itemsize)
    pieces = [flat[i : i + size] for i in range(0, flat.size, size)]
    return {
        msgpack_format.CHUNKED: True,
        "shape": {str(i): n for i, n in enumerate(array.shape)},
        "chunks": {str(i): piece for i, piece in enumerate(pieces)},
    }


def _chunk_leaves(tree: object, in_place: bool, depth: int = 0) -> object:
    """Split large arrays in nested dictionaries."""
    if type(tree) is dict:
        if depth == msgpack_format.MAX_DEPTH:
            raise errors.OptionError(
                f"The tree has more than {depth} levels.",
                "So deep a tree is most likely one that contains itself.",
                "Write a tree that is less deep.",
            )
        chunked = {
            key: _chunk_leaves(value, in_place, depth + 1)
            for key, value in tree.items()
        }
        if not in_place:
            return chunked
        tree.update(chunked)
    if isinstance(tree, np.ndarray | jax.Array) and tree.nbytes > MAX_CHUNK_SIZE:
        return _chunk(np.asarray(tree))
    return tree


def msgpack_serialize(pytree: object, in_place: bool = False) -> bytes:
    """Write nested dictionaries and lists of arrays and plain values as bytes.

    A tree whose outermost value is a dictionary, or an array, gets a checksum that
    `msgpack_restore` verifies and that Flax ignores; see `linsey.msgpack_format`.

    Args:
        pytree: a state dict; see `to_state_dict`. It may contain arrays of any dtype of
            NumPy and `ml_dtypes`, numbers, strings, bytes and `None`.
        in_place: whether to split large arrays in `pytree` itself, which saves a copy
            of its structure.

    Returns:
        The bytes, which Flax can read too.

    Raises:
        ArgumentTypeError: if a value is of another type.

    Example:
        >>> msgpack_restore(msgpack_serialize({"a": [1, 2.5, "b", None]}))
        {'a': [1, 2.5, 'b', None]}
    """
    import msgpack

    pytree = _chunk_leaves(pytree, in_place)
    if isinstance(pytree, np.ndarray | jax.Array) and pytree.size:
        pytree = _chunk(np.asarray(pytree))  # a dictionary, which can be sealed
    packer = msgpack.Packer(default=_pack_unknown, strict_types=True, autoreset=False)
    packer.pack(pytree)
    return msgpack_format.seal(packer.bytes())


def msgpack_restore(encoded_pytree: bytes) -> Any:
    """Read bytes that `msgpack_serialize` of linsey or Flax has written.

    Args:
        encoded_pytree: the bytes.

    Returns:
        Nested dictionaries and lists, with read-only NumPy arrays.

    Raises:
        MalformedBytesError: if the bytes are incomplete, changed, or not such a tree;
            it is an `InputError` and a `ValueError`.
    """
    return msgpack_format.read(encoded_pytree)


def to_bytes(target: object) -> bytes:
    """Write a tree of registered types as bytes.

    Args:
        target: a tree; see `to_state_dict`.

    Returns:
        The bytes of its state dict.
    """
    return msgpack_serialize(to_state_dict(target), in_place=True)


def from_bytes(target: object, encoded_bytes: bytes, *, strict: bool = False) -> Any:
    """Return a tree like `target` with the contents that `to_bytes` wrote.

    Args:
        target: a tree with the desired structure and types. If `None`, the state dict
            itself is returned.
        encoded_bytes: the result of `to_bytes`.
        strict: whether shapes, dtypes and names must be those of the target.

    Raises:
        MalformedBytesError: if the bytes are incomplete or damaged.
        StateDictMismatchError: if their structure is not that of `target`.
    """
    return from_state_dict(target, msgpack_restore(encoded_bytes), strict=strict)
