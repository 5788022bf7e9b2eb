"""Markers and wrappers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import linsey.treex as tx
from tests.treex.trees import Leaf


def test_none_and_nothing_have_no_leaves():
    assert jax.tree.leaves(Leaf(None, tx.Nothing())) == []
    is_nothing = lambda x: isinstance(x, tx.Nothing)  # noqa: E731
    assert jax.tree.leaves([(1, 2), (3, tx.Nothing())], is_leaf=is_nothing) == [
        1, 2, 3, tx.NOTHING]  # fmt: skip
    assert {tx.Nothing(), tx.NOTHING} == {tx.NOTHING}
    assert tx.Nothing()


def test_hashable_is_one_structure_per_object():
    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    tree = Leaf()
    tree.table = table = tx.Hashable([1])
    assert f(f(tree)).table is table
    tree.table = tx.Hashable([1])
    f(tree)
    assert len(traces) == 2
    with pytest.raises(AttributeError):
        table.value = 1
    assert table != tx.Hashable([1]) and hash(table) != hash(tx.Hashable([1]))


@pytest.mark.parametrize(
    ("opaque", "one", "two", "count"),
    [
        (True, "a", "b", 1),
        (True, np.zeros(2), np.ones(2), 1),
        (True, np.zeros(2), np.zeros(3), 2),
        (lambda a, b: len(a.value) == len(b.value), [1], [2], 1),
        (lambda a, b: len(a.value) == len(b.value), [1], [1, 2], 2),
        (False, "a", "b", 2),
    ],
)
def test_opaque_values_do_not_ask_for_a_new_program(opaque, one, two, count):
    class Hidden(tx.Tree):
        x: Any = tx.node(1)
        hidden: Any = tx.static(opaque=opaque)

    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    first, second = Hidden(), Hidden()
    first.hidden, second.hidden = one, two
    f(first)
    stale = f(second)
    assert len(traces) == count
    assert stale.hidden is (one if count == 1 else two)
    assert jax.tree.map(lambda x: x, second).hidden is two


def test_opaque_in_an_ordinary_field():
    a, b = Leaf(name=tx.Opaque("a", None)), Leaf(name=tx.Opaque("b", None))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert tx.Opaque(1, None) != 1 and repr(tx.Opaque(1, None)) == "Hidden(1)"
    with pytest.raises(TypeError):
        hash(tx.Opaque(1, None))
