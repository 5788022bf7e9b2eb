"""Operations on trees: copy, filter, merge, map, apply, as dictionaries and text."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors import (
    ArgumentTypeError,
)
from linsey.errors.treex import (
    InPlaceError,
    TreeMismatchError,
)
from tests.treex.trees import Annotated, Leaf, Pair

KINDS = [tx.Parameter, tx.State, tx.Rng, tx.MetricState, tx.ModelState, tx.BatchStat,
         tx.Cache, tx.OptState, tx.Log, tx.LossLog, tx.MetricLog]  # fmt: skip


# One leaf of every kind, and one of none: the fields are named like their kinds.
Every = type(tx.Module)(
    "Every",
    (tx.Module,),
    {"plain": tx.node("plain")} | {k.__name__: k.node(k.__name__) for k in KINDS},
)


class Model(tx.Treex):
    """Two parameters, two states, one of each in a tree inside."""

    w: Any = tx.Parameter.node()
    n: Any = tx.State.node()
    inner: Any = tx.node()

    def __init__(self, w, n, inner=None, name="x"):
        self.w, self.n, self.inner, self.name = w, n, inner, name


@pytest.fixture
def model():
    return Model(1.0, 2, Model(3.0, 4))


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("parameters", "Parameter"),
        ("trainable_parameters", "Parameter"),
        ("batch_stats", "BatchStat"),
        ("caches", "Cache"),
        ("rngs", "Rng"),
        ("model_states", "ModelState BatchStat Cache"),
        ("states", "State Rng MetricState ModelState BatchStat Cache OptState"),
        ("logs", "Log LossLog MetricLog"),
        ("loss_logs", "LossLog"),
        ("metric_logs", "MetricLog"),
    ],
)
def test_selections(method, kinds):
    assert set(jax.tree.leaves(getattr(Every(), method)())) == set(kinds.split())


def test_filter_keeps_what_all_filters_accept(model):
    states = tx.filter(model, tx.State)
    assert jax.tree.leaves(states) == [4, 2]
    assert states.w == tx.NOTHING and states.inner.w == tx.NOTHING
    assert jax.tree.leaves(model.filter(tx.State, lambda f: f.value > 2)) == [4]
    assert jax.tree.leaves(model.filter(tx.State, tx.Parameter)) == []
    assert jax.tree.leaves(model.filter()) == jax.tree.leaves(model)
    assert jax.tree.leaves(model.filter(lambda f: f.name == "w")) == [3.0, 1.0]
    assert jax.tree.leaves(model.filter(tx.Parameter, lambda f: f.module is model)) == [
        1.0
    ]


def test_filter_of_plain_pytrees(model):
    mixed = {"a": 5, "b": model}
    assert tx.filter(mixed, tx.State)["a"] == tx.NOTHING
    assert tx.filter(mixed, lambda f: f.value == 5)["a"] == 5
    named = tx.filter(tx.Named("x", 1), tx.State)
    assert named == tx.Named("x", tx.NOTHING)


@pytest.mark.parametrize("bad", [(tx.State, tx.Parameter), "State", 3])
def test_a_filter_is_a_class_or_a_function(model, bad):
    with pytest.raises(ArgumentTypeError):
        tx.filter(model, bad)


def test_a_filter_of_all_fields_leaves_the_books_alone():
    linear = tx.Linear(3).init(0, jnp.ones((1, 2)))
    for changed in (
        tx.filter(linear, tx.Parameter, flatten_mode="all_fields"),
        tx.map(lambda x: tx.NOTHING, linear, flatten_mode="all_fields"),
    ):
        assert changed.initialized and changed.training
        assert changed.features_out == tx.NOTHING
        assert "Linear" in repr(changed)


def test_merge_takes_the_last_value(model):
    halves = tx.filter(model, tx.State), tx.filter(model, tx.Parameter)
    for merged in (tx.merge(*halves), halves[0].merge(halves[1])):
        assert jax.tree.leaves(merged) == jax.tree.leaves(model)
    a, b, c = Model(1, tx.NOTHING), Model(tx.NOTHING, 2), Model(3, tx.NOTHING)
    assert vars(tx.merge(a, b, c)) == vars(tx.merge(a, tx.merge(b, c)))
    assert tx.merge((1, tx.NOTHING), (tx.NOTHING, tx.NOTHING)) == (1, tx.NOTHING)


def test_none_is_a_value_for_merge():
    assert tx.merge([1, None], [None, 2]) == [None, 2]


def test_merge_of_all_fields_takes_static_values_too(model):
    assert tx.merge(tx.Linear(3), tx.Linear(3).eval()).training is False
    assert model.merge(Model(5, 6, Model(7, 8), name="y")).name == "y"
    extra = model.copy()
    extra.more = 1
    with pytest.raises(TreeMismatchError):
        model.merge(extra)
    uninitialized = tx.Linear(3)
    done = uninitialized.init(0, jnp.ones((1, 2)))
    assert uninitialized.merge(done).kernel is done.kernel
    waiting = Model(tx.Initializer(abs), 1)
    with pytest.raises(ValueError):
        waiting.merge(Model(1.0, 1))


def test_merge_of_nodes_keeps_static_values(model):
    other = Model(5.0, tx.NOTHING, Model(6.0, tx.NOTHING), name="y")
    with pytest.raises(ValueError):
        model.merge(other, flatten_mode="normal")
    with tx.flatten_mode("normal"), pytest.raises(ValueError):
        model.merge(other)
    merged = model.merge(other, flatten_mode="normal", ignore_static=True)
    assert jax.tree.leaves(merged) == [4, 6.0, 2, 5.0] and merged.name == "x"
    with pytest.raises(ValueError):
        model.merge(Model(1, 2), flatten_mode="normal", ignore_static=True)


def test_map(model):
    negative = tx.map(lambda x: -x, model, tx.Parameter)
    assert jax.tree.leaves(negative) == [4, -3.0, 2, -1.0]
    assert jax.tree.leaves(model.map(lambda x: -x)) == [-4, -3.0, -2, -1.0]
    assert jax.tree.leaves(model.map(lambda x: tx.NOTHING, tx.State)) == [
        4,
        3.0,
        2,
        1.0,
    ]
    seen = []
    model.map(seen.append, tx.State, field_info=True)
    assert [(f.name, f.value) for f in seen] == [("n", 4), ("n", 2)]
    found = Model(None, 2).map(lambda x: 0, is_leaf=lambda x: x is None)
    assert vars(found)["w"] == 0
    assert isinstance(negative, Model)


def test_changes_in_place(model):
    inner = model.inner
    assert model.map(lambda x: -x, tx.State, inplace=True) is model
    assert model.n == -2 and model.inner is not inner
    model.merge(Model(tx.NOTHING, 7, Model(tx.NOTHING, 8)), inplace=True)
    assert (model.n, model.inner.n, model.w) == (7, 8, 1.0)
    assert model.filter(tx.State, inplace=True).w == tx.NOTHING
    other = Model(1, 2)
    other.merge(Model(3, 4))
    assert other.w == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda: tx.filter((1,), int, inplace=True),
        lambda: tx.map(abs, (1,), inplace=True),
        lambda: tx.merge((1,), (2,), inplace=True),
    ],
)
@pytest.mark.parametrize("caught", [TypeError, ValueError, InPlaceError])
def test_what_has_no_attributes_does_not_change_in_place(change, caught):
    with pytest.raises(caught):
        change()


def test_apply_visits_children_before_parents(model):
    model.second = Model(5.0, 6)
    seen = []
    tx.apply(lambda t: seen.append(t.w), model)
    assert seen == [3.0, 5.0, 1.0]
    seen.clear()
    tx.apply(lambda t: seen.append(t.w), {"b": Model(1, 0), "a": [Model(2, 0)]})
    assert seen == [2, 1]


def test_apply_changes_a_copy_unless_told_otherwise(model):
    def double(tree):
        tree.w = 2 * tree.w

    inner = model.inner
    assert model.apply(double).inner.w == 6.0 and model.inner.w == 3.0
    assert tx.apply(double, model, inplace=True) is model
    assert model.inner is inner and inner.w == 6.0


def test_apply_walks_several_trees(model):
    other = model.map(lambda x: 10 * x)

    def add(tree, second):
        tree.w += second.w
        second.w = None  # of a copy

    assert jax.tree.leaves(tx.apply(add, model, other)) == [4, 33.0, 2, 11.0]
    assert other.w == 10.0
    with pytest.raises(TreeMismatchError):
        tx.apply(add, model, Model(1, 2))


def test_apply_asks_for_identity_not_equality():
    @dataclasses.dataclass
    class Nested(tx.Tree):
        x: Any = tx.node()
        inner: Any = tx.node(None)

    seen = []
    tree = Nested(np.ones(2), Nested(np.ones(2)))
    tx.apply(lambda t: seen.append(t.inner is None), tree)
    assert seen == [True, False]


def test_static_trees_are_not_visited():
    class Holder(tx.Module):
        a: tx.Linear
        b: tx.Linear = tx.static()

        def __init__(self):
            self.a, self.b = tx.Linear(3), tx.Linear(3)

        def __call__(self, x):
            return self.a(x)

    holder = Holder().init(0, jnp.ones((1, 2))).eval()
    assert len(jax.tree.leaves(holder)) == 2
    assert (holder.a.initialized, holder.b.initialized) == (True, False)
    assert (holder.a.training, holder.b.training) == (False, True)


def test_every_array_of_an_initialized_tree_is_jax_after_a_compiled_identity():
    tree = Model(np.ones(2), 3, [Model(np.ones(1), 1)])
    assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves(tree))
    done = jax.jit(lambda t: t)(tree)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(done))


def test_copy_builds_containers_anew_and_shares_leaves():
    tree = Leaf(np.ones(1))
    tree.table = {"x": [tree.w]}
    other = tree.copy()
    assert other.w is tree.w and other.table["x"][0] is tree.w
    assert other.table is not tree.table and other.table["x"] is not tree.table["x"]


def test_to_dict():
    pair = Pair()
    assert pair.to_dict(static_fields=False) == {
        "a": {"n": 2, "w": 1.0},
        "more": [{"n": 6, "w": 5.0}],
    }
    assert pair.to_dict()["b"] == {"n": 2, "name": "leaf", "w": 1.0}
    assert Leaf((1, 2)).to_dict()["w"] == [1, 2]
    typed = pair.to_dict(type_info=True)
    assert typed["__type__"] is Pair and typed["more"][-1] is list
    assert typed["more"][0]["__type__"] is Leaf
    named = pair.to_dict(field_info=True)["b"]["w"]
    assert (named.name, named.value, named.kind) == ("w", 1.0, tx.Parameter)
    assert "_training" in tx.Module().to_dict(private_fields=True)
    assert "_training" not in tx.Module().to_dict()


def test_to_string():
    tree = Leaf(jnp.ones(3), [np.ones(2), (), "x"])
    assert tx.to_string(tree) == "\n".join(
        [
            "Leaf {",
            "    n: list [                            State",
            "        numpy.ndarray((2,), float64),",
            "        tuple [],",
            '        "x",',
            "    ],",
            '    name: "leaf",',
            "    w: jaxlib.ArrayImpl((3,), float32),    Parameter",
            "}",
        ]
    ).replace("list [                            ", "list [" + " " * 30)
    assert repr(tree) == tx.to_string(tree)
    assert "\x1b[2mState" in tree.to_string(color=True)
    assert tx.to_string(Annotated()) == "Annotated {}"
    assert repr(Annotated()).startswith("<")  # a bare tree has no such repr
