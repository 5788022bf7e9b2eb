"""Laws of boxes: taken off and put back, axes followed, shardings read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from linsey import struct
from linsey.core import meta
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.core.meta import PARTITION_NAME, Partitioned
from linsey.errors import OptionError, PartitioningUnspecifiedError
from linsey.serialization import from_bytes, from_state_dict, to_bytes, to_state_dict

STACK = {PARTITION_NAME: "stack"}
TREE = {
    "a": Partitioned(1, ("x", None)),
    "b": 2,
    "c": freeze({"d": Partitioned(3, ("y",)), "e": None}),
}


class Doubled(struct.PyTreeNode, meta.AxisMetadata):
    value: object

    def unbox(self):
        return self.value * 2

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("x", "y"))


def test_unbox_takes_values_out_of_all_boxes():
    assert meta.unbox(TREE) == {"a": 1, "b": 2, "c": {"d": 3, "e": None}}
    assert type(meta.unbox(TREE)["c"]) is FrozenDict
    assert meta.unbox(Partitioned(Doubled(3), ("x",))) == 6
    array = jnp.ones(3)
    assert meta.unbox(array) is array and meta.unbox(3) == 3


def test_replace_boxed_undoes_unbox():
    assert meta.replace_boxed(TREE, meta.unbox(TREE)) == TREE
    new = meta.replace_boxed(TREE, {"a": 5, "b": 6, "c": freeze({"d": 7, "e": None})})
    assert new["a"] == Partitioned(5, ("x", None)) and new["b"] == 6
    nested = Partitioned(Partitioned(1, ("x",)), ("y",))
    assert meta.replace_boxed(nested, 2) == Partitioned(Partitioned(2, ("x",)), ("y",))
    with pytest.raises(ValueError):
        meta.replace_boxed({"a": Partitioned(1, ())}, {"b": 1})


def test_map_axis_meta_sees_only_boxes():
    names = meta.map_axis_meta(lambda box: box.names, TREE)
    assert names == {"a": ("x", None), "b": 2, "c": {"d": ("y",), "e": None}}
    assert meta.is_axis_metadata(TREE["a"]) and not meta.is_axis_metadata(2)


@given(st.lists(st.sampled_from(["x", "y", None]), max_size=4), st.integers(-5, 4))
def test_names_follow_the_axis_that_a_transform_adds(names, index):
    index = max(-len(names) - 1, min(index, len(names)))
    array = np.empty([1] * len(names))
    box = Partitioned(array, tuple(names))
    grown = box.add_axis(index, STACK)
    expanded = np.expand_dims(array, index)
    position = index % expanded.ndim
    assert len(grown.names) == expanded.ndim
    assert grown.names[position] == "stack"
    assert grown.remove_axis(index, STACK) == box


def test_axes_of_scalars_beyond_the_names_are_filled_with_none():
    assert Partitioned(0, ("x",)).add_axis(2, STACK).names == ("x", None, "stack")


def test_trees_of_boxes_gain_and_lose_axes():
    grown = meta.add_axis(TREE, 0, STACK)
    assert grown["a"].names == ("stack", "x", None) and grown["b"] == 2
    assert meta.remove_axis(grown, 0, STACK) == TREE


def test_the_axis_added_must_be_named():
    box = TREE["a"]
    for change in (box.add_axis, box.remove_axis):
        with pytest.raises(PartitioningUnspecifiedError, match="metadata_params"):
            change(0, {})
    assert box.add_axis(0, {PARTITION_NAME: None}).names == (None, "x", None)
    with pytest.raises(OptionError, match="is not 'stack'"):
        box.remove_axis(0, STACK)
    with pytest.raises(AssertionError):
        box.remove_axis(0, STACK)


def test_with_partitioning_boxes_what_an_initializer_returns():
    init = meta.with_partitioning(jax.nn.initializers.ones, ("x", None))
    box = init(jax.random.key(0), (2, 3), jnp.bfloat16)
    assert box.names == ("x", None) and box.mesh is None
    assert box.value.dtype == jnp.bfloat16 and init.__name__ == "ones"


def test_partition_specs_and_shardings_of_shapes():
    abstract = jax.eval_shape(
        lambda: {"a": Partitioned(jnp.ones((2, 3)), ("x", None)), "b": jnp.ones(2)}
    )
    assert meta.get_partition_spec(abstract) == {"a": P("x", None), "b": P()}
    assert meta.get_partition_spec({"n": 3, "own": Doubled(3)}) == {
        "n": None,
        "own": None,
    }
    shardings = meta.get_sharding(abstract | {"n": 3}, mesh())
    assert shardings == {
        "a": NamedSharding(mesh(), P("x", None)),
        "b": NamedSharding(mesh(), P()),
        "n": None,
    }
    assert abstract["a"].get_sharding(mesh()) == shardings["a"]


def constraints(box, **kwargs) -> int:
    jaxpr = jax.make_jaxpr(lambda box: box.unbox(**kwargs))(box)
    return sum(eqn.primitive.name == "sharding_constraint" for eqn in jaxpr.eqns)


def test_values_are_constrained_only_where_there_is_a_mesh():
    box = Partitioned(jnp.ones((2, 3)), ("x", None))
    assert constraints(box) == 0
    assert constraints(box.replace(mesh=mesh())) == 1
    assert constraints(box.replace(mesh=mesh()), apply_constraint=False) == 0
    assert not meta.global_mesh_defined() and meta.get_global_mesh() is None
    with jax.set_mesh(mesh()):
        assert meta.global_mesh_defined() and meta.get_global_mesh() is not None
        assert constraints(box) == 1


def test_boxes_are_pytrees_with_the_names_in_the_structure():
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(TREE)
    ]
    assert paths == ["['a'].value", "['b']", "['c']['d'].value"]
    other = TREE["a"].replace(names=("y", None))
    assert jax.tree.structure(other) != jax.tree.structure(TREE["a"])


def test_boxes_are_stored_as_their_values():
    box = Partitioned(np.ones(2), ("x",))
    assert to_state_dict({"a": TREE["a"]}) == {"a": {"value": 1}}
    assert from_state_dict(box, {"value": 4}) == Partitioned(4, ("x",))
    assert from_bytes(box, to_bytes(box)).names == ("x",)


def test_a_box_must_say_how_it_is_opened():
    with pytest.raises(TypeError, match="abstract"):
        meta.AxisMetadata()
