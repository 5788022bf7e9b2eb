"""Leaves: their order, their paths, which attributes hold them, and the contexts."""

from __future__ import annotations

import threading
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


def test_modes_of_flattening():
    tree = Leaf(1.0, 2, "x")
    with tx.flatten_mode("all_fields"):
        assert jax.tree.leaves(tree) == [2, "x", 1.0]
        with tx.flatten_mode(None):
            assert len(jax.tree.leaves(tree)) == 3
    with tx.flatten_mode(tx.FlattenMode.no_fields):
        leaves, structure = jax.tree.flatten(tree)
    assert leaves == [] and jax.tree.unflatten(structure, []).w == 1.0
    with pytest.raises(ValueError, match="'normal'"), tx.flatten_mode("other"):
        pass
    assert jax.tree.leaves(tree) == [2, 1.0]


def test_leaves_are_named_with_the_field_that_owns_them():
    tree = Leaf([{"a": 1}, Leaf(3, 4)], 2)
    with tx.add_field_info():
        leaves, structure = jax.tree.flatten(tree)
        back = jax.tree.unflatten(structure, leaves)
    found = [(i.name, i.value, i.kind, i.module is tree) for i in leaves]
    assert found == [
        ("n", 2, tx.State, True),
        ("w", 1, tx.Parameter, True),
        ("n", 4, tx.State, False),
        ("w", 3, tx.Parameter, False),
    ]
    assert back.w[0] == {"a": 1} and back.n == 2
    assert "name='n'" in repr(leaves[0]) and "module=Leaf" in repr(leaves[0])


def test_contexts_belong_to_their_thread():
    seen = {}
    ready, done = threading.Event(), threading.Event()

    def inside():
        with tx.flatten_mode("all_fields"), tx.rng_key(0), tx.add_field_info():
            ready.set()
            done.wait(5)

    thread = threading.Thread(target=inside)
    thread.start()
    ready.wait(5)
    try:
        seen["leaves"] = jax.tree.leaves(Leaf())
        with pytest.raises(RuntimeError):
            tx.next_key()
    finally:
        done.set()
        thread.join()
    assert seen["leaves"] == [2, 1.0]


def test_contexts_end_with_an_exception():
    with pytest.raises(KeyError), tx.flatten_mode("all_fields"), tx.rng_key(0):
        raise KeyError
    assert jax.tree.leaves(Leaf()) == [2, 1.0]
    with pytest.raises(RuntimeError):
        tx.next_key()
