"""State dicts and bytes against those of Flax, written there and read here and back."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import linsey.struct
from linsey import msgpack_format
from linsey import serialization as ours
from linsey.core.frozen_dict import freeze

theirs = pytest.importorskip("flax.serialization")
flax_struct = pytest.importorskip("flax.struct")
flax_frozen = pytest.importorskip("flax.core.frozen_dict")


class Pair(NamedTuple):
    a: Any
    b: Any


@linsey.struct.dataclass
class Ours:
    a: Any
    b: Any = linsey.struct.field(pytree_node=False, default=1)


@flax_struct.dataclass
class Theirs:
    a: Any
    b: Any = flax_struct.field(pytree_node=False, default=1)


PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones((), jnp.bfloat16)}}

# Pairs of the same tree, made of our types and of Flax's.
TREES = {
    "plain": ({"a": [1, (2, None)], "b": {"c": "x"}},) * 2,
    "pair": (Pair(1, {"z": Pair(2, 3)}),) * 2,
    "frozen": (freeze({"a": {"b": 1}}), flax_frozen.freeze({"a": {"b": 1}})),
    "dataclass": (Ours(np.ones(2), 5), Theirs(np.ones(2), 5)),
    "numbers": ([1.5, 2j, True, b"x", np.float32(3), np.int8(4), np.float64(1)],) * 2,
    "arrays": (
        [
            np.zeros((0, 3)),
            np.array(3),
            np.arange(3, dtype=ml_dtypes.float8_e4m3fn),
            np.arange(3, dtype=ml_dtypes.int4),
            jnp.bfloat16(3),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.array(["2020-01-01"], "M8[D]"),
        ],
    )
    * 2,
    "adam": (optax.adamw(0.1).init(PARAMS),) * 2,
    "partial": (jax.tree_util.Partial(max, 1, key=[2]),) * 2,
}


@pytest.mark.parametrize("name", TREES)
def test_state_dicts_are_identical_and_bytes_but_for_the_checksum(name):
    mine, other = TREES[name]
    assert repr(ours.to_state_dict(mine)) == repr(theirs.to_state_dict(other))
    assert ours.to_bytes(mine) == msgpack_format.seal(theirs.to_bytes(other))


def flat(tree) -> list:
    return [(repr(p), repr(x)) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("name", TREES)
def test_either_library_restores_the_bytes_of_the_other(name):
    mine, other = TREES[name]
    restored = ours.from_bytes(mine, theirs.to_bytes(other))
    assert type(restored) is type(mine)
    assert flat(restored) == flat(theirs.from_bytes(other, theirs.to_bytes(other)))
    back = theirs.from_bytes(other, ours.to_bytes(mine))
    assert flat(back) == flat(restored)


@pytest.mark.parametrize("size", [4, 40, 2**30])
def test_cut_arrays_are_identical(size, monkeypatch):
    monkeypatch.setattr(ours, "MAX_CHUNK_SIZE", size)
    monkeypatch.setattr(theirs, "MAX_CHUNK_SIZE", size)
    tree = {"a": np.arange(24.0).reshape(2, 12), "b": {"c": np.arange(30)}, "l": [1]}
    data = ours.msgpack_serialize(tree)
    assert data == msgpack_format.seal(theirs.msgpack_serialize(tree))
    assert data == ours.msgpack_serialize(dict(tree), in_place=True)
    assert flat(theirs.msgpack_restore(data)) == flat(ours.msgpack_restore(data))


def test_old_layouts_restore_alike():
    pair = {"name": "P", "fields": {"0": "a", "1": "b"}, "values": {"0": 1, "1": 2}}
    assert ours.from_state_dict(Pair(0, 0), pair) == theirs.from_state_dict(
        Pair(0, 0), pair
    )
    optimizer = {"target": {"params": {"w": np.ones(2)}}, "state": {"step": 3}}
    data = theirs.to_bytes({"optimizer": optimizer})
    restored = ours.from_bytes(
        {"optimizer": {"target": freeze({"params": {"w": 0}}), "state": {"step": 0}}},
        data,
    )
    assert restored["optimizer"]["target"]["params"]["w"].tolist() == [1, 1]


PUBLIC = [name for name in ours.__all__ if name != "restore_dict"]


@pytest.mark.parametrize("name", [*PUBLIC, "current_path"])
def test_signatures_agree(name):
    mine = inspect.signature(getattr(ours, name)).parameters.values()
    other = inspect.signature(getattr(theirs, name)).parameters.values()
    found = [(p.name, p.default) for p in mine if p.name != "strict"]
    assert found == [(p.name, p.default) for p in other]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda m: m.from_state_dict({"a": 1, "b": 2}, {"a": 3}),
        lambda m: m.from_state_dict({"a": {"b": 1}}, {"a": {}}, name="top"),
        lambda m: m.from_state_dict((1, 2), {"0": 1}),
        lambda m: m.from_state_dict([1, {"a": 1}], {"0": 1, "1": {}}),
        lambda m: m.from_state_dict(Pair(1, 2), {"a": 1}),
        lambda m: m.to_state_dict({1: 1, "1": 2}),
        lambda m: m.msgpack_serialize((1, 2)),
        lambda m: m.msgpack_serialize(np.array([None])),
        lambda m: m.from_bytes({}, b""),
        lambda m: m.register_serialization_state(dict, 1, 2),
    ],
)
def test_misuse_raises_what_flax_raises(misuse):
    with pytest.raises(Exception) as expected:
        misuse(theirs)
    base = ValueError if isinstance(expected.value, ValueError) else TypeError
    with pytest.raises(base) as got:
        misuse(ours)
    if "path" in str(expected.value):
        assert (
            str(got.value)
            .split(" path ")[1]
            .startswith(str(expected.value).split(" path ")[1])
        )


def test_big_endian_arrays_keep_their_values_here():
    array = np.arange(3.0).astype(">f4")
    assert theirs.msgpack_restore(theirs.msgpack_serialize(array))[1] != 1
    assert ours.msgpack_restore(ours.msgpack_serialize(array)).tolist() == [0, 1, 2]
    assert theirs.msgpack_restore(ours.msgpack_serialize(array)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("state", [7, [1, 2], (3,), None, "text", 2.5])
def test_a_state_may_be_no_dictionary(state):
    for lib in (theirs, ours):

        class Box:
            def __init__(self, value):
                self.value = value

        lib.register_serialization_state(
            Box, lambda box: box.value, lambda box, state: Box(state)
        )
        assert lib.to_state_dict({"a": Box(state)}) == {"a": state}
        assert lib.from_state_dict([Box(0)], {"0": state})[0].value == state
