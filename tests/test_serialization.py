"""Laws of state dicts and bytes: nothing lost, nothing invented, errors with a path."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from linsey import serialization
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.errors import LinseyError, MalformedBytesError, StateDictMismatchError
from linsey.serialization import (
    from_bytes,
    from_state_dict,
    is_serializable,
    msgpack_restore,
    msgpack_serialize,
    register_serialization_state,
    to_bytes,
    to_state_dict,
)


class Pair(NamedTuple):
    a: Any
    b: Any


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.complex_numbers(allow_nan=False)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(freeze)
    ),
    max_leaves=10,
)


@given(trees)
def test_bytes_give_the_tree_back(tree):
    restored = from_bytes(tree, to_bytes(tree))
    assert restored == tree
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    assert type(restored) is type(tree)


def same(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(
    hnp.arrays(
        hnp.scalar_dtypes(),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_arrays_keep_every_bit(array):
    restored = msgpack_restore(msgpack_serialize({"x": [array]}))["x"][0]
    assert same(restored, array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"]
)
def test_dtypes_of_ml_dtypes_keep_every_bit(dtype):
    array = np.arange(6).astype(getattr(ml_dtypes, dtype)).reshape(2, 3)
    assert same(msgpack_restore(msgpack_serialize(array)), array)
    scalar = msgpack_restore(msgpack_serialize(array[1, 1]))
    assert type(scalar) is type(array[1, 1]) and scalar == array[1, 1]


@pytest.mark.parametrize(
    "scalar", [np.float32(3), np.int8(-3), np.bool_(True), np.complex64(1j)]
)
def test_scalars_of_numpy_stay_scalars(scalar):
    restored = msgpack_restore(msgpack_serialize(scalar))
    assert type(restored) is type(scalar) and restored == scalar


def test_byte_order_and_memory_layout_do_not_matter():
    array = np.arange(6.0).reshape(2, 3)
    for same_numbers in (array.astype(">f8"), np.asfortranarray(array), array.T.T):
        restored = msgpack_restore(msgpack_serialize(same_numbers))
        assert (restored == array).all() and restored.dtype == np.float64


def test_arrays_of_jax_come_back_as_numpy():
    restored = from_bytes({"w": jnp.zeros(3)}, to_bytes({"w": jnp.arange(3.0)}))
    assert type(restored["w"]) is np.ndarray and restored["w"].tolist() == [0, 1, 2]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)


@pytest.mark.parametrize("in_place", [True, False])
def test_large_arrays_are_cut_and_joined(small_chunks, in_place):
    tree = {
        "a": np.arange(24.0).reshape(2, 3, 4),
        "b": {"c": jnp.arange(30, dtype=jnp.bfloat16), "d": np.arange(3)},
        "list": [np.arange(24.0)],
    }
    before = dict(tree)
    data = msgpack_serialize(tree, in_place=in_place)
    assert (tree["a"] is before["a"]) is not in_place
    raw = msgpack.unpackb(data)
    assert raw["a"]["__msgpack_chunked_array__"] and len(raw["a"]["chunks"]) == 5
    restored = msgpack_restore(data)
    assert same(restored["a"], before["a"])
    assert restored["b"]["c"].tolist() == list(range(30))
    assert restored["list"][0].tolist() == list(range(24))


def test_a_chunk_holds_at_least_one_value(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 4)
    array = np.arange(3.0)
    assert same(msgpack_restore(msgpack_serialize(array)), array)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1, 2},
        freeze({"a": 1}),
        np.array([None]),
        np.array(["text"]),
        np.zeros(2, [("a", int)]),
        jnp.float32,
        jax.random.key(0),
    ],
    ids=repr,
)
def test_what_cannot_be_written_is_refused_when_written(value):
    with pytest.raises((TypeError, ValueError)):
        msgpack_serialize({"a": value})


def extension(code: int, content: Any) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(content)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x80\x80",
        to_bytes({"w": np.arange(3.0)})[:-1],
        extension(1, ([2], "float32", b"0000")),
        extension(1, ([-2, -1], "float32", b"00000000")),
        extension(1, ([2], "nope", b"00000000")),
        extension(1, ([2], "O", b"0" * 16)),
        extension(1, 3),
        msgpack.packb({"__msgpack_chunked_array__": True}),
    ],
)
def test_damaged_bytes_are_refused(data):
    with pytest.raises(MalformedBytesError, match=f"The {len(data)} bytes"):
        msgpack_restore(data)


def test_state_dict_of_containers():
    tree = {"a": [1, (2,)], 3: Pair(4, freeze({"b": None}))}
    assert to_state_dict(tree) == {
        "a": {"0": 1, "1": {"0": 2}},
        "3": {"a": 4, "b": {"b": None}},
    }
    assert type(to_state_dict(freeze({"a": {}}))["a"]) is dict


def test_containers_are_rebuilt_with_the_types_of_the_target():
    target = {"a": [0, (0,)], 3: Pair(0, freeze({"b": {"c": 0}}))}
    state = {"a": {"0": 1, "1": {"0": 2}}, "3": {"a": 4, "b": {"b": {"c": 5}}}}
    restored = from_state_dict(target, state)
    assert restored == {"a": [1, (2,)], 3: Pair(4, freeze({"b": {"c": 5}}))}
    assert type(restored[3].b) is FrozenDict
    assert target["a"] == [0, (0,)]


def test_leaves_are_taken_from_the_state():
    assert from_state_dict(3, "x") == "x"
    assert from_state_dict({"a": None}, {"a": {"b": 3}}) == {"a": {"b": 3}}
    assert to_state_dict(dict) is dict
    assert from_bytes(None, to_bytes({"a": [1, 2]})) == {"a": {"0": 1, "1": 2}}


def test_partial_functions_keep_their_function():
    partial = jax.tree_util.Partial(max, 1, key=[2])
    assert to_state_dict(partial) == {"args": {"0": 1}, "keywords": {"key": {"0": 2}}}
    restored = from_state_dict(
        partial, {"args": {"0": 5}, "keywords": {"key": {"0": 6}}}
    )
    assert (restored.func, restored.args, restored.keywords) == (
        max,
        (5,),
        {"key": [6]},
    )


def test_named_tuples_of_old_checkpoints():
    old = {"name": "Pair", "fields": {"0": "a", "1": "b"}, "values": {"0": 1, "1": 2}}
    assert from_state_dict(Pair(0, 0), old) == Pair(1, 2)


def test_optimizer_states_travel():
    params = {"w": jnp.ones(2), "b": {"c": jnp.zeros(())}}
    optimizer = optax.chain(
        optax.clip(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 5))
    )
    state = optimizer.init(params)
    _, moved = optimizer.update(params, state, params)
    restored = from_bytes(state, to_bytes(moved))
    assert jax.tree.structure(restored) == jax.tree.structure(moved)
    jax.tree.map(np.testing.assert_array_equal, restored, moved)


@pytest.mark.parametrize(
    ("target", "state", "message"),
    [
        ({"a": 1, "b": 2}, {"a": 3}, r"keys \{'b'\} .* at path \."),
        ({"a": {"b": 1}}, {"a": {}}, r"keys \{'b'\} .* at path ./a"),
        (freeze({"a": {"b": 1}}), {"a": {"c": 1}}, r"keys \{'b'\} .* at path ./a"),
        ({"a": {"b": 1}}, {"a": 3}, r"type int .* has a dict at path ./a"),
        ([1, {"a": 1}], {"0": 1, "1": {}}, r"at path ./1"),
        ({"q": [1, 2]}, {"q": {"0": 1}}, r"sizes? .* got 2 and 1 at path ./q"),
        ((1, 2), {"0": 3, "2": 4}, r"lacks the items \['1'\] at path \."),
        ([1], [1], r"type list"),
        ({"z": Pair(1, 2)}, {"z": {"a": 3, "c": 4}}, r"field names .* at path ./z"),
    ],
)
def test_states_that_do_not_fit_are_refused_with_the_path(target, state, message):
    with pytest.raises(StateDictMismatchError, match=message):
        from_state_dict(target, state)
    assert serialization.current_path() == ""
    with pytest.raises(ValueError, match="top"):
        from_state_dict(target, state, name="top")


def test_what_the_state_has_beyond_a_dict_is_left_out():
    assert from_state_dict({"a": 1}, {"a": 3, "c": 4}) == {"a": 3}


def test_keys_with_the_same_text_are_refused():
    with pytest.raises(ValueError, match="unique string representation"):
        to_state_dict({1: "x", "1": "y"})


def test_new_types_are_registered_once_and_exactly():
    class Own:
        def __init__(self, x):
            self.x = x

    class Sub(Own):
        pass

    handlers = (lambda own: {"x": own.x}, lambda own, state: Own(state["x"]))
    assert not is_serializable(Own)
    register_serialization_state(Own, *handlers)
    assert is_serializable(Own) and is_serializable(Own(1))
    assert from_bytes({"o": Own(1)}, to_bytes({"o": Own(2)}))["o"].x == 2
    sub = Sub(1)
    assert to_state_dict(sub) is sub
    with pytest.raises(ValueError, match='"Own" is already registered'):
        register_serialization_state(Own, *handlers)
    register_serialization_state(Own, lambda own: {1: 2}, handlers[1], override=True)
    with pytest.raises(AssertionError, match="only have string keys"):
        to_state_dict(Own(1))


def test_paths_of_threads_do_not_mix():
    inside, seen = threading.Event(), []

    class Slow:
        pass

    def restore(slow, state):
        inside.set()
        other.join()
        seen.append(serialization.current_path())
        return slow

    register_serialization_state(Slow, lambda slow: {}, restore)
    other = threading.Thread(
        target=lambda: (
            inside.wait(),
            pytest.raises(LinseyError, from_state_dict, {"b": {"c": 1}}, {"b": {}}),
        )
    )
    other.start()
    from_state_dict({"a": Slow()}, {"a": {}})
    assert seen == ["./a"]


def test_msgpack_is_imported_when_bytes_are_asked_for():
    code = "import sys, linsey.struct, linsey.serialization; print('msgpack' in sys.mod"
    done = subprocess.run(
        [sys.executable, "-c", code + "ules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
