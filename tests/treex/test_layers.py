"""Layers: the same numbers as Linen's, in every mode."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linsey.linen as nn
import linsey.treex as tx
from linsey.errors import FeatureShapeChangedError, LinseyError

KEY = jax.random.split(jax.random.PRNGKey(42))[0]  # what the first layer gets
few = settings(max_examples=5)


def normal(*shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), shape).astype(dtype)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def agree(layer, linen, x, **call):
    """The layer initializes and computes what Linen does, and stays as it is."""
    variables = linen.init(KEY, x)
    layer = layer.init(42, x)
    equal(layer.linen_variables(), variables)
    expected = linen.apply(variables, x)
    before = jax.tree.leaves(layer)
    for mode in (layer, layer.eval(), layer.freeze()):
        y = mode(x)
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == expected.dtype
    equal(jax.tree.leaves(layer), before)
    return layer


inits = st.sampled_from(
    [
        nn.initializers.zeros,
        nn.initializers.ones,
        nn.initializers.normal(),
        nn.initializers.uniform(),
    ]
)
kernels = st.sampled_from(
    [nn.initializers.lecun_normal(), nn.initializers.xavier_uniform(),
     nn.initializers.kaiming_normal()]
)  # fmt: skip


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    features=st.integers(1, 4),
    use_bias=st.booleans(),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    kernel_init=kernels,
    bias_init=inits,
)
def test_linear(shape, features, use_bias, dtype, kernel_init, bias_init):
    if len(shape) == 1:
        shape = [2, *shape]
    given_ = dict(use_bias=use_bias, dtype=dtype, kernel_init=kernel_init,
                  bias_init=bias_init)  # fmt: skip
    agree(tx.Linear(features, **given_), nn.Dense(features, **given_), normal(*shape))


@few
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.sampled_from([None, 1, 2, (2, 1)]),
    padding=st.sampled_from(["SAME", "VALID", "CIRCULAR", [(1, 0), (0, 1)]]),
    groups=st.sampled_from([1, 2]),
    use_bias=st.booleans(),
    batch=st.sampled_from([(), (2,), (2, 1)]),
)
def test_conv(size, strides, padding, groups, use_bias, batch):
    given_ = dict(kernel_size=size, strides=strides, padding=padding,
                  feature_group_count=groups, use_bias=use_bias)  # fmt: skip
    linen = nn.Conv(4, **given_, dtype=jnp.float32)
    agree(tx.Conv(4, **given_), linen, normal(*batch, 5, 4, 2))


@few
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.sampled_from([None, (2, 2), (2, 1)]),
    padding=st.sampled_from(["SAME", "VALID", "CIRCULAR"]),
    use_bias=st.booleans(),
)
def test_conv_transpose(size, strides, padding, use_bias):
    given_ = dict(kernel_size=size, strides=strides, padding=padding,
                  use_bias=use_bias)  # fmt: skip
    linen = nn.ConvTranspose(3, **given_, dtype=jnp.float32)
    agree(tx.ConvTranspose(3, **given_), linen, normal(2, 5, 4, 2))


@pytest.mark.parametrize("layer", [tx.Conv, tx.ConvTranspose])
def test_a_number_is_the_window_of_one_axis(layer):
    x = normal(1, 6, 2)
    done = layer(3, 3).init(42, x)
    equal(done.kernel, layer(3, [3]).init(42, x).kernel)
    assert done.kernel.shape == (3, 2, 3)


@pytest.mark.parametrize("layer", [tx.Conv, tx.ConvTranspose])
def test_parameters_have_their_own_dtype(layer):
    x = normal(1, 6, 2)
    done = layer(3, 3, dtype=jnp.bfloat16).init(42, x)
    assert (done.kernel.dtype, done(x).dtype) == (jnp.float32, jnp.bfloat16)
    assert layer(3, 3, param_dtype=jnp.float16).init(42, x).kernel.dtype == jnp.float16


@few
@given(rows=st.integers(2, 5), features=st.integers(1, 4), rank=st.integers(0, 2))
def test_embed(rows, features, rank):
    x = jnp.ones((2,) * rank, int)
    layer, linen = tx.Embed(rows, features), nn.Embed(rows, features, dtype=jnp.float32)
    layer = agree(layer, linen, x)
    assert jnp.isnan(layer(jnp.array(rows + 1))).all()
    with pytest.raises(ValueError):
        layer(jnp.ones(2))


@few
@given(
    channels=st.integers(1, 4),
    epsilon=st.floats(1e-6, 1e-2),
    use_bias=st.booleans(),
    use_scale=st.booleans(),
    bias_init=inits,
)
def test_layer_norm(channels, epsilon, use_bias, use_scale, bias_init):
    given_ = dict(epsilon=epsilon, use_bias=use_bias, use_scale=use_scale,
                  bias_init=bias_init, dtype=jnp.float32)  # fmt: skip
    x = normal(3, 2, channels)
    agree(tx.LayerNorm(**given_), nn.LayerNorm(**given_), x)


@few
@given(
    groups=st.sampled_from([{"num_groups": 2}, {"num_groups": None, "group_size": 2},
                            {"num_groups": None, "group_size": 1}]),
    use_bias=st.booleans(),
    use_scale=st.booleans(),
)  # fmt: skip
def test_group_norm(groups, use_bias, use_scale):
    given_ = dict(use_bias=use_bias, use_scale=use_scale, epsilon=1e-5,
                  dtype=jnp.float32, **groups)  # fmt: skip
    agree(tx.GroupNorm(**given_), nn.GroupNorm(**given_), normal(2, 3, 4))


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError):
        tx.GroupNorm().init(0, normal(2, 3))
    with pytest.raises(ValueError):
        tx.GroupNorm(num_groups=2, group_size=2).init(0, normal(2, 4))


# ------------------------------------------------------------------ BatchNorm


@settings(max_examples=8)
@given(
    shape=st.lists(st.integers(2, 5), min_size=2, max_size=3),
    momentum=st.floats(0.01, 1.0),
    epsilon=st.floats(1e-6, 1e-2),
    use_bias=st.booleans(),
    use_scale=st.booleans(),
    training=st.booleans(),
    frozen=st.booleans(),
    scale_init=inits,
)
def test_batch_norm(shape, momentum, epsilon, use_bias, use_scale, training, frozen,
                    scale_init):  # fmt: skip
    given_ = dict(epsilon=epsilon, use_bias=use_bias, use_scale=use_scale,
                  scale_init=scale_init, dtype=jnp.float32)  # fmt: skip
    x = normal(*shape)
    layer = tx.BatchNorm(momentum=momentum, **given_)
    layer = layer.train(training).freeze(frozen).init(42, x)
    linen = nn.BatchNorm(momentum=jnp.asarray(momentum), **given_)
    average = frozen or not training
    variables = linen.init(KEY, x, use_running_average=True)
    equal(layer.linen_variables(), variables)
    expected, updates = linen.apply(
        variables, x, use_running_average=average, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(layer(x), expected)
    equal(layer.linen_variables(), {**variables, **updates})


def test_batch_norm_example():
    x = jnp.array([[0.0, 2.0], [2.0, 6.0]])
    layer = tx.BatchNorm(momentum=0.9).init(0, x)
    y = layer(x)
    tolerance = dict(rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        y, [[-0.999995, -0.9999988], [0.999995, 0.9999988]], **tolerance
    )
    np.testing.assert_allclose(layer.mean, [0.1, 0.4], **tolerance)
    np.testing.assert_allclose(layer.var, [1.0, 1.3], **tolerance)
    expected = [[-0.0999995, 1.4032872], [1.8999904, 4.9115057]]
    np.testing.assert_allclose(layer.eval()(x), expected, **tolerance)


@pytest.mark.parametrize("flags", ["train", "eval", "frozen", "init"])
@pytest.mark.parametrize("given_", [None, True, False])
def test_when_batch_norm_updates(flags, given_):
    x = normal(4, 2) + 3
    layer = tx.BatchNorm(momentum=0.5)
    if flags == "init":

        class Model(tx.Module):  # calls it with the argument in its own init
            inner: tx.BatchNorm

            def __init__(self):
                self.inner = layer

            def __call__(self, x):
                return self.inner(x, given_)

        layer = Model().init(0, x).inner
        updates = given_ is False
    else:
        layer = layer.init(0, x)
        layer = {"train": layer, "eval": layer.eval(), "frozen": layer.freeze()}[flags]
        layer(x, use_running_average=given_)
        updates = given_ is False or (given_ is None and flags == "train")
    assert bool(jnp.any(layer.mean != 0)) is updates
    assert bool(jnp.any(layer.var != 1)) is updates


@pytest.mark.parametrize("axis", [0, 1, -2, (0, 1), (1, 2), -1])
def test_batch_norm_of_any_axes(axis):
    x = normal(3, 4, 2)
    layer = tx.BatchNorm(axis=axis).init(0, x)
    axes = tuple(a % 3 for a in (axis if isinstance(axis, tuple) else (axis,)))
    others = tuple(a for a in range(3) if a not in axes)
    mean = x.mean(others, keepdims=True)
    std = jnp.sqrt(x.var(others, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(x), (x - mean) / std, atol=2e-5)
    assert layer.mean.shape == tuple(x.shape[a] for a in sorted(axes))
    assert layer.eval()(x).shape == x.shape


def test_leaves_of_batch_norm():
    layer = tx.BatchNorm().init(0, normal(2, 3))
    kinds = []
    tx.map(lambda info: kinds.append(info.kind), layer, field_info=True)
    parts = [kind for kind in kinds if issubclass(kind, tx.TreePart)]
    assert (len(kinds), len(parts)) == (5, 4)
    assert len(jax.tree.leaves(tx.BatchNorm())) == 1
    bare = tx.BatchNorm(use_scale=False, use_bias=False).init(0, normal(2, 3))
    assert bare.scale is None and len(jax.tree.leaves(bare)) == 3
    assert len(jax.tree.leaves(layer.batch_stats())) == 2
    with pytest.raises(TypeError):
        tx.BatchNorm(-1)


def test_momentum_is_a_leaf():
    x = normal(4, 2)
    layer = tx.BatchNorm(momentum=0.9).init(0, x)
    grads = jax.grad(lambda m: m(x).sum())(layer)
    assert isinstance(grads, tx.BatchNorm) and grads.momentum == 0
    keep, store = (tx.BatchNorm(momentum=m).init(0, x) for m in (1.0, 0.0))
    keep(x), store(x)
    np.testing.assert_array_equal(keep.mean, 0.0)
    np.testing.assert_allclose(store.mean, x.mean(0), rtol=1e-5)


def test_batch_norm_over_a_mapped_axis():
    x = normal(2, 4, 3)
    layer = tx.BatchNorm(axis_name="device").init(0, x[0])
    step = jax.vmap(lambda m, x: (m(x), m), (None, 0), axis_name="device")
    y, after = step(layer, x)
    whole = tx.BatchNorm().init(0, x[0])
    np.testing.assert_allclose(y.reshape(-1, 3), whole(x.reshape(-1, 3)), atol=2e-6)
    np.testing.assert_allclose(after.mean[0], whole.mean, atol=1e-7)
    np.testing.assert_array_equal(after.mean[0], after.mean[1])
    made = jax.vmap(lambda x: tx.BatchNorm(axis_name="d").init(0, x), axis_name="d")(x)
    assert made.mean.shape == (2, 3)


def test_batch_norm_of_other_channels_is_named():
    layer = tx.BatchNorm().init(0, normal(2, 3))
    with pytest.raises(FeatureShapeChangedError):
        layer(normal(2, 4))


# ------------------------------------------------------------------ the other layers


@few
@given(
    rate=st.floats(0, 1),
    dims=st.sampled_from([(), (0,), (-1,)]),
    training=st.booleans(),
    frozen=st.booleans(),
)
def test_dropout(rate, dims, training, frozen):
    x = normal(3, 4)
    layer = tx.Dropout(rate, dims).train(training).freeze(frozen).init(42)
    key = jax.random.split(layer.next_key.key)[0]
    np.testing.assert_array_equal(layer.next_key.key, KEY)
    expected = nn.Dropout(rate, dims).apply(
        {}, x, deterministic=frozen or not training, rngs={"dropout": key}
    )
    np.testing.assert_array_equal(layer(x), expected)


def test_keys_of_dropout():
    x = jnp.ones(20)
    layer = tx.Dropout(0.5).init(0)
    assert jnp.any(layer(x) != layer(x))
    before = layer.next_key.key
    for quiet in (
        lambda: layer(x, deterministic=True),
        lambda: layer(x, rng=jax.random.key(0)),
        lambda: layer.eval()(x),
    ):
        quiet()
        np.testing.assert_array_equal(layer.next_key.key, before)
    assert jnp.any(layer.eval()(x, deterministic=False) != x)
    np.testing.assert_array_equal(tx.Dropout(0.5).eval()(x), x)
    assert len(jax.tree.leaves(layer.states())) == 1
    assert len(jax.tree.leaves(layer.parameters())) == 0
    with pytest.raises(RuntimeError):
        tx.Dropout(0.5)(x)
    after = jax.jit(lambda m: (m(x), m)[1])(layer)
    assert jnp.any(after.next_key.key != before)


def test_sequential():
    model = tx.Sequential(tx.Linear(4), jax.nn.relu, tx.Linear(3), tx.Linear(2))
    model = model.init(0, normal(1, 2))
    assert isinstance(model.layers[1], tx.Lambda)
    assert len(jax.tree.leaves(model)) == 6 and model(normal(5, 2)).shape == (5, 2)
    x = normal(2, 2)
    assert tx.Sequential()(x) is x and tx.sequence()(x) is x
    assert tx.sequence(lambda x: x + 1, lambda x: 2 * x)(1) == 4
    with pytest.raises(TypeError):
        model(x, x)


def test_mlp():
    model = tx.MLP([4, 3, 2], activation=jnp.tanh).init(0, normal(5, 2))
    assert model._subtrees == ("linear", "linear2", "linear3")
    x = normal(5, 2)
    expected = model.linear3(jnp.tanh(model.linear2(jnp.tanh(model.linear(x)))))
    np.testing.assert_array_equal(model(x), expected)
    with pytest.raises(ValueError):
        tx.MLP([])


def test_flatten():
    assert tx.Flatten()(normal(4)).shape == (4, 1)
    assert tx.Flatten()(normal(4, 3, 2)).shape == (4, 6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int32])
def test_inputs_take_the_dtype_of_the_layer(dtype):
    x = jnp.ones((4, 3), dtype)
    for layer in (tx.Linear(3), tx.BatchNorm(), tx.LayerNorm()):
        assert layer.init(0, x)(x).dtype == jnp.float32


def test_a_linear_layer_of_one_vector_and_of_the_wrong_one():
    layer = tx.Linear(3).init(0, normal(2))
    assert layer(normal(2)).shape == (3,)
    with pytest.raises((TypeError, ValueError, LinseyError)):
        layer(normal(4, 5))


def test_layers_in_a_sequence_keep_their_own_modes():
    x = normal(4, 3) + 2
    model = tx.Sequential(tx.BatchNorm(), tx.BatchNorm().eval()).init(0, x)
    model(x)
    assert model.layers[0].mean.any() and not model.layers[1].mean.any()


def test_groups_of_devices_have_their_own_statistics():
    layer = tx.BatchNorm(axis_name="d", axis_index_groups=[[0]]).init(0, normal(4, 3))
    pmap = jax.pmap(lambda m, x: m(x), axis_name="d", in_axes=(None, 0))
    y = pmap(layer, normal(1, 4, 3))
    np.testing.assert_allclose(y.mean((0, 1)), 0.0, atol=1e-6)


# ------------------------------------------------------------------ GRU


def reference_gru(params, h, x):
    p = params

    def dense(name, value):
        return value @ p[name]["kernel"] + p[name].get("bias", 0.0)

    r = jax.nn.sigmoid(dense("ir", x) + dense("hr", h))
    z = jax.nn.sigmoid(dense("iz", x) + dense("hz", h))
    n = jnp.tanh(dense("in", x) + r * dense("hn", h))
    return (1 - z) * n + z * h


def test_gru_equals_its_formula():
    x = normal(2, 5, 3)
    gru = tx.nn.recurrent.GRU(4, return_sequences=True, return_state=True).init(0, x)
    assert len(jax.tree.leaves(gru)) == 11 and gru.last_state is None
    h, states = jnp.zeros((2, 4)), []
    for t in range(5):
        h = reference_gru(gru.params, h, x[:, t])
        states.append(h)
    sequence, state = gru(x)
    np.testing.assert_allclose(sequence, jnp.stack(states, 1), atol=1e-6)
    np.testing.assert_allclose(state, h, atol=1e-6)
    hr = gru.params["hr"]["kernel"]
    np.testing.assert_allclose(hr.T @ hr, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("time_axis", [0, 1, -2])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_what_gru_returns(time_axis, sequences, state):
    x = normal(5, 2, 3) if time_axis == 0 else normal(2, 5, 3)
    gru = tx.nn.GRU(4, return_sequences=sequences, return_state=state,
                    time_axis=time_axis)  # fmt: skip
    y = gru.init(0, x)(x)
    shape = x.shape[:2] + (4,) if sequences else (2, 4)
    y, *rest = y if sequences and state else (y,)
    assert y.shape == shape and [r.shape for r in rest] == [(2, 4)] * len(rest)


def test_gru_options():
    x = normal(2, 5, 3)
    gru = tx.nn.GRU(4).init(0, x)
    other = tx.nn.GRU(4, go_backwards=True, unroll=5).init(0, x[:, ::-1])
    np.testing.assert_allclose(gru(x), other(x[:, ::-1]), atol=1e-6)
    zeros = gru.module.initialize_carry(None, (2,), 4)
    np.testing.assert_allclose(gru(x, zeros), gru(x), atol=1e-6)
    assert gru.initialize_state(3).shape == (3, 4)
    kernel = tx.nn.GRU(4, recurrent_kernel_init=nn.initializers.zeros).init(0, x)
    assert not kernel.params["hr"]["kernel"].any()


def test_stateful_gru_goes_on():
    x = normal(2, 6, 3)
    gru = tx.nn.GRU(4, stateful=True).init(0, x)
    assert gru.last_state is None
    gru(x[:, :3])
    whole = tx.nn.GRU(4).init(0, x)
    np.testing.assert_allclose(gru(x[:, 3:]), whole(x), atol=1e-6)
    assert len(jax.tree.leaves(gru.caches())) == 1


# ------------------------------------------------------------------ all layers

LAYERS: dict[str, tuple[Any, Any, int]] = {
    "Linear": (tx.Linear(3), normal(2, 4), 2),
    "Conv": (tx.Conv(3, (2, 2)), normal(2, 4, 4, 1), 2),
    "ConvTranspose": (tx.ConvTranspose(3, (2, 2)), normal(2, 4, 4, 1), 2),
    "Embed": (tx.Embed(3, 4), jnp.array([0, 2]), 1),
    "BatchNorm": (tx.BatchNorm(), normal(4, 3), 5),
    "LayerNorm": (tx.LayerNorm(), normal(4, 3), 2),
    "GroupNorm": (tx.GroupNorm(num_groups=1), normal(4, 3), 2),
    "Dropout": (tx.Dropout(0.5), normal(4, 3), 1),
    "MLP": (tx.MLP([3, 2]), normal(4, 3), 4),
    "GRU": (tx.nn.GRU(3), normal(2, 3, 2), 11),
}


@pytest.mark.parametrize("name", LAYERS)
def test_number_of_leaves(name):
    layer, x, leaves = LAYERS[name]
    assert len(jax.tree.leaves(layer.init(0, x))) == leaves


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_call_changes_what_an_eager_one_does(name):
    layer, x, _ = LAYERS[name]
    layer = layer.init(0, x)
    y, after = jax.jit(lambda m, x: (m(x), m))(layer, x)
    np.testing.assert_allclose(layer(x), y, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), layer, after)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_quiet_in_evaluation(name):
    layer, x, _ = LAYERS[name]
    layer = layer.init(0, x).eval()
    keep = None if name != "GRU" else tx.Parameter  # it draws a key at every call
    before = layer.filter(keep) if keep else layer.copy()
    y = layer(x)
    after = layer.filter(keep) if keep else layer
    jax.tree.map(np.testing.assert_array_equal, after, before)
    np.testing.assert_array_equal(layer(x), y)


SIGNATURES = {
    tx.Linear: "features_out use_bias dtype precision kernel_init bias_init name "
    "axis_name",
    tx.Conv: "features_out kernel_size strides padding input_dilation kernel_dilation "
    "feature_group_count use_bias dtype param_dtype precision kernel_init bias_init",
    tx.ConvTranspose: "features_out kernel_size strides padding kernel_dilation "
    "use_bias dtype param_dtype precision kernel_init bias_init",
    tx.Embed: "num_embeddings features dtype embedding_init name",
    tx.BatchNorm: "axis momentum epsilon dtype use_bias use_scale bias_init scale_init "
    "axis_name axis_index_groups",
    tx.Dropout: "rate broadcast_dims",
    tx.FlaxModule: "module mutable rngs init_rngs variables method",
    tx.MLP: "features activation use_bias dtype precision kernel_init bias_init",
}


@pytest.mark.parametrize("layer", SIGNATURES, ids=lambda cls: cls.__name__)
def test_signatures(layer):
    assert " ".join(inspect.signature(layer).parameters) == SIGNATURES[layer]
