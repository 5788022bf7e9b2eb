"""Axis names in collections of their own, against Flax."""

from __future__ import annotations

import flax.linen
import flax.linen.partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.base import MismatchError
from linsey.errors.layers import AxisMetadataTypeError

LIBRARIES = (flax.linen, nn)
KEY = jax.random.key(0)
X = jnp.ones((4, 3))
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


def described(tree):
    """A tree as text: boxes by their names, arrays by shape and dtype."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: getattr(x, "names", None) or (x.shape, str(x.dtype)),
        dict(tree),
        is_leaf=lambda x: hasattr(x, "names"),
    )


def model(lib, axes=("in", "out")):
    part = lib.partitioning

    class Model(lib.Module):
        @lib.compact
        def __call__(self, x):
            w = part.param_with_axes("w", lib.initializers.ones, (3, 4), axes=axes)
            s = part.variable_with_axes("stats", "s", jnp.zeros, (4,), axes=("out",))
            t = part.variable_with_axes("stats", "t", jnp.zeros, ())
            if self.is_mutable_collection("stats"):
                s.value += 1
                t.value += 1
            return x @ w + s.value

    return Model()


def layer(lib):
    """A layer that can be scanned."""

    class Layer(lib.Module):
        @lib.compact
        def __call__(self, x, _=None):
            init = lib.initializers.lecun_normal()
            param = lib.partitioning.param_with_axes
            w = param("w", init, (3, 3), axes=("in", "out"))
            return x @ w + param("b", lib.initializers.ones, (3,), axes=("out",)), None

    return Layer


@pytest.mark.parametrize("axes", [("in", "out"), None])
def test_names_are_stored_beside_the_values_as_in_flax(axes):
    theirs, ours = (model(lib, axes) for lib in LIBRARIES)
    variables = ours.init(KEY, X)
    assert described(variables) == described(theirs.init(KEY, X))
    params = {name: variables[name] for name in ("params", "stats")}
    for mutable in (["stats"], ["stats", "stats_axes", "params_axes"]):
        (expected, a), (found, b) = (
            module.apply(params, X, mutable=mutable) for module in (theirs, ours)
        )
        np.testing.assert_array_equal(found, expected)
        assert described(b) == described(a)
        np.testing.assert_array_equal(b["stats"]["s"], a["stats"]["s"])


def test_values_are_constrained_as_in_flax():
    programs = []
    for lib in LIBRARIES:
        module = model(lib)
        params = {"params": {"w": jnp.ones((3, 4))}}
        params["stats"] = {"s": jnp.zeros(4), "t": jnp.zeros(())}
        part = lib.partitioning

        def run(x, params=params, module=module):
            return module.apply(params, x, mutable=["stats"])

        with part.axis_rules((("out", "data"),)), jax.set_mesh(MESH):
            programs.append(str(jax.make_jaxpr(run)(X)))
    assert "sharding_constraint" in programs[1]
    assert programs[0].count("sharding_constraint") == programs[1].count(
        "sharding_constraint"
    )


def test_names_are_taken_out_as_in_flax():
    found = []
    for lib in LIBRARIES:
        variables = model(lib).init(KEY, X)
        tree = {"Dense_0": variables["params_axes"], **variables["stats_axes"]}
        found.append(lib.partitioning.get_axis_names(tree))
    assert str(found[1]) == str(found[0])


def test_modules_with_setup_name_the_module():
    trees = []
    for lib in LIBRARIES:

        class Model(lib.Module):
            def setup(self, lib=lib):
                self.w = lib.partitioning.param_with_axes(
                    "w", lib.initializers.ones, (3,), axes=("in",), module=self
                )

            def __call__(self, x):
                return x * self.w

        trees.append(described(Model().init(KEY, X)))
    assert trees[0] == trees[1]


def test_other_names_than_the_stored_ones_are_refused():
    for lib in LIBRARIES:
        variables = model(lib).init(KEY, X)
        with pytest.raises(ValueError, match="sown twice, expected them to match"):
            model(lib, ("other", "out")).apply(variables, X, mutable=True)
    with pytest.raises(MismatchError):
        model(nn, ("other", "out")).apply(variables, X, mutable=True)


def test_what_is_no_names_is_refused():
    for lib in LIBRARIES:
        variables = dict(model(lib).init(KEY, X))
        variables["params_axes"] = {"w_axes": 3}
        with pytest.raises(AssertionError, match="Non-initial-or-AxisMetadata"):
            model(lib).apply(variables, X, mutable=True)
    with pytest.raises(AxisMetadataTypeError):
        nn.partitioning.get_axis_names({"w_axes": 3})


@pytest.mark.parametrize("axis", [0, 1])
def test_scan_names_the_axis_it_adds_as_in_flax(axis):
    found = []
    for lib in LIBRARIES:
        scanned = lib.partitioning.scan_with_axes(
            layer(lib),
            variable_axes={"params": axis},
            split_rngs={"params": True},
            length=2,
            axis_name="depth",
        )
        variables = scanned().init(KEY, X, None)
        y, _ = scanned().apply(variables, X, None)
        found.append((described(variables), y))
    assert found[1][0] == found[0][0]
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-6)


def test_scan_inside_a_module_has_the_name_of_flax():
    trees = []
    for lib in LIBRARIES:

        class Model(lib.Module):
            @lib.compact
            def __call__(self, x, lib=lib):
                return lib.partitioning.scan_with_axes(
                    layer(lib),
                    variable_axes={"params": 0},
                    split_rngs={"params": True},
                    length=2,
                )()(x, None)

        trees.append(described(Model().init(KEY, X)))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("options", [{"partitioning_axis_names": {"params": "s"}}, {}])
@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_names_the_axis_it_adds_as_in_flax(axis, options):
    found = []
    for lib in LIBRARIES:
        mapped = lib.partitioning.vmap_with_axes(
            layer(lib),
            variable_axes={"params": axis},
            split_rngs={"params": True},
            **options,
        )
        found.append(described(mapped().init(KEY, jnp.ones((2, 4, 3)))))
    assert found[1] == found[0]


def test_an_axis_added_at_the_end_is_named_at_the_end():
    mapped = nn.partitioning.vmap_with_axes(
        layer(nn),
        variable_axes={"params": -1},
        split_rngs={"params": True},
        partitioning_axis_names={"params": "stack"},
    )
    variables = mapped().init(KEY, jnp.ones((2, 4, 3)))
    assert variables["params"]["w"].shape == (3, 3, 2)
    assert variables["params_axes"]["w_axes"].names == ("in", "out", "stack")


def test_remat_counts_static_arguments_without_the_module():
    for lib in LIBRARIES:

        class Layer(lib.Module):
            def __call__(self, x, double):
                return 2 * x if double else x

        y = lib.partitioning.remat(Layer, static_argnums=(1,))().apply({}, X, True)
        np.testing.assert_array_equal(y, 2 * X)


AXES = {"w": ("in", "out"), "pair": (("in", "out"), ("out",))}


def of_trees(lib, lift=lambda lib, cls: cls, axes=AXES):
    """A module with a parameter that is a tree, whose axes are one too."""
    part = lib.partitioning

    def make(key, shape):
        return {"w": jnp.zeros(shape), "pair": (jnp.zeros(shape), jnp.zeros(shape[0]))}

    class Inner(lib.Module):
        @lib.compact
        def __call__(self, x, _=None):
            value = part.param_with_axes("p", make, (3, 3), axes=axes)
            return x @ value["w"], None

    return lift(lib, Inner)()


LIFTS = {
    "scan": lambda lib, cls: lib.partitioning.scan_with_axes(
        cls, {"params": 0}, split_rngs={"params": True}, length=2
    ),
    "vmap": lambda lib, cls: lib.partitioning.vmap_with_axes(
        cls,
        {"params": 0},
        {"params": True},
        partitioning_axis_names={"params": "layers"},
    ),
    "remat": lambda lib, cls: lib.partitioning.remat(cls),
}


@pytest.mark.parametrize("lift", [None, *LIFTS])
def test_axes_may_be_a_tree_as_in_flax(lift):
    found = []
    for lib in LIBRARIES:
        module = of_trees(lib, *([LIFTS[lift]] if lift else []))
        variables = jax.eval_shape(module.init, KEY, X)
        box = variables["params_axes"]["p_axes"]
        names = lib.partitioning.get_axis_names(variables["params_axes"])["p"]
        found.append((box.names, dict(names)))
    assert found[0] == found[1]


def test_a_tree_of_values_is_constrained_leaf_by_leaf():
    # Flax passes the keys of the tree as names here, and fails.
    with jax.set_mesh(MESH), nn.logical_axis_rules((("in", "data"), ("out", None))):
        program = str(jax.make_jaxpr(of_trees(nn).init)(KEY, X))
    assert program.count("= sharding_constraint") == 3
