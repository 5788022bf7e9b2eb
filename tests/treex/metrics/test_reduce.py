"""Sums and means."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx

m = tx.metrics


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 3, 5, 7], None, 4.0),
        ([1, 3, 5, 7], [1, 1, 0, 0], 2.0),
        (np.arange(12.0).reshape(3, 4), [1, 0, 1], 5.5),
        ([[1, 2], [10, 20]], [1, 0], 1.5),
        ([1, 3], 2.0, 2.0),
        ([1.0, 3.0], [0.5, 0.25], 5 / 3),
        (np.ones((2, 3)), np.ones(3), 1.0),
    ],
)
def test_mean(values, weights, expected):
    mean = m.Mean()
    weights = None if weights is None else jnp.array(weights)
    found = mean(values=jnp.array(values), sample_weight=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_reductions():
    values, weights = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])
    found = {
        how: float(m.Reduce(how)(values=values, sample_weight=weights))
        for how in ("sum", "sum_over_batch_size", "weighted_mean")
    }
    assert found == {"sum": 7.0, "sum_over_batch_size": 3.5, "weighted_mean": 1.75}
    assert m.Reduce(m.Reduction.sum).count is None
    with pytest.raises(KeyError):
        m.Reduce("product")
    with pytest.raises(ValueError):
        m.Mean()(values=jnp.ones(2), sample_weight=jnp.ones((2, 2)))
    assert jnp.isnan(m.Mean().compute())
    rows = m.Reduce("sum")
    assert rows(values=jnp.ones((2, 3)), sample_weight=jnp.array([1.0, 0.0])) == 3.0


@pytest.mark.parametrize(("cls", "f"), [(m.MAE, np.abs), (m.MSE, np.square)])
def test_errors(cls, f):
    rng = np.random.default_rng(0)
    target, preds = rng.normal(size=(2, 5, 3)).astype(np.float32)
    metric = cls()
    np.testing.assert_allclose(
        metric(target=target, preds=preds), f(preds - target).mean(), rtol=1e-6
    )
    keep = np.array([1, 0, 1, 0, 0])
    metric.reset()
    metric.update(target=target, preds=preds, sample_weight=keep)
    rows = keep.astype(bool)
    expected = f(preds - target)[rows].mean()
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-6)
    integers = cls()(target=jnp.array([0.5]), preds=jnp.array([1]))
    np.testing.assert_allclose(integers, f(0.5))
    small = cls()(target=jnp.array([2], jnp.uint8), preds=jnp.array([1], jnp.uint8))
    assert small == 1.0
    assert m.MAE is m.MeanAbsoluteError and m.MSE is m.MeanSquareError
