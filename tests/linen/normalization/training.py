"""A batch normalization in training, and what its tests ask of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen as nn

KEY = jax.random.key(0)
MUTABLE = ["batch_stats", "batch_counts"]


def normal(*shape, seed=0, loc=0.0):
    numbers = np.random.default_rng(seed).standard_normal(shape) + loc
    return jnp.asarray(numbers, jnp.float32)


def norm(**fields):
    return nn.BatchNorm(**{"use_running_average": False, **fields})


def plain(**fields):
    return norm(use_scale=False, use_bias=False, **fields)


def train(layer, batches, variables=None, **call):
    """Output of the last batch, and the variables after all of them."""
    variables = variables or layer.init(KEY, batches[0], **call)
    for x in batches:
        y, updates = layer.apply(variables, x, mutable=MUTABLE, **call)
        variables = {**variables, **updates}
    return y, variables


def stats(variables):
    return variables["batch_stats"]["mean"], variables["batch_stats"]["var"]
