"""Laws of `FrozenDict`: immutable, a pytree like a dict, never copied needlessly."""

from __future__ import annotations

import copy as stdlib_copy
import pickle
from collections import OrderedDict

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linsey.core.frozen_dict import (
    FrozenDict,
    copy,
    freeze,
    pop,
    pretty_repr,
    unfreeze,
)
from linsey.errors import FrozenDictIsImmutableError, LinseyError

keys = st.text("abcde", min_size=1, max_size=2)
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
nested = st.dictionaries(keys, trees, max_size=4)


@given(nested)
def test_unfreeze_undoes_freeze(tree):
    assert unfreeze(freeze(tree)) == tree
    assert freeze(tree) == tree == freeze(tree)


@given(nested)
def test_leaves_paths_and_order_are_those_of_a_dict(tree):
    frozen = freeze(tree)
    assert jax.tree.leaves(frozen) == jax.tree.leaves(tree)
    flat, _ = jax.tree_util.tree_flatten_with_path(frozen)
    assert flat == jax.tree_util.tree_flatten_with_path(tree)[0]
    mapped = jax.tree.map(lambda leaf: leaf + 1, frozen)
    assert isinstance(mapped, FrozenDict)
    assert mapped.unfreeze() == jax.tree.map(lambda leaf: leaf + 1, tree)


@given(nested)
def test_hash_ignores_order_and_agrees_with_equality(tree):
    backwards = dict(reversed(tree.items()))
    assert hash(freeze(tree)) == hash(freeze(backwards))
    assert len({freeze(tree), freeze(backwards)}) == 1


@given(nested)
def test_pickle_and_copy_give_an_equal_frozen_dict(tree):
    frozen = freeze(tree)
    for twin in (
        pickle.loads(pickle.dumps(frozen)),
        stdlib_copy.copy(frozen),
        stdlib_copy.deepcopy(frozen),
    ):
        assert type(twin) is FrozenDict
        assert twin == frozen


@given(nested, nested)
def test_copy_replaces_and_leaves_the_original(tree, other):
    frozen = freeze(tree)
    assert frozen.copy(other) == {**tree, **other}
    assert copy(frozen, other) == copy(tree, other) == {**tree, **other}
    assert frozen == tree


@given(nested.filter(bool))
def test_pop_splits_a_dict_and_leaves_the_original(tree):
    key = next(iter(tree))
    rest = {k: v for k, v in tree.items() if k != key}
    for variables in (freeze(tree), tree):
        got, value = pop(variables, key)
        assert (got, value) == (rest, tree[key])
        assert type(got) is type(variables)
        assert key in variables


def test_nothing_changes_a_frozen_dict():
    source = {"a": {"b": 1}}
    frozen = freeze(source)
    source["a"]["b"] = 2
    source["c"] = 3
    thawed = frozen.unfreeze()
    thawed["a"]["b"] = 4
    added = {"x": {"y": 1}}
    grown = frozen.copy(added)
    added["x"]["y"] = 2
    assert frozen == {"a": {"b": 1}}
    assert grown == {"a": {"b": 1}, "x": {"y": 1}}


def test_assignment_and_deletion_say_what_to_write():
    frozen = freeze({"a": {"b": 1}})
    with pytest.raises(FrozenDictIsImmutableError, match=r"frozen\.copy\(\{'b'"):
        frozen["a"]["b"] = 2
    with pytest.raises(ValueError, match="FrozenDict is immutable"):
        frozen["c"] = 2
    with pytest.raises(LinseyError, match=r"frozen\.pop\('a'\)"):
        del frozen["a"]
    with pytest.raises(AttributeError):
        frozen.anything = 1


def test_inner_dictionaries_are_shared_not_copied():
    frozen = freeze({"a": {"b": {"c": 1}}})
    inner = frozen._dict["a"]
    assert frozen["a"]._dict is inner
    assert freeze(frozen)._dict is frozen._dict
    assert freeze({"again": frozen})._dict["again"] is frozen._dict
    assert frozen.copy({"x": 1})._dict["a"] is inner
    assert frozen.pop("a")[1]._dict is inner


def test_construction_takes_what_dict_takes():
    assert FrozenDict() == {}
    assert FrozenDict([("a", 1)], b=2) == FrozenDict({"a": 1}, b=2) == {"a": 1, "b": 2}
    assert FrozenDict(freeze({"a": 1}), a=2) == {"a": 2}
    assert type(freeze({"a": OrderedDict(b=1)})._dict["a"]) is dict


def test_reading():
    frozen = freeze({"b": 1, "a": {"c": [{"d": 2}]}})
    assert list(frozen) == ["b", "a"]
    assert "a" in frozen and "z" not in frozen and len(frozen) == 2
    assert frozen.get("z", 3) == 3
    assert type(frozen["a"]) is FrozenDict
    assert [type(value) for value in frozen.values()] == [int, FrozenDict]
    assert dict(frozen.items())["a"] == {"c": [{"d": 2}]}
    assert repr(frozen.keys()) == "frozen_dict_keys(['b', 'a'])"
    assert repr(freeze({"b": 1}).values()) == "frozen_dict_values([1])"
    with pytest.raises(KeyError):
        frozen.pop("z")


def test_functions_refuse_what_is_no_dictionary():
    for function in (lambda: copy([1], {}), lambda: pop([1], "a")):
        with pytest.raises(TypeError, match="Expected FrozenDict or dict, got"):
            function()
    assert unfreeze(3) == 3


def test_text():
    tree = {"a": {"b": jnp.ones((2, 2))}, "e": {}}
    assert repr(freeze(tree)) == (
        "FrozenDict({\n    a: {\n        b: Array([[1., 1.],\n"
        "               [1., 1.]], dtype=float32),\n    },\n    e: {},\n})"
    )
    assert "FrozenDict(" + pretty_repr(tree) + ")" == repr(freeze(tree))
    assert pretty_repr({"a": 1}, 2) == "{\n  a: 1,\n}"
    assert pretty_repr(3) == "3"


def test_a_jitted_function_takes_and_returns_frozen_variables():
    frozen = freeze({"a": {"b": jnp.arange(3.0)}})
    out = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree))(frozen)
    assert type(out) is FrozenDict
    assert out["a"]["b"].tolist() == [0, 2, 4]


def test_frozen_and_plain_trees_do_not_mix_in_one_map():
    with pytest.raises(ValueError):
        jax.tree.map(lambda a, b: a, freeze({"a": 1}), {"a": 1})
