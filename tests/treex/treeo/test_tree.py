"""Trees as objects: constructors, identity, and what survives a journey."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import cloudpickle
import jax
import pytest

import linsey.treex as tx
from tests.treex.trees import Leaf, Pair


def test_signatures_are_those_of_the_constructor():
    @dataclasses.dataclass
    class Made(tx.Tree):
        x: int
        y: int = tx.node(2)

    assert list(inspect.signature(Made).parameters) == ["x", "y"]
    assert list(inspect.signature(Leaf).parameters) == ["w", "n", "name"]


def test_flatten_methods():
    (nodes,), static = Leaf(1.0, 2).tree_flatten()
    assert nodes == {"n": 2, "w": 1.0} and static["name"] == "leaf"
    back = Leaf.tree_unflatten(static, (nodes,))
    assert (back.w, back.n, back.name) == (1.0, 2, "leaf")


def test_sharing_is_not_kept():
    tree = Pair()
    tree.more = [tree.a]
    other = tree.copy()
    assert other.more[0] is not other.a


def test_identity_is_equality_unless_a_dataclass_says_otherwise():
    assert Leaf() != Leaf() and len({Leaf(), Leaf()}) == 2

    @dataclasses.dataclass
    class Compared(tx.Tree):
        x: int = tx.node(1)

    assert Compared() == Compared()


@pytest.mark.parametrize(
    "travel",
    [
        copy.copy,
        copy.deepcopy,
        tx.copy,
        lambda t: pickle.loads(pickle.dumps(t)),
        lambda t: cloudpickle.loads(cloudpickle.dumps(t)),
        lambda t: jax.tree.map(lambda x: x, t),
    ],
    ids=["copy", "deepcopy", "tx.copy", "pickle", "cloudpickle", "map"],
)
def test_trees_survive_a_journey(travel):
    tree = Pair().update_field_metadata("more", node=False)
    tree.a.extra = Leaf()
    tree = jax.tree.map(lambda x: x, tree)
    back = travel(tree)
    assert jax.tree.structure(back.a) == jax.tree.structure(tree.a)
    assert not back.field_metadata["more"].node
    assert back.a.extra.w == 1.0 and back is not tree
