"""Compact methods: what they build, and what they refuse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.treex as tx
from linsey.errors import (
    MismatchError,
    OptionError,
    UsageError,
)
from tests.treex.modules import Compact, X


def test_compact_fields_and_their_order():
    model = Compact().init(0, X)
    assert model._subtrees == ("linear", "linear2")
    assert model.field_metadata["linear"].node
    assert model(X).shape == (5, 3)
    assert jax.jit(lambda m: m(X))(model).shape == (5, 3)
    assert len(jax.tree.leaves(model.parameters())) == 4


def test_names_given_are_the_names_of_fields():
    class Model(tx.Module):
        head: tx.Linear

        @tx.compact
        def __call__(self, x):
            x = tx.Linear(2, name="head")(x)
            x = tx.Linear(2, name="dense_09")(x)
            return tx.Linear(2, name="dense_09")(x)

    assert Model().init(0, X)._subtrees == ("head", "dense_09", "dense_10")


def test_building_more_than_the_first_run():
    class Growing(tx.Module):
        @tx.compact
        def __call__(self, x, layers):
            for _ in range(layers):
                x = tx.Linear(2)(x)
            return x

    model = Growing().init(0, (X, 2))
    assert model(X, 1).shape == (5, 2)
    with pytest.raises(MismatchError, match="Out of bounds"):
        model(X, 3)


def test_every_construction_in_the_run_counts():
    class Child(tx.Module):
        def __call__(self, x):
            return tx.Linear(2)(x)

    class Parent(tx.Module):
        @tx.compact
        def __call__(self, x):
            tx.metrics.Mean()
            return Child()(x)

    assert Parent().init(0, X)._subtrees == ("mean", "child", "linear")


def test_constructors_are_outside():
    seen = []

    class Spy(tx.Module):
        def __init__(self):
            seen.append(tx.in_compact())
            self.a = tx.Linear(2)

        def __call__(self, x):
            return self.a(x)

    class Parent(tx.Module):
        @tx.compact
        def __call__(self, x):
            seen.append(tx.in_compact())
            return Spy()(x)

    parent = Parent().init(0, X)
    assert seen[:2] == [True, False] and parent._subtrees == ("spy",)
    assert parent.spy.a.kernel is not None and not tx.in_compact()


def test_first_run():
    seen = []

    class Model(tx.Module):
        @tx.compact
        def __call__(self):
            seen.append(self.first_run)

    model = Model()
    model(), model()
    assert seen == [True, False]
    with pytest.raises(UsageError):
        _ = model.first_run


def test_get_field():
    class Model(tx.Treex):
        w: Any = tx.Parameter.node()
        late: Any = tx.Parameter.node()

        @tx.compact
        def __call__(self, later=False):
            if later:
                return self.get_field("late", lambda: 1)
            return self.get_field("w", lambda: jnp.ones(2))

    model = Model()
    assert model() is model.w and model() is model.w
    with pytest.raises(UsageError):
        model(later=True)
    with pytest.raises(OptionError):
        model.get_field("unknown", lambda: 1)
    other = Model()
    assert other.get_field("late", lambda: 3) == 3
    assert jax.tree.leaves(model.filter(tx.Parameter))[0].shape == (2,)


def test_compact_methods_that_call_super():
    class Base(tx.Module):
        @tx.compact
        def __call__(self, x):
            return tx.Linear(3, name="base")(x)

    class Derived(Base):
        @tx.compact
        def __call__(self, x):
            return tx.Linear(2, name="top")(super().__call__(x))

    model = Derived().init(0, X)
    assert set(model._subtrees) == {"base", "top"}
    assert model(X).shape == (5, 2)


def test_compact_methods_inside_of_others_and_one_after_the_other():
    class Model(tx.Module):
        @tx.compact
        def encode(self, x):
            return tx.Linear(3, name="encoder")(x)

        @tx.compact
        def decode(self, x):
            return tx.Linear(4, name="decoder")(x)

        @tx.compact
        def __call__(self, x):
            return tx.Linear(5, name="top")(self.encode(x))

        def both(self, x):
            return self.decode(self.encode(x))

    nested = Model().init(0, X)
    assert nested._subtrees == ("top", "encoder") and nested(X).shape == (5, 5)
    after = Model().init(0, X, "both")
    assert after._subtrees == ("encoder", "decoder")
    assert after.both(X).shape == (5, 4)


def test_recursion_is_named():
    class Model(tx.Module):
        @tx.compact
        def __call__(self, x):
            return self(x)

    with pytest.raises(UsageError):
        Model().init(0, X)


def test_a_first_run_that_fails_leaves_nothing():
    class Model(tx.Module):
        @tx.compact
        def __call__(self, x, fail):
            tx.Linear(2)(x)
            if fail:
                raise KeyError

    model = Model()
    with pytest.raises(KeyError):
        model.init(0, (X, True), inplace=True)
    assert model._subtrees is None and not tx.in_compact()
    assert model.init(0, (X, False))._subtrees == ("linear",)


def test_static_fields_take_no_compact_children():
    class Model(tx.Module):
        linear: Any = tx.static()

        @tx.compact
        def __call__(self, x):
            return tx.Linear(2)(x)

    with pytest.raises(OptionError):
        Model().init(0, X)


def test_what_default_factories_build_belongs_to_its_owner():
    class Owner(tx.Module):
        inner: tx.Linear = tx.node(default_factory=lambda: tx.Linear(2))

        def __call__(self, x):
            return self.inner(x)

    class Model(tx.Module):
        @tx.compact
        def __call__(self, x):
            return Owner()(x)

    model = Model().init(0, X)
    assert model._subtrees == ("owner",) and model(X).shape == (5, 2)
