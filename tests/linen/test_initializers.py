"""The names of Flax's initializers, which are those of JAX."""

from __future__ import annotations

import flax.linen.initializers
import jax
import jax.numpy as jnp
import pytest

import linsey.linen as nn

NAMES = [name for name in vars(flax.linen.initializers) if not name.startswith("_")]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"zeros_init", "ones_init"}))
def test_initializers_are_those_of_jax(name):
    expected = getattr(jax.nn.initializers, name)
    assert getattr(nn.initializers, name) is expected


@pytest.mark.parametrize(("name", "value"), [("zeros_init", 0.0), ("ones_init", 1.0)])
def test_constant_initializers_are_built_by_a_call(name, value):
    init = getattr(nn.initializers, name)()
    assert init(jax.random.key(0), (2,), jnp.float16).tolist() == [value, value]
