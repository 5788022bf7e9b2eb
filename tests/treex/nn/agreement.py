"""What the tests of layers share: the same numbers as Linen's, in every mode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import linsey.linen as nn

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
