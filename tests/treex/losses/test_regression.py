"""Losses of numbers: the documented values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx

losses = tx.losses


R = losses.Reduction


ZO = jnp.array([[0.0, 1.0], [0.0, 0.0]])


VALUES = {
    "MeanSquaredError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.5, 0.25, 1.0, [0.5, 0.5],
    ),
    "MeanAbsoluteError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.5, 0.25, 1.0, [0.5, 0.5],
    ),
    "Huber": (
        [[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]], [1, 0],
        0.155, 0.09, 0.31, [0.18, 0.13],
    ),
    "CosineSimilarity": (
        [[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]], [0.8, 0.2],
        -0.5, -0.1, -1.0, [0.0, -1.0],
    ),
    "MeanAbsolutePercentageError": (
        [[1.0, 1.0], [0.9, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.1, 0.9],
        2.7777778, 2.5, 5.5555558, [0.0, 5.5555558],
    ),
    "MeanSquaredLogarithmicError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.24022643, 0.12011322, 0.48045287, [0.24022643, 0.24022643],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_documented_values(name):
    target, preds, weights, mean, weighted, total, each = VALUES[name]
    given_ = dict(target=jnp.array(target), preds=jnp.array(preds))
    cls = getattr(losses, name)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)  # noqa: E731
    close(cls()(**given_), mean)
    close(cls()(**given_, sample_weight=jnp.array(weights)), weighted)
    close(cls()(**given_, sample_weight=list(weights)), weighted)
    close(cls(reduction=R.SUM)(**given_), total)
    close(cls(reduction="none")(**given_), each)
    close(cls(reduction=R.NONE, weight=2.0)(**given_), 2 * jnp.array(each))
    close(jax.jit(lambda t, p: cls()(target=t, preds=p))(*given_.values()), mean)


def test_integer_targets_take_the_dtype_of_the_predictions():
    value = losses.mean_squared_error(jnp.array([1, 2]), jnp.array([1.0, 3.0]))
    assert (value, value.dtype) == (0.5, jnp.float32)
