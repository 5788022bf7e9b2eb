"""Leaves: their order, their paths, and which attributes hold them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.treex as tx
from linsey.errors.treex import (
    StaticTracerError,
)
from tests.treex.trees import Leaf, Outside, Pair


def test_leaves_are_in_the_order_of_names():
    class Named(tx.Tree):
        z: Any = tx.node(1)
        a: Any = tx.node(2)
        m: Any = tx.node(3)

    assert jax.tree.leaves(Named()) == [2, 3, 1]
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(Named())]
    assert paths == [".a", ".m", ".z"]


def test_paths_lead_to_the_leaves():
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(Pair())]
    assert paths == [".a.n", ".a.w", ".more[0].n", ".more[0].w"]


def test_trees_that_nobody_declared_are_nodes():
    outside = Outside(Leaf())
    outside.extra = Leaf()
    assert "extra" not in outside.field_metadata
    outside.check_metadata_updates()
    assert outside.field_metadata["extra"] == tx.FieldMetadata(True, Leaf)
    assert outside.field_metadata["child"].node
    assert len(jax.tree.leaves(outside)) == 4


def test_a_field_that_becomes_a_tree_becomes_a_node():
    outside = Outside(3)
    assert jax.tree.leaves(outside) == []
    outside.late = outside.child = Leaf()
    assert len(jax.tree.leaves(outside)) == 4


def test_containers_of_trees_without_annotation_are_static():
    outside = Outside([Leaf()])
    assert jax.tree.leaves(outside) == []


def test_flattening_finds_what_is_new():
    tree = Leaf()
    jax.tree.leaves(tree)
    tree.child = Leaf()
    assert len(jax.tree.leaves(tree)) == 4
    assert tree.field_metadata["child"].node
    del tree.child
    tree.other = Leaf()
    assert len(jax.tree.leaves(tree)) == 4


def test_a_traced_value_in_a_static_field_is_named():
    @jax.jit
    def f(tree, x):
        tree.cache = x
        return tree

    with pytest.raises(StaticTracerError, match="`cache`"):
        f(Leaf(), 1.0)


def test_anything_can_be_a_leaf_on_the_way_back():
    structure = jax.tree.structure(Leaf())
    for value in (None, "text", object(), jax.ShapeDtypeStruct((2,), jnp.float32)):
        assert jax.tree.unflatten(structure, [value, 1]).n is value
