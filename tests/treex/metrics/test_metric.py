"""What all metrics have in common: batches and accumulation."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
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
