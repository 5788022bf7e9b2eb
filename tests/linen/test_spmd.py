"""Logical axis names, their rules and constraints, against Flax."""

from __future__ import annotations

import re
import threading

import flax.core.spmd
import flax.linen
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import linsey.core.spmd
import linsey.linen as nn
from linsey.core.meta import AxisMetadata
from linsey.errors.base import MismatchError, OptionError

LIBRARIES = (flax.linen, nn)
CORES = (flax.core.spmd, linsey.core.spmd)
KEY = jax.random.key(0)
X = jnp.ones((4, 8))
RULES = (
    ("batch", "data"),
    ("embed", None),
    ("mlp", "model"),
    ("heads", ("data", "model")),
    ("mlp", "data"),
)
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))


def traced(function):
    """The program of a function of an array, as text without names of libraries."""
    return str(jax.make_jaxpr(function)(X))


# -- rules -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("batch", "mlp"),
        ("batch", "heads"),
        ("heads", "batch"),
        ("unknown", None, "embed"),
        (),
        None,
        ["batch"],
        PartitionSpec("mlp", "batch"),
        ("batch", ("x", "y")),
    ],
)
def test_names_are_mapped_as_in_flax(names):
    expected, found = (lib.logical_to_mesh_axes(names, RULES) for lib in LIBRARIES)
    assert found == expected
    assert type(found) is type(expected)


@hypothesis.given(
    names=st.lists(st.sampled_from("abcd"), unique=True, max_size=4),
    rules=st.lists(
        st.tuples(
            st.sampled_from("abcde"),
            st.sampled_from([None, "x", "y", ("x", "y"), ("z",)]),
        ),
        max_size=6,
    ),
)
def test_any_rules_are_followed_as_in_flax(names, rules):
    expected, found = (lib.logical_to_mesh_axes(names, rules) for lib in LIBRARIES)
    assert found == expected


def test_names_that_occur_twice_are_refused():
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="occur more than once"):
            lib.logical_to_mesh_axes(("batch", "batch"), RULES)
    with pytest.raises(OptionError, match=r"\('batch',\)"):
        nn.logical_to_mesh_axes(("batch", "batch"), RULES)


def test_rules_that_are_no_pairs_are_refused():
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="Unknown axis rule specification"):
            lib.logical_to_mesh_axes(("batch",), {"batch": "data"})
    with pytest.raises(OptionError):
        nn.logical_to_mesh_axes(("batch",), {"batch": "data"})


def test_rules_hold_in_their_block_and_thread():
    nn.set_logical_axis_rules((("a", "x"),))
    try:
        with nn.logical_axis_rules(RULES):
            assert nn.get_logical_axis_rules() == RULES
            assert nn.logical_to_mesh_axes(("batch",)) == PartitionSpec("data")
        assert nn.get_logical_axis_rules() == (("a", "x"),)
        seen = []
        thread = threading.Thread(
            target=lambda: seen.append(nn.get_logical_axis_rules())
        )
        thread.start()
        thread.join()
        assert seen == [()]
    finally:
        nn.set_logical_axis_rules(())


def test_trees_of_names_are_mapped_as_in_flax():
    tree = {"a": PartitionSpec("batch", "mlp"), "b": None, "c": PartitionSpec("other")}
    expected, found = (lib.logical_to_mesh(tree, RULES) for lib in LIBRARIES)
    assert found == expected
    expected, found = (
        lib.logical_to_mesh_sharding(tree, MESH, RULES) for lib in LIBRARIES
    )
    assert found == expected


# -- constraints -----------------------------------------------------------------------

