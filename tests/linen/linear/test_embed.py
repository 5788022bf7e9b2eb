"""Embed against Flax: look-up, its negative and outside indices, and attend."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.layers import IntegerInputError
from tests.linen.differential import (
    KEYS,
    assert_close,
    assert_same_initial_values,
    assert_same_layer,
    assert_same_refusal,
    layers,
    normal,
)

INDICES = jnp.array([[0, 1, 2], [3, 4, 5], [-1, -5, -6]])


def whole_numbers(key, shape, dtype):
    del key
    return jnp.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, jnp.uint8])
@pytest.mark.parametrize("rows", [5, 1])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dtype": jnp.bfloat16},
        {"param_dtype": jnp.float16},
        {"param_dtype": jnp.int32, "embedding_init": whole_numbers},
    ],
)
def test_embed_looks_up_like_flax(dtype, rows, fields):
    assert_same_layer("Embed", rows, 3, inputs=INDICES.astype(dtype), ulps=0, **fields)


def test_initial_values_are_those_of_flax():
    assert_same_initial_values("Embed", 5, 3, inputs=INDICES)


def test_embed_gives_nan_outside_the_table():
    y, _ = nn.Embed(5, 3).init_with_output(KEYS, jnp.array([4, 5, -5, -6]))
    assert np.isnan(y).all(axis=-1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("rows", [1, 5])
def test_embed_takes_a_single_index(rows):
    y, variables = nn.Embed(rows, 3).init_with_output(KEYS, jnp.array(0))
    np.testing.assert_array_equal(y, variables["params"]["embedding"][0])


def test_embed_takes_numpy_indices():
    indices = np.array([1, 0])
    y, variables = nn.Embed(5, 3).init_with_output(KEYS, indices)
    np.testing.assert_array_equal(y, variables["params"]["embedding"][indices])


def test_embed_has_the_gradients_of_flax():
    def gradient(layer):
        variables = layer.init(KEYS, INDICES[0])
        return jax.grad(lambda v: (layer.apply(v, INDICES[0]) ** 3).sum())(variables)

    expected, found = (gradient(layer) for layer in layers("Embed", 4, 3))
    assert_close(expected["params"]["embedding"], found["params"]["embedding"], ulps=4)


@pytest.mark.parametrize("fields", [{}, {"dtype": jnp.bfloat16}])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
def test_attend_scores_every_row_like_flax(fields, shape):
    reference, layer = layers("Embed", 5, 3, **fields)
    variables = reference.init(KEYS, INDICES)
    query = normal(*shape, dtype=jnp.bfloat16)
    expected = reference.apply(variables, query, method="attend")
    assert_close(expected, layer.apply(variables, query, method="attend"))


def test_attend_traces_to_one_product():
    layer = nn.Embed(5, 3)
    variables = layer.init(KEYS, INDICES)
    jaxpr = jax.make_jaxpr(lambda v, q: layer.apply(v, q, method="attend"))(
        variables, normal(2, 3)
    )
    assert [e.primitive.name for e in jaxpr.jaxpr.eqns] == ["dot_general"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bool_])
def test_embed_refuses_what_are_no_integers(dtype):
    assert_same_refusal(
        "Embed",
        *(5, 3),
        inputs=INDICES.astype(dtype),
        error=IntegerInputError,
        match=f"found {jnp.dtype(dtype)}",
    )


def test_embed_refuses_lists():
    with pytest.raises(IntegerInputError, match="found list"):
        nn.Embed(5, 3).init(KEYS, [1, 2])


def test_embed_shares_its_table_between_look_up_and_attend():
    def model(lib):
        class Tied(lib.Module):
            def setup(self):
                self.embed = lib.Embed(5, 3)

            def __call__(self, x):
                return self.embed.attend(self.embed(x))

        return Tied()

    expected, variables = model(flax.linen).init_with_output(KEYS, INDICES[0])
    assert_close(expected, model(nn).apply(variables, INDICES[0]))
    assert list(variables["params"]) == ["embed"]
