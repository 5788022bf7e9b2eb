"""Normalization."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linsey.linen as nn
import linsey.treex as tx
from linsey.errors import (
    FeatureShapeChangedError,
)
from tests.treex.nn.agreement import KEY, agree, equal, few, inits, normal


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


@pytest.mark.thinned(3)
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


def test_groups_of_devices_have_their_own_statistics():
    layer = tx.BatchNorm(axis_name="d", axis_index_groups=[[0]]).init(0, normal(4, 3))
    pmap = jax.pmap(lambda m, x: m(x), axis_name="d", in_axes=(None, 0))
    y = pmap(layer, normal(1, 4, 3))
    np.testing.assert_allclose(y.mean((0, 1)), 0.0, atol=1e-6)
