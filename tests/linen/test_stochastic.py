"""Dropout against Flax: masks to the bit, streams, and misuse."""

from __future__ import annotations

import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.errors
import linsey.linen as nn
from linsey.errors.base import OptionError
from linsey.errors.layers import AxisOutOfRangeError
from tests.linen.differential import (
    KEYS,
    assert_same_layer,
    assert_same_refusal,
    normal,
)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize(
    "fields",
    [
        {"rate": 0.3},
        {"rate": 0.0},
        {"rate": 1.0},
        {"rate": 0.5, "broadcast_dims": (0,)},
        {"rate": 0.5, "broadcast_dims": [-1, 1]},
        {"rate": 0.5, "rng_collection": "params"},
    ],
)
def test_masks_are_those_of_flax_to_the_bit(dtype, fields):
    x = normal(3, 4, 5).astype(dtype)
    call = {"deterministic": False}
    assert_same_layer("Dropout", inputs=x, call=call, ulps=0, **fields)


def test_dropout_draws_anew_at_every_call():
    def model(lib):
        class Twice(lib.Module):
            @lib.compact
            def __call__(self, x):
                drop = lib.Dropout(0.5, deterministic=False)
                return drop(x), drop(x), lib.Dropout(0.5)(x, deterministic=False)

        return Twice()

    x = normal(4, 4)
    expected, found = (model(lib).apply({}, x, rngs=KEYS) for lib in (flax.linen, nn))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(b, a)
    assert not np.array_equal(found[0], found[1])


def test_a_key_may_be_passed_to_the_call():
    x = normal(3, 4)
    key = jax.random.key(5)
    call = {"deterministic": False, "rng": key}
    assert_same_layer("Dropout", 0.4, inputs=x, call=call, ulps=0)
    y = nn.Dropout(0.4).apply({}, x, False, key)
    np.testing.assert_array_equal(nn.Dropout(0.4).apply({}, x, **call), y)


@pytest.mark.parametrize(("constructor", "call"), [(True, None), (None, True)])
def test_deterministic_dropout_returns_its_input(constructor, call):
    x = np.ones(3)
    layer = nn.Dropout(0.5, deterministic=constructor)
    assert layer.apply({}, x, deterministic=call) is x


def test_dropout_keeps_the_mean():
    x = jnp.ones((100, 100))
    y = nn.Dropout(0.25, deterministic=False).apply({}, x, rngs=KEYS)
    # 5 standard errors of the mean of 10,000 entries with variance p / (1 - p)
    assert abs(float(y.mean()) - 1.0) < 5 * np.sqrt(0.25 / 0.75) / 100


def test_dropout_works_inside_jit_and_vmap():
    layer = nn.Dropout(0.5, deterministic=False)
    x = normal(3, 4)
    key = jax.random.key(2)

    def drop(x, key):
        return layer.apply({}, x, rngs={"dropout": key})

    np.testing.assert_array_equal(jax.jit(drop)(x, key), drop(x, key))
    keys = jax.random.split(key, 3)
    expected = jnp.stack([drop(x[i], keys[i]) for i in range(3)])
    np.testing.assert_array_equal(jax.vmap(drop)(x, keys), expected)


@pytest.mark.parametrize(("constructor", "call"), [(None, None), (True, True)])
def test_deterministic_is_wanted_exactly_once(constructor, call):
    assert_same_refusal(
        "Dropout",
        0.5,
        deterministic=constructor,
        inputs=normal(3),
        call={"deterministic": call},
        error=ValueError,
        match="deterministic",
    )


def test_dropout_needs_a_stream():
    with pytest.raises(flax.errors.InvalidRngError):
        flax.linen.Dropout(0.5, deterministic=False).apply({}, normal(3))
    with pytest.raises(linsey.errors.InvalidRngError, match="dropout"):
        nn.Dropout(0.5, deterministic=False).apply({}, normal(3))


def test_dropout_refuses_integers():
    assert_same_refusal(
        "Dropout",
        0.5,
        deterministic=False,
        inputs=jnp.arange(3),
        error=TypeError,
        match="dtype",
    )


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(OptionError, match="in \\[0, 1\\]"):
        nn.Dropout(rate, deterministic=False).apply({}, normal(3), rngs=KEYS)


def test_broadcasting_along_a_missing_axis_is_refused():
    assert_same_refusal(
        "Dropout",
        0.5,
        broadcast_dims=(2,),
        deterministic=False,
        inputs=normal(3, 4),
        error=AxisOutOfRangeError,
        match="axes -2 to 1",
    )