CONSTRAINTS = {
    "no mesh": (("batch", "mlp"), {}),
    "mesh": (("batch", "mlp"), {"mesh": MESH}),
    "specification": (PartitionSpec("mlp", "batch"), {"mesh": MESH}),
    "unknown": (("batch", "other"), {"mesh": MESH}),
    "no axes": ((None, None), {"mesh": MESH}),
    "no names": (None, {"mesh": MESH}),
    "no rules": (("batch", "mlp"), {"mesh": MESH, "rules": ()}),
    "fewer names": (("batch",), {"mesh": MESH}),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_those_of_flax(name):
    names, options = CONSTRAINTS[name]
    options = {"rules": RULES} | options
    expected, found = (
        traced(lambda x, lib=lib: lib.with_logical_constraint(x, names, **options))
        for lib in LIBRARIES
    )
    assert found == expected


@pytest.mark.parametrize("names", [("batch", "mlp"), ("batch", "other")])
def test_constraints_use_the_mesh_that_is_set(names):
    with jax.set_mesh(MESH):
        expected, found = (
            traced(lambda x, lib=lib: lib.with_logical_constraint(x, names, RULES))
            for lib in LIBRARIES
        )
    assert "sharding_constraint" in expected
    assert found == expected


@pytest.mark.parametrize("name", ["AXIS_IS_UNSHARDED", "NO_CONSTRAINT"])
def test_names_without_a_rule_fall_back_as_in_flax(name):
    def constrain(lib, x):
        fallback = lib.spmd.RulesFallback[name]
        names = ("batch", "other")
        return lib.with_logical_constraint(x, names, RULES, MESH, fallback)

    expected, found = (
        traced(lambda x, lib=lib: constrain(lib, x)) for lib in LIBRARIES
    )
    assert found == expected


def test_names_without_a_rule_can_be_an_error():
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="did not match a rule"):
            lib.with_logical_constraint(
                X, ("other",), RULES, MESH, lib.spmd.RulesFallback.RAISE_ERROR
            )
    with pytest.raises(OptionError):
        nn.with_logical_constraint(
            X, ("other",), RULES, MESH, nn.spmd.RulesFallback.RAISE_ERROR
        )


def test_trees_are_constrained_as_in_flax():
    tree = {"a": X, "b": X}
    names = {"a": ("batch", "mlp"), "b": PartitionSpec("mlp", "batch")}
    for spec in (names, ("batch", "mlp")):
        expected, found = (
            str(
                jax.make_jaxpr(
                    lambda tree, lib=lib, spec=spec: lib.with_logical_constraint(
                        tree, spec, RULES, MESH
                    )
                )(tree)
            )
            for lib in LIBRARIES
        )
        assert found == expected


# -- boxes -----------------------------------------------------------------------------


def model(lib, mesh=None, rules=None):
    init = lib.with_logical_partitioning(
        lib.initializers.ones, ("embed", "mlp"), mesh, rules
    )
    return lib.Dense(4, kernel_init=init)


def test_boxes_are_made_and_read_as_in_flax():
    specs = []
    for lib in LIBRARIES:
        variables = model(lib).init(KEY, X)
        box = variables["params"]["kernel"]
        assert (box.names, box.mesh, box.rules) == (("embed", "mlp"), None, None)
        specs.append(lib.get_partition_spec(variables))
    assert specs[0] == specs[1]
    assert isinstance(box, AxisMetadata)
    assert isinstance(box, nn.Partitioned)


@pytest.mark.parametrize("rules", [RULES, None])
def test_boxes_constrain_their_value_when_it_is_read(rules):
    def run(lib):
        layer = model(lib, MESH, rules)
        variables = layer.init(KEY, X)
        program = traced(lambda x: layer.apply(variables, x))
        return set(re.findall(r"sharding_constraint|spec=P\(.*\)", program))

    expected, found = map(run, LIBRARIES)
    assert found == expected
    with flax.linen.logical_axis_rules(RULES), nn.logical_axis_rules(RULES):
        expected, found = map(run, LIBRARIES)
    assert "sharding_constraint" in found
    assert found == expected


def test_boxes_can_be_read_without_a_constraint():
    box = nn.LogicallyPartitioned(X, ("batch", "mlp"), MESH, RULES)
    assert box.unbox(apply_constraint=False) is X
    assert nn.LogicallyPartitioned(X, ("batch", "mlp"), rules=RULES).unbox() is X


def test_transforms_name_the_axis_they_add():
    names = []
    for lib in LIBRARIES:
        init = lib.with_logical_partitioning(lib.initializers.ones, ("embed", "mlp"))
        layer = lib.vmap(
            lib.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            metadata_params={lib.PARTITION_NAME: "stack"},
        )(4, kernel_init=init)
        box = layer.init(KEY, jnp.ones((3, 2, 8)))["params"]["kernel"]
        names.append((box.names, box.value.shape))
    assert names[0] == names[1] == (("stack", "embed", "mlp"), (3, 8, 4))


