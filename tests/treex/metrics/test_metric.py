"""What all metrics have in common, batches and accumulation; sums and means."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors.treex import (
    PositionalArgumentsError,
)
from tests.treex.metrics.counting import Count

m = tx.metrics


def test_a_call_gives_the_batch_and_compute_everything():
    count = Count()
    assert int(count(target=jnp.ones(2))) == 2
    assert int(count(target=jnp.ones(3), scale=2)) == 6
    assert int(count.compute()) == 8
    assert count.reset() is None and int(count.compute()) == 0
    assert (count.name, count.dtype) == ("count", jnp.float32)


def test_metrics_show_the_arguments_of_update():
    assert list(inspect.signature(Count().__call__).parameters) == ["target", "scale"]
    with pytest.raises(PositionalArgumentsError):
        Count()(jnp.ones(2))
    with pytest.raises(TypeError):
        tx.Metric()


def test_labels_are_selected():
    count = Count(on=("a", 0))
    assert int(count(target={"a": [jnp.ones(5)]})) == 5


def test_metrics_travel_through_compiled_functions():
    traces = []

    @jax.jit
    def f(count):
        traces.append(1)
        return count(target=jnp.ones(2)), count

    count = Count()
    for total in (2, 4):
        _, count = f(count)
        assert int(count.compute()) == total
    count.reset()
    value, count = f(count)
    assert (int(value), int(count.compute()), len(traces)) == (2, 2, 1)


@pytest.mark.parametrize(
    ("metric", "leaves"), [(m.Mean(), 4), (m.Accuracy(), 8), (Count(), 2)]
)
def test_the_first_state_is_kept_beside_the_state(metric, leaves):
    assert len(jax.tree.leaves(metric)) == leaves


def test_a_metric_may_be_a_dataclass():
    @dataclasses.dataclass
    class Total(tx.Metric):
        total: Any = tx.MetricState.node(default_factory=lambda: jnp.array(0.0))

        def update(self, target):
            self.total = self.total + target

        def compute(self):
            return self.total

    total = Total()
    assert (float(total(target=2.0)), float(total(target=3.0))) == (2.0, 3.0)
    assert (total.name, float(total.compute())) == ("total", 5.0)


@pytest.mark.thinned(3)
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
