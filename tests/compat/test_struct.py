"""`struct` dataclasses against those of Flax."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import pytest

from linsey import struct as ours

theirs = pytest.importorskip("flax.struct")


def make(struct):
    class Node(struct.PyTreeNode, kw_only=True):
        a: Any = 1
        s: Any = struct.field(pytree_node=False, default=2, metadata={"unit": "m"})
        b: Any

    class Child(Node):
        c: Any = 5

    return Child


def test_text_structure_paths_and_fields_agree():
    mine, other = (make(struct)(b={"x": 3}) for struct in (ours, theirs))
    assert repr(mine) == repr(other)
    assert repr(jax.tree.structure(mine)) == repr(jax.tree.structure(other))
    assert jax.tree_util.tree_leaves_with_path(
        mine
    ) == jax.tree_util.tree_leaves_with_path(other)
    assert inspect.signature(type(mine)) == inspect.signature(type(other))
    assert [f.metadata for f in dataclasses.fields(mine)] == [
        f.metadata for f in dataclasses.fields(other)
    ]
    assert set(dir(other)) <= set(dir(mine))


@pytest.mark.parametrize("name", ["field", "dataclass", "PyTreeNode"])
def test_signatures_agree(name):
    mine = inspect.signature(getattr(ours, name)).parameters.values()
    other = inspect.signature(getattr(theirs, name)).parameters.values()
    assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in other]
    assert [p.default for p in mine] == [p.default for p in other]


def class_with_hidden_field(struct):
    class Node(struct.PyTreeNode):
        a: Any = dataclasses.field(init=False, default=3)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda struct: struct.PyTreeNode(),
        lambda struct: make(struct)(1, 2),
        lambda struct: make(struct)(b=1).replace(z=1),
        lambda struct: setattr(make(struct)(b=1), "a", 2),
        lambda struct: jax.tree.map(max, *(make(struct)(b=1, s=s) for s in (1, 2))),
        class_with_hidden_field,
    ],
)
def test_misuse_raises_what_flax_raises(misuse):
    with pytest.raises(Exception) as expected:
        misuse(theirs)
    with pytest.raises(type(expected.value)):
        misuse(ours)
