"""Laws of `struct` dataclasses: frozen, pytrees with names, known to state dicts."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import pytest

from linsey import struct
from linsey.errors import StateDictMismatchError
from linsey.serialization import from_state_dict, to_state_dict

T = TypeVar("T")


@struct.dataclass
class Point:
    x: Any
    name: str = struct.field(pytree_node=False, default="p")
    y: Any = None


class Node(struct.PyTreeNode):
    a: Any
    static: Any = struct.field(pytree_node=False, default=3)


class Child(Node):
    b: Any = 4


class Options(struct.PyTreeNode, kw_only=True):
    a: Any = 1
    b: Any


class Box(struct.PyTreeNode, Generic[T]):
    value: T


def test_children_are_the_data_fields_with_their_names():
    flat, treedef = jax.tree_util.tree_flatten_with_path(Point(1, "q", 2))
    assert [jax.tree_util.keystr(path) for path, _ in flat] == [".x", ".y"]
    assert jax.tree.unflatten(treedef, [3, 4]) == Point(3, "q", 4)


def test_static_fields_are_part_of_the_structure():
    assert jax.tree.structure(Point(1, "q")) == jax.tree.structure(Point(2, "q"))
    assert jax.tree.structure(Point(1, "q")) != jax.tree.structure(Point(1, "r"))
    traces = []

    @jax.jit
    def double(point):
        traces.append(point.name)
        return point.replace(x=point.x * 2)

    assert double(Point(1.0, "q")).x == 2 and double(Point(3.0, "q")).x == 6
    double(Point(1.0, "r"))
    assert traces == ["q", "r"]


def test_instances_are_frozen_and_replaced():
    point = Point(1, "q", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2
    assert point.replace(x=5, name="r") == Point(5, "r", 2)
    assert point == Point(1, "q", 2) and hash(point) == hash(Point(1, "q", 2))
    with pytest.raises(TypeError):
        point.replace(z=1)


def test_subclasses_inherit_fields_and_options_go_to_the_class_line():
    assert jax.tree.leaves(Child(1, 2, 3)) == [1, 3]
    assert Options(b=2) == Options(a=1, b=2)
    with pytest.raises(TypeError):
        Options(1, 2)
    assert Box[int](3).value == 3 and jax.tree.leaves(Box(3)) == [3]


def test_a_plain_subclass_is_a_leaf_until_it_is_decorated():
    class Plain(Point):
        pass

    assert jax.tree.leaves(Plain(1)) == [Plain(1)]
    decorated = struct.dataclass(Plain)
    assert struct.dataclass(decorated) is decorated
    assert jax.tree.leaves(decorated(1)) == [1]


def test_dataclass_options_pass_through():
    @struct.dataclass(frozen=False, kw_only=True)
    class Loose:
        a: Any = 1
        b: Any

    loose = Loose(b=2)
    loose.a = 5
    assert jax.tree.leaves(loose) == [5, 2]

    @struct.dataclass(slots=True)
    class Slotted:
        a: Any

    assert not hasattr(Slotted(1), "__dict__")
    assert jax.tree.map(lambda x: x + 1, Slotted(1)).replace(a=7).a == 7


def test_field_keeps_metadata():
    metadata = struct.field(pytree_node=False, metadata={"unit": "m"}).metadata
    assert dict(metadata) == {"unit": "m", "pytree_node": False}
    assert struct.field(default_factory=list).default_factory is list


def test_post_init_runs_when_an_instance_is_rebuilt():
    class Checked(struct.PyTreeNode):
        a: Any

        def __post_init__(self):
            seen.append(self.a)

    seen = []
    jax.tree.map(lambda x: x + 1, Checked(1)).replace(a=9)
    assert seen == [1, 2, 9]


def test_instances_travel():
    for twin in (copy.deepcopy(Child(1, 2, 3)), pickle.loads(pickle.dumps(Child(1)))):
        assert type(twin) is Child
    assert pickle.loads(pickle.dumps(Child(1, 2, 3))) == Child(1, 2, 3)


def test_transforms_see_through_instances():
    batched = Node(jnp.arange(3.0))
    doubled = jax.vmap(lambda node: node.replace(a=node.a * 2))(batched)
    assert doubled.a.tolist() == [0, 2, 4]
    grads = jax.grad(lambda node: (node.a**2).sum())(batched)
    assert isinstance(grads, Node) and grads.a.tolist() == [0, 2, 4]


def test_state_dict_holds_the_data_fields():
    node = Child(a={"w": 1}, static="kept", b=[2])
    assert to_state_dict(node) == {"a": {"w": 1}, "b": {"0": 2}}
    assert from_state_dict(node, {"a": {"w": 5}, "b": {"0": 6}}) == Child(
        {"w": 5}, "kept", [6]
    )


def test_state_dicts_that_do_not_fit_are_refused_with_the_path():
    tree = {"opt": Node({"w": 1})}
    with pytest.raises(StateDictMismatchError, match=r"Missing field a .* at path ./o"):
        from_state_dict(tree, {"opt": {}})
    with pytest.raises(ValueError, match=r'Unknown field\(s\) "z" .* at path ./opt'):
        from_state_dict(tree, {"opt": {"a": {"w": 1}, "z": 1}})
    with pytest.raises(ValueError, match=r"not present in state dict at path ./opt/a"):
        from_state_dict(tree, {"opt": {"a": {}}})
    with pytest.raises(StateDictMismatchError, match="type int"):
        from_state_dict(tree, {"opt": 3})


def test_the_base_class_has_no_instances():
    with pytest.raises(NotImplementedError, match="Write a subclass"):
        struct.PyTreeNode()
