"""Misuse of the top-level modules: the full text, and that its advice works."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from linsey import cursor, errors, io, jax_utils, serialization, struct
from linsey.config import config, static_bool_env, static_int_env
from linsey.configurations import bool_flag, flax_profile
from linsey.traverse_util import (
    ModelParamTraversal,
    flatten_dict,
    t_identity,
    unflatten_dict,
)


class Own:
    """A type with a handler of its own."""


def to_state(own: Own) -> dict[int, int]:
    return {1: 2}


def from_state(own: Own, state: object) -> Own:
    return own


serialization.register_serialization_state(Own, to_state, from_state)

double = jax_utils.pad_shard_unpad(lambda params, x, y: x + y)
ITEMS = np.array([("a", 1)], [("name", "U1"), ("size", int)])


def environment(read: Callable[[str], object], text: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_FLAG", text)
        return read("SOME_FLAG")


class Single(NamedTuple):
    first: int


class Node(struct.PyTreeNode):
    weight: float


def restore(target: object, state: object) -> object:
    return serialization.from_state_dict({"layers": target}, {"layers": state})


def find(wanted: int) -> object:
    return cursor.cursor({"a": 1, "b": {"c": 1}}).find(lambda path, x: x == wanted)


MISMATCH = (errors.StateDictMismatchError, ValueError)

# What the user writes, the kind of error, and the builtin class that catches it.
PROGRAMS: dict[str, tuple[Callable[[], object], type[errors.LinseyError], type]] = {
    "flatten_dict of a list": (
        lambda: flatten_dict([1]),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "unflatten_dict of a list": (
        lambda: unflatten_dict([1]),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a path through a value": (
        lambda: unflatten_dict({"a": 1, "a/b": 2}, sep="/"),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "too few values to set": (
        lambda: t_identity.each().set([1], (2, 3)),
        errors.MismatchError,
        ValueError,
    ),
    "too many values to set": (
        lambda: t_identity.each().set([1, 2, 3], (2, 3)),
        errors.MismatchError,
        ValueError,
    ),
    "each of a number": (
        lambda: t_identity.each().update(str, 3),
        errors.OptionError,
        ValueError,
    ),
    "parameters that are a number": (
        lambda: ModelParamTraversal(lambda path, x: True).update(str, 3),
        errors.OptionError,
        ValueError,
    ),
    "an item of a number": (
        lambda: cursor.cursor({"a": 1})["a"]["b"],
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a loop over a dictionary": (
        lambda: list(cursor.cursor({"a": 1})),
        errors.UnsupportedError,
        NotImplementedError,
    ),
    "a type registered twice": (
        lambda: serialization.register_serialization_state(Own, to_state, from_state),
        errors.OptionError,
        ValueError,
    ),
    "a handler with other keys": (
        lambda: serialization.to_state_dict(Own()),
        errors.OptionError,
        AssertionError,
    ),
    "two keys with one text": (
        lambda: serialization.to_bytes({1: "x", "1": "y"}),
        errors.OptionError,
        ValueError,
    ),
    "a structured array": (
        lambda: serialization.to_bytes({"items": ITEMS}),
        errors.OptionError,
        ValueError,
    ),
    "an array of text": (
        lambda: serialization.to_bytes({"names": np.array(["a"])}),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a random key": (
        lambda: serialization.to_bytes({"key": jax.random.key(0)}),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a tuple without a state dict": (
        lambda: serialization.msgpack_serialize({"shape": (1, 2)}),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a missing key": (lambda: restore({"a": 1, "b": 2}, {"a": 1}), *MISMATCH),
    "a value for a dictionary": (lambda: restore({"a": 1}, 3), *MISMATCH),
    "a list of another size": (lambda: restore([1, 2], {"0": 1}), *MISMATCH),
    "a list with other items": (lambda: restore([1, 2], {"0": 1, "2": 2}), *MISMATCH),
    "a named tuple with other fields": (
        lambda: restore(Single(1), {"second": 1}),
        *MISMATCH,
    ),
    "a node with a missing field": (lambda: restore(Node(1.0), {}), *MISMATCH),
    "a node with an unknown field": (
        lambda: restore(Node(1.0), {"weight": 1.0, "bias": 0.0}),
        *MISMATCH,
    ),
    "bytes that end too early": (
        lambda: serialization.from_bytes(None, serialization.to_bytes([1.0])[:-1]),
        errors.MalformedBytesError,
        ValueError,
    ),
    "a search that finds nothing": (
        lambda: find(2),
        errors.CursorFindError,
        errors.FlaxError,
    ),
    "a search that finds two": (
        lambda: find(1),
        errors.CursorFindError,
        errors.FlaxError,
    ),
    "a node without fields": (
        struct.PyTreeNode,
        errors.UnsupportedError,
        NotImplementedError,
    ),
    "a flag defined twice": (
        lambda: bool_flag("flax_profile", default=True, help=""),
        errors.UsageError,
        RuntimeError,
    ),
    "a flag as a truth value": (
        lambda: bool(flax_profile),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "a truth value in the environment": (
        lambda: environment(lambda name: static_bool_env(name, True), "maybe"),
        errors.OptionError,
        ValueError,
    ),
    "a number in the environment": (
        lambda: environment(lambda name: static_int_env(name, 1), "maybe"),
        errors.OptionError,
        ValueError,
    ),
    "an unknown mode of files": (
        lambda: io.set_mode("local"),
        errors.OptionError,
        ValueError,
    ),
    "batches of different sizes": (
        lambda: double(None, np.ones(2), np.ones(3)),
        errors.ShapeError,
        AssertionError,
    ),
}
TEXTS = dict(
    section.strip().split("\n", 1)
    for section in Path(__file__)
    .with_name("misuse_messages.txt")
    .read_text()
    .removeprefix("# ")
    .split("\n# ")
)


def test_every_text_has_a_program():
    assert PROGRAMS.keys() == TEXTS.keys()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", PROGRAMS)
def test_full_text(name):
    program, kind, builtin = PROGRAMS[name]
    with pytest.raises(builtin) as caught:
        program()
    error = caught.value
    assert type(error) is kind
    assert str(error) == TEXTS[name]
    # An `InputError` says everything in a line.
    is_line = isinstance(error, errors.InputError) and error.hint
    assert error.found and (is_line or (error.why and error.fix))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_the_messages_advise_works():
    assert t_identity["layers"].each().set([1, 2], {"layers": [0, 0]})
    assert list(t_identity.tree().iterate({"a": [1, 2]})) == [1, 2]
    assert unflatten_dict(flatten_dict({"a": {"b": 1}})) == {"a": {"b": 1}}
    root = cursor.cursor({"a": 1, "b": 2})
    assert len(list(root.find_all(lambda path, x: x > 0))) == 2
    assert serialization.from_bytes(None, serialization.to_bytes([1])) == {"0": 1}
    assert [root[key].build() for key in root.build()] == [1, 2]
    assert root["a"].set(3) == {"a": 3, "b": 2}
    serialization.register_serialization_state(Own, to_state, from_state, override=True)
    stored = serialization.to_bytes(
        {
            "names": ["a"],
            "key": jax.random.key_data(jax.random.key(0)),
            "items": {name: ITEMS[name] for name in ["size"]},
            "shape": (1, 2),
        }
    )
    assert serialization.from_bytes(None, stored)["shape"] == {"0": 1, "1": 2}
    assert flax_profile.value is config.profile
    with io.override_mode(io.BackendMode.DEFAULT):
        assert io.io_mode is io.BackendMode.DEFAULT
    assert environment(lambda name: static_bool_env(name, False), "1") is True
    assert environment(lambda name: static_int_env(name, 1), "2") == 2
    double_x = jax_utils.pad_shard_unpad(
        lambda x, scale: x * scale, static_argnums=(1,)
    )
    assert double_x(np.arange(3.0), 2.0).tolist() == [0, 2, 4]
