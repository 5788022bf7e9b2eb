"""The layers with named axes against Flax and against the plain layers."""

from __future__ import annotations

import flax.linen.experimental.layers_with_named_axes as theirs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.linen.experimental.layers_with_named_axes as ours
from linsey.errors.layers import IntegerInputError
from tests.linen.differential import assert_close, normal, quick_init

KEY = jax.random.key(0)
QUICK = {"kernel_init": quick_init, "bias_init": quick_init}


def described(tree):
    return jax.tree.map(
        lambda x: getattr(x, "names", None) or (x.shape, str(x.dtype)),
        dict(tree),
        is_leaf=lambda x: hasattr(x, "names"),
    )


def assert_same(name, *args, inputs, method="__call__", **fields):
    layers = [getattr(module, name)(*args, **fields) for module in (theirs, ours)]
    (expected, a), (found, b) = (
        layer.init_with_output(KEY, inputs, method=method) for layer in layers
    )
    assert described(b) == described(a)
    assert_close(expected, found)


@pytest.mark.parametrize(
    "fields", [{}, {"use_bias": False}, {"dtype": jnp.bfloat16, "precision": "high"}]
)
def test_dense_equals_flax(fields):
    axes = ("embed", "mlp")
    assert_same("Dense", 4, inputs=normal(2, 3), kernel_axes=axes, **QUICK | fields)


def test_dense_without_names_is_the_plain_layer():
    y, variables = ours.Dense(4).init_with_output(KEY, normal(2, 3))
    expected, plain = nn.Dense(4).init_with_output(KEY, normal(2, 3))
    assert described(variables) == described(plain)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("fields", [{}, {"one_hot": True, "dtype": jnp.bfloat16}])
def test_embed_equals_flax(fields):
    fields = {"embedding_init": quick_init} | fields
    assert_same("Embed", 5, 4, inputs=jnp.array([[1, 4], [0, 2]]), **fields)


@pytest.mark.parametrize("fields", [{}, {"attend_dtype": jnp.float16}])
def test_attend_equals_flax(fields):
    fields = {"embedding_init": quick_init} | fields
    assert_same("Embed", 5, 4, inputs=normal(2, 4), method="attend", **fields)


def test_embed_can_convert_its_inputs():
    inputs = jnp.array([1.0, 2.0])
    assert_same("Embed", 5, 4, inputs=inputs, cast_input_dtype=jnp.int32)
    with pytest.raises(ValueError, match="integer"):
        theirs.Embed(5, 4).init(KEY, inputs)
    with pytest.raises(IntegerInputError):
        ours.Embed(5, 4).init(KEY, inputs)


@pytest.mark.parametrize("fields", [{}, {"use_bias": False}, {"use_scale": False}])
def test_layer_norm_is_the_plain_layer_with_names(fields):
    x = normal(2, 3)
    y, variables = ours.LayerNorm(**fields).init_with_output(KEY, x)
    expected, plain = nn.LayerNorm(**fields).init_with_output(KEY, x)
    assert_close(expected, y)
    assert described(variables["params"]) == described(plain["params"])
    names = {f"{name}_axes": ("embed",) for name in plain["params"]}
    assert described(variables["params_axes"]) == names


def test_layers_have_the_fields_of_flax():
    for name in ("Dense", "Embed", "LayerNorm"):
        assert set(getattr(ours, name).__dataclass_fields__) >= set(
            getattr(theirs, name).__dataclass_fields__
        ) - {"embedding"}
