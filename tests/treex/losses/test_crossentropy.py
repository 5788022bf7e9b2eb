"""Cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linsey.treex as tx
from linsey.errors import (
    ShapeError,
)

losses = tx.losses


@settings(max_examples=10)
@given(
    logits=st.booleans(),
    binary=st.booleans(),
    sparse=st.booleans(),
    smoothing=st.sampled_from([None, 0.9]),
)
def test_crossentropy(logits, binary, sparse, smoothing):
    preds = jax.random.normal(jax.random.key(0), (4, 3))
    labels = jnp.array([0, 2, 1, 2])
    hot = jax.nn.one_hot(labels, 3)
    smooth = hot if smoothing is None else optax.smooth_labels(hot, smoothing)
    if binary:
        expected = optax.sigmoid_binary_cross_entropy(preds, smooth).mean(-1)
    else:
        expected = optax.softmax_cross_entropy(preds, smooth)
    if not logits:
        preds = jax.nn.sigmoid(preds) if binary else jax.nn.softmax(preds)
    loss = losses.Crossentropy(binary=binary, from_logits=logits, reduction="none",
                               label_smoothing=smoothing)  # fmt: skip
    found = loss(target=labels if sparse else hot, preds=preds)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_shapes_of_crossentropy():
    with pytest.raises(ShapeError):
        losses.crossentropy(jnp.zeros(3, int), jnp.zeros((4, 3)))
    with pytest.raises(ValueError):
        losses.crossentropy(jnp.zeros((4, 3, 1)), jnp.zeros((4, 3)))
    outside = losses.crossentropy(jnp.array([7]), jnp.zeros((1, 3)))
    np.testing.assert_array_equal(outside, 0.0)
    probabilities = losses.crossentropy(
        jnp.array([1]), jnp.array([[1.0, 0.0]]), from_logits=False
    )
    assert jnp.isfinite(probabilities).all()
