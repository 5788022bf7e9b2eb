"""The static part: what is kept, and what is equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from tests.treex.trees import Leaf


def test_equal_trees_have_equal_structures():
    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    f(tx.Linear(3)), f(tx.Linear(3))
    assert len(traces) == 1
    assert jax.tree.structure(tx.Linear(3)) != jax.tree.structure(tx.Linear(4))
    assert jax.tree.map(lambda a, b: a + b, Leaf(1.0), Leaf(2.0)).w == 3.0


@pytest.mark.parametrize("change", [
    lambda m: m.eval(), lambda m: m.freeze(), lambda m: m.init(0)
])  # fmt: skip
def test_modes_are_part_of_the_structure(change):
    module = tx.Module()
    assert jax.tree.structure(module) != jax.tree.structure(change(module))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.ones(2), np.ones(2), True),
        (np.ones(2), np.zeros(2), False),
        (np.ones(2), np.ones(3), False),
        (np.ones(2), jnp.ones(2, jnp.int32), False),
        ([np.ones(2)], [np.ones(2)], True),
        ({"x": np.ones(2)}, {"x": np.zeros(2)}, False),
        (object(), object(), False),
        (1, 1.0, True),
    ],
)
def test_static_values_are_compared_without_raising(a, b, same):
    one, two = Leaf(), Leaf()
    one.static, two.static = a, b
    assert (jax.tree.structure(one) == jax.tree.structure(two)) is same


def test_a_static_value_that_is_replaced_is_seen_everywhere():
    tree = jax.tree.map(lambda x: x, Leaf(name="one"))
    assert tree.name == "one"
    tree.name = "two"
    assert jax.tree.map(lambda x: x, tree).name == "two"
    vars(tree)["name"] = "three"
    assert jax.tree.map(lambda x: x, tree).name == "three"
    tree.__dict__ = {**vars(tree), "name": "four"}
    assert jax.tree.map(lambda x: x, tree).name == "four"
    other = jax.tree.map(lambda x: x, tree)
    del other.name
    assert not hasattr(jax.tree.map(lambda x: x, other), "name")
    tree.flag = 1
    tree = jax.tree.map(lambda x: x, tree)
    tree.flag = True
    assert jax.tree.map(lambda x: x, tree).flag is True


def test_an_equal_container_does_not_take_the_place_of_another():
    tree = Leaf()
    tree.table = [1]
    assert jax.tree.map(lambda x: x, tree).table is tree.table
    tree.table = [1]
    assert jax.tree.map(lambda x: x, tree).table is tree.table


def test_static_attributes_that_the_class_has_too():
    @dataclasses.dataclass
    class Shadowed(tx.Tree):
        x: Any = tx.node(1)
        y: int = tx.static(2)

        def method(self):
            return 0

    tree = Shadowed(x=3, y=4)
    tree.method = "mine"
    for _ in range(3):
        tree = jax.jit(lambda t: t)(tree)
    assert (int(tree.x), tree.y, tree.method) == (3, 4, "mine")


def test_classes_with_ways_of_their_own():
    @dataclasses.dataclass(frozen=True)
    class Frozen(tx.Tree):
        x: Any = tx.node(1)
        y: int = tx.static(2)

    class Lookup(tx.Tree):
        def __init__(self):
            self.x = "static"

        def __getattr__(self, name):
            raise AttributeError(f"no {name}")

    frozen = jax.tree.map(lambda x: x + 1, jax.tree.map(lambda x: x, Frozen(3, 4)))
    assert (frozen.x, frozen.y) == (4, 4)
    assert jax.tree.map(lambda x: x, Lookup()).x == "static"


def test_static_values_changed_in_a_compiled_function_come_back():
    tree = Leaf()
    tree.count = 0

    @jax.jit
    def f(tree):
        tree.count += 1
        return tree

    tree = f(f(tree))
    assert tree.count == 2
