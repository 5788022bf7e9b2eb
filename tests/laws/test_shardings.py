"""All modules on meshes with explicit axes, and inside of `jax.shard_map`.

A mesh of one device suffices: shardings and varying axes are part of the types.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import linsey.linen as nn
from tests.laws.table import CASES, KEYS, SEQUENCES, Case, assert_close, normal, outcome

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
IMAGE = normal(2, 4, 4, 4)


def cell() -> nn.GRUCell:
    return nn.GRUCell(2)


LENGTHS = {"seq_lengths": jnp.array([2, 4])}
MORE = {
    "two spatial axes": Case(lambda: nn.Conv(2, (3, 3), padding="CIRCULAR"), (IMAGE,)),
    "circular": Case(
        lambda: nn.ConvTranspose(2, (3, 3), (2, 2), padding="CIRCULAR"), (IMAGE,)
    ),
    "lengths": Case(lambda: nn.RNN(cell(), return_carry=True), (SEQUENCES,), LENGTHS),
    "reversed": Case(
        lambda: nn.RNN(cell(), reverse=True, keep_order=True), (SEQUENCES,), LENGTHS
    ),
    "two ways": Case(
        lambda: nn.Bidirectional(nn.RNN(cell()), nn.RNN(cell())), (SEQUENCES,), LENGTHS
    ),
    "mask": Case(
        lambda: nn.MultiHeadDotProductAttention(2),
        (SEQUENCES,),
        {"mask": nn.make_causal_mask(SEQUENCES[..., 0])},
    ),
    "masked rows": Case(
        lambda: nn.BatchNorm(False), (IMAGE,), {"mask": np.ones((2, 1, 1, 1), bool)}
    ),
}


def mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((1,), ("data",), axis_types=(kind,))


def loss(case: Case):
    def value(params, rest, *args):
        y, _ = case.apply({**rest, **params}, *args)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(y))

    return value


def split(variables):
    params = {"params": variables["params"]} if "params" in variables else {}
    return params, {col: variables[col] for col in variables if col != "params"}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("axis", ["first", "last"])
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_inputs_may_be_split_over_an_explicit_axis(name, axis):
    case = CASES.get(name) or MORE[name]
    params, rest = split(jax.eval_shape(case.init))

    def place(x):
        axes = ["data", *[None] * (x.ndim - 1)]
        spec = PartitionSpec(*(axes if axis == "first" else reversed(axes)))
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(explicit, spec)
        )

    explicit = mesh(AxisType.Explicit)
    with jax.set_mesh(explicit):
        args = jax.tree.map(place, case.args)
        y, _ = jax.eval_shape(case.apply, {**rest, **params}, *args)
        found = jax.eval_shape(jax.grad(loss(case)), params, rest, *args)
    if axis == "first":
        assert all(leaf.sharding.spec[0] == "data" for leaf in jax.tree.leaves(y))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("name", ["Conv", "Embed", "RNN", "Dropout"])
def test_results_on_an_explicit_mesh_are_those_without_it(name):
    case = CASES[name]
    variables, *expected = outcome(name)
    sharding = NamedSharding(mesh(AxisType.Explicit), PartitionSpec("data"))
    with jax.set_mesh(sharding.mesh):
        found = jax.jit(case.apply)(variables, *jax.device_put(case.args, sharding))
    assert_close(jax.tree.map(np.asarray, found), tuple(expected), 1e-6)


@pytest.mark.parametrize("names", [("data", None), (None, "data")])
def test_a_contraction_over_split_axes_is_added_up(names):
    sharding = NamedSharding(mesh(AxisType.Explicit), PartitionSpec(None, "data"))
    x, kernel = jnp.ones((2, 3)), jnp.ones((3, 4))
    with jax.set_mesh(sharding.mesh):
        x = jax.device_put(x, sharding)
        spec = PartitionSpec(*names)
        kernel = jax.device_put(kernel, NamedSharding(sharding.mesh, spec))
        for layer in (nn.Dense(4, use_bias=False), nn.DenseGeneral(4, use_bias=False)):
            y = layer.apply({"params": {"kernel": kernel}}, x)
            np.testing.assert_array_equal(y, np.full((2, 4), 3.0))


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
@pytest.mark.parametrize("name", ["Dropout", "MultiHeadDotProductAttention", "RNN"])
def test_keys_may_vary_over_an_axis_of_shard_map(name, make_key):
    case = CASES[name]

    def shard(*args):
        key = jax.random.fold_in(make_key(0), jax.lax.axis_index("data"))
        module = case.make()
        keys = {"params": key, "dropout": key}
        y, _ = module.init_with_output(keys, *args, **case.kwargs)
        return y

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        shard, mesh=mesh(AxisType.Auto), in_specs=spec, out_specs=spec
    )
    assert jax.eval_shape(mapped, *case.args).shape == outcome(name)[1].shape


def test_split_streams_may_vary_over_an_axis_of_shard_map():
    layer = nn.vmap(nn.Dropout, {}, split_rngs={"dropout": True})(
        0.5, deterministic=False
    )

    def shard(x):
        key = jax.random.fold_in(KEYS["dropout"], jax.lax.axis_index("data"))
        return layer.apply({}, x, rngs={"dropout": key})

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        shard, mesh=mesh(AxisType.Auto), in_specs=spec, out_specs=spec
    )
    assert jax.eval_shape(mapped, SEQUENCES).shape == SEQUENCES.shape
