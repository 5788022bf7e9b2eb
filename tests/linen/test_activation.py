"""Activations: the names of Flax, and PReLU against it."""

from __future__ import annotations

import pickle

import flax.linen.activation
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.linen.activation
from tests.jaxprs import primitive_names
from tests.linen.differential import KEYS, assert_same_layer, normal

FUNCTIONS = [
    name
    for name, value in vars(flax.linen.activation).items()
    if callable(value) and getattr(jax.nn, name, None) is value
]


@pytest.mark.parametrize("name", [*FUNCTIONS, "normalize", "tanh"])
def test_activations_are_those_of_jax(name):
    expected = getattr(flax.linen.activation, name)
    found = getattr(nn, name)
    assert getattr(linsey.linen.activation, name) is found
    assert found is expected or name == "relu"


def test_relu_is_that_of_jax_and_differentiated_once():
    def value_and_slope(relu, x):
        return relu(x), jax.grad(lambda x: relu(x).sum())(x)

    x = jnp.array([-2.0, 0.0, 3.0, jnp.nan, jnp.inf])
    for run in value_and_slope, jax.jit(value_and_slope, static_argnums=0):
        np.testing.assert_array_equal(run(nn.relu, x), run(jax.nn.relu, x))
    for transform in lambda f: f, lambda f: jax.grad(lambda x: f(x).sum()):
        found, expected = (
            [*primitive_names(jax.make_jaxpr(transform(relu))(x))]
            for relu in (nn.relu, jax.nn.relu)
        )
        assert found == expected
    assert nn.relu.__name__ == "relu" and pickle.loads(pickle.dumps(nn.relu)) is nn.relu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "fields", [{}, {"negative_slope_init": 0.3, "param_dtype": jnp.float16}]
)
def test_prelu_learns_its_slope_like_flax(dtype, fields):
    assert_same_layer("PReLU", inputs=normal(3, 4, dtype=dtype), ulps=2, **fields)


def test_prelu_keeps_integers():
    assert_same_layer("PReLU", inputs=jnp.arange(-3, 3), ulps=0)


def test_prelu_traces_to_the_equations_of_its_formula():
    x = normal(3, 4)
    variables = nn.PReLU().init(KEYS, x)
    jaxpr = jax.make_jaxpr(nn.PReLU().apply)(variables, x)
    names = [equation.primitive.name for equation in jaxpr.jaxpr.eqns]
    assert names == ["ge", "mul", "select_n"]