def test_wrapped_initializers_keep_their_name():
    init = nn.with_logical_partitioning(nn.initializers.ones, ("a",))
    assert init.__name__ == "ones"
    assert repr(init(KEY, (1,))).startswith("LogicallyPartitioned(value=")


# -- the functions of the core ---------------------------------------------------------

SHARDING = NamedSharding(MESH, PartitionSpec("data"))
CORE_CALLS = [
    lambda s: s.composite_rules((("a", "x"),), (("a", "x"), ("c", "d"))),
    lambda s: s.composite_rules(None, (("b", "y"),)),
    lambda s: s.composite_rules((("b", "y"),), ()),
    lambda s: s.from_sharding_rules(("a", "b", None, ("a", "b")), (("a", "x"),)),
    lambda s: s.apply_rules(("a",), (("a", "x"),)),
    lambda s: s.get_pspec(("a", "b"), (("a", "x"),)),
    lambda s: s.get_pspec(PartitionSpec("a", "b")),
    lambda s: s.get_pspec(SHARDING, (("data", "model"),)),
    lambda s: s.get_pspec(None),
    lambda s: s.get_mesh(SHARDING),
    lambda s: s.get_mesh(("a",)),
    lambda s: s.map_sharding(str.upper, ("a", "b")),
    lambda s: s.map_sharding(lambda name: "model", SHARDING),
    lambda s: s.map_sharding(str.upper, None),
    lambda s: s.shard_value(X, ("data", "model"), None, MESH).sharding,
    lambda s: s.shard_value(X, ("a",), (("a", "data"),), MESH).sharding,
    lambda s: s.shard_value(X, SHARDING, None, None).sharding,
    lambda s: s.shard_value(X, None, None, None) is X,
]


@pytest.mark.parametrize("call", CORE_CALLS, ids=range(len(CORE_CALLS)))
def test_functions_of_the_core_equal_those_of_flax(call):
    expected, found = map(call, CORES)
    assert found == expected


def test_rules_that_hold_are_put_together_with_those_given():
    found = []
    for core in CORES:
        with core.logical_axis_rules((("a", "data"),)):
            found.append(core.get_pspec(("a", "b"), (("b", "model"),)))
    assert found == [PartitionSpec("data", "model")] * 2


def test_rules_that_contradict_each_other_are_refused():
    for core in CORES:
        with pytest.raises(ValueError, match="Inconsistent logical axis annotations"):
            core.composite_rules((("a", "x"),), (("a", "y"),))
    with pytest.raises(MismatchError):
        linsey.core.spmd.composite_rules((("a", "x"),), (("a", "y"),))


def test_names_without_a_mesh_are_refused():
    for core in CORES:
        with pytest.raises(ValueError, match="auto mesh context or metadata"):
            core.shard_value(X, ("data",), None, None)
    with pytest.raises(OptionError):
        linsey.core.spmd.shard_value(X, ("data",), None, None)


FREE = PartitionSpec.UNCONSTRAINED
FREE_RULES = (("a", "data"), ("b", FREE), ("c", FREE), ("a", FREE), ("d", None))


@pytest.mark.parametrize(
    "names",
    [
        (FREE,),
        (FREE, FREE),
        ("a", FREE, "d", FREE),
        ("b", "c", "a"),
        ("b", FREE),
        PartitionSpec("a", FREE),
        ((FREE, "a"),),
        (1,),
    ],
)
def test_what_is_unconstrained_is_as_in_flax(names):
    theirs, ours = (
        lib.logical_to_mesh_axes(names, rules=FREE_RULES) for lib in LIBRARIES
    )
    assert theirs == ours


@pytest.mark.parametrize("names", [("a", FREE), (FREE, FREE), ("b", "a")])
@pytest.mark.parametrize("fallback", ["AXIS_IS_UNSHARDED", "RAISE_ERROR"])
def test_constraints_may_leave_axes_unconstrained_as_in_flax(names, fallback):
    programs = []
    for lib in LIBRARIES:
        kind = lib.spmd.RulesFallback[fallback]
        options = {"rules": FREE_RULES, "mesh": MESH, "fallback": kind}
        programs.append(
            traced(lambda x: lib.with_logical_constraint(x, names, **options))
        )
    assert programs[0] == programs[1]
