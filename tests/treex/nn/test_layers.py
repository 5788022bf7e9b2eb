"""What all layers have in common."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from tests.treex.nn.agreement import normal


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int32])
def test_inputs_take_the_dtype_of_the_layer(dtype):
    x = jnp.ones((4, 3), dtype)
    for layer in (tx.Linear(3), tx.BatchNorm(), tx.LayerNorm()):
        assert layer.init(0, x)(x).dtype == jnp.float32


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


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", LAYERS)
def test_number_of_leaves(name):
    layer, x, leaves = LAYERS[name]
    assert len(jax.tree.leaves(layer.init(0, x))) == leaves


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_call_changes_what_an_eager_one_does(name):
    layer, x, _ = LAYERS[name]
    layer = layer.init(0, x)
    y, after = jax.jit(lambda m, x: (m(x), m))(layer, x)
    np.testing.assert_allclose(layer(x), y, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), layer, after)


@pytest.mark.thinned(6)
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


@pytest.mark.thinned(2)
@pytest.mark.parametrize("layer", SIGNATURES, ids=lambda cls: cls.__name__)
def test_signatures(layer):
    assert " ".join(inspect.signature(layer).parameters) == SIGNATURES[layer]
