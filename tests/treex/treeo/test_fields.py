"""Fields: what a class declares or annotates."""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Any

import jax
import numpy as np
import pytest

import linsey.treex as tx
from tests.treex.trees import Annotated, Array, Leaf, Pair, kinds_of


@pytest.mark.parametrize("mention", ["plain", "listed", "nested", "optional",
                                     "either", "union", "many"])  # fmt: skip
def test_an_annotation_that_mentions_a_tree_makes_a_node(mention):
    assert Annotated().field_metadata[mention] == tx.FieldMetadata(True, NoneType)


@pytest.mark.parametrize("name", ["anything", "number", "word"])
def test_other_annotations_make_static_fields(name):
    assert Annotated().field_metadata[name] == tx.FieldMetadata(False, NoneType)


def test_what_is_declared_static_stays_static():
    pair = Pair()
    doubled = jax.tree.map(lambda x: 2 * x, pair)
    assert (doubled.a.w, doubled.b.w) == (2.0, 1.0)
    assert not pair.eval().field_metadata["b"].node


def test_defaults_are_on_the_instance():
    class Base(tx.Tree):
        flag: bool = tx.static(False)
        made: list = tx.node(default_factory=lambda: [1])

    a, b = Base(), Base()
    assert vars(a)["flag"] is False
    assert a.made == [1] and a.made is not b.made

    @dataclasses.dataclass
    class Derived(Base):
        x: int

    assert vars(Derived(3))["flag"] is False


def test_two_defaults_are_refused():
    with pytest.raises(ValueError):
        tx.field(1, node=True, default_factory=int)


def test_a_declared_field_that_was_never_set_says_so():
    class Unset(tx.Module):
        w: Array = tx.Parameter.node()

        def __init__(self):
            pass

    tree = Unset()
    with pytest.raises(AttributeError, match="was declared and never set"):
        _ = tree.w
    assert jax.tree.leaves(tree) == [] and "w" not in vars(tree.copy())
    assert "Unset" in repr(tree.init(0))


def test_subclasses_of_dataclasses_keep_their_fields():
    @dataclasses.dataclass
    class Base(tx.Tree):
        a: Any = tx.Parameter.node(1)
        b: Any = tx.static(2)

    class Derived(Base):
        pass

    assert Derived(3).field_metadata["a"] == tx.FieldMetadata(True, tx.Parameter)
    assert jax.tree.leaves(Derived(3)) == [3]
    doubled = jax.tree.map(lambda x: 2 * x, Base(3, b=7))
    assert (doubled.a, doubled.b) == (6, 7)  # not the default that the class has


def test_subclasses_override_declarations():
    class Derived(Leaf):
        w: Array = tx.State.node()

    assert kinds_of(Derived()) == [("n", tx.State), ("w", tx.State)]


def test_metadata_is_read_only_and_compared_by_value():
    tree = Leaf()
    with pytest.raises(TypeError):
        tree.field_metadata["w"] = None
    with pytest.raises(AttributeError):
        tree.field_metadata["w"].node = False
    assert {"_field_metadata", "_subtrees"} <= set(tree.field_metadata)
    entry = tx.FieldMetadata(True, int, False)
    assert entry == tx.FieldMetadata(True, int, False)
    assert entry.update(kind=str) == tx.FieldMetadata(True, str, False)


def test_updated_metadata_belongs_to_the_copy():
    tree = Leaf(np.ones(2), np.ones(2))
    other = tree.update_field_metadata("w", node=False)
    assert tree.field_metadata["w"].node and not other.field_metadata["w"].node
    done = jax.jit(lambda t: t)(other)
    assert type(done.w) is np.ndarray and isinstance(done.n, jax.Array)
    with pytest.raises(KeyError):
        tree.update_field_metadata("unknown", node=False)


def test_marks_of_dataclasses_are_no_fields():
    @dataclasses.dataclass
    class Made(tx.Tree):
        size: dataclasses.InitVar[int]
        _: dataclasses.KW_ONLY
        x: Any = tx.node(1)

        def __post_init__(self, size):
            self.x = size * self.x

    made = Made(3, x=2)
    assert jax.tree.leaves(made) == [6]
    assert not {"_", "size"} & set(made.field_metadata)
