"""Flatten modes and named leaves."""

from __future__ import annotations

import threading

import jax
import pytest

import linsey.treex as tx
from tests.treex.trees import Leaf


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
