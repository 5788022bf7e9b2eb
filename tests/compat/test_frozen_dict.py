"""`FrozenDict` against the one of Flax."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pytest

from linsey.core import frozen_dict as ours

theirs = pytest.importorskip("flax.core.frozen_dict")

TREES = [
    {},
    {"a": 1},
    {"b": {"c": {"d": 1}, "a": {}}, "a": 2.0},
    {"w": np.ones((2, 2)), "l": [{"x": 1}, (2,)]},
]


@pytest.mark.parametrize("tree", TREES)
def test_text_leaves_paths_and_views_agree(tree):
    mine, other = ours.freeze(tree), theirs.freeze(tree)
    assert repr(mine) == repr(other)
    assert mine.pretty_repr(2) == other.pretty_repr(2)
    assert ours.pretty_repr(tree) == theirs.pretty_repr(tree)
    assert repr(mine.keys()) == repr(other.keys())
    assert repr(mine.values()) == repr(other.values())
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(mine)[0]]
    assert paths == [p for p, _ in jax.tree_util.tree_flatten_with_path(other)[0]]
    assert mine.tree_flatten_with_keys()[1] == other.tree_flatten_with_keys()[1]


@pytest.mark.parametrize("name", ["freeze", "unfreeze", "copy", "pop", "pretty_repr"])
def test_signatures_agree(name):
    mine = inspect.signature(getattr(ours, name)).parameters.values()
    other = inspect.signature(getattr(theirs, name)).parameters.values()
    assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in other]
    assert repr([p.default for p in mine]) == repr([p.default for p in other])


def in_order(tree):
    return [(k, in_order(v) if hasattr(v, "items") else v) for k, v in tree.items()]


@pytest.mark.parametrize(
    "change",
    [
        lambda m, tree: m.unfreeze(m.freeze(tree)),
        lambda m, tree: m.freeze(tree).unfreeze(),
        lambda m, tree: m.unfreeze(tree),
        lambda m, tree: m.unfreeze({"z": m.freeze(tree), "y": 1}),
        lambda m, tree: m.copy(tree, {"p": {"x": 1, "b": 2}}),
        lambda m, tree: m.copy(m.freeze(tree), {"p": {"x": 1, "b": 2}}),
        lambda m, tree: m.pop(tree, "a")[0],
        lambda m, tree: m.pop(m.freeze(tree), "a")[0],
    ],
)
def test_keys_are_in_the_same_order(change):
    tree = {"z": {"k": 1, "b": 2}, "a": {"y": {"q": 1, "c": 2}}}
    mine, other = change(ours, tree), change(theirs, tree)
    assert in_order(mine) == in_order(other)


def test_methods_are_there():
    assert set(dir(theirs.FrozenDict)) <= set(dir(ours.FrozenDict)) | {"_abc_impl"}


@pytest.mark.parametrize(
    "misuse",
    [
        lambda m: m.FrozenDict(3),
        lambda m: m.FrozenDict({"a": [1]}).__hash__(),
        lambda m: m.FrozenDict({"a": 1}).pop("b"),
        lambda m: m.FrozenDict({"a": 1})["b"],
        lambda m: m.FrozenDict({"a": 1}).__setitem__("a", 2),
        lambda m: jax.tree.leaves(m.FrozenDict({"a": 1, 2: 3})),
        lambda m: m.copy([1], {}),
        lambda m: m.pop(3, "a"),
    ],
)
def test_misuse_raises_what_flax_raises(misuse):
    with pytest.raises(Exception) as expected:
        misuse(theirs)
    with pytest.raises(type(expected.value)):
        misuse(ours)
