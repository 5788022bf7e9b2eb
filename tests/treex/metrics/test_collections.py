"""Several metrics, losses and logs as one metric."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.treex as tx
from linsey.errors import (
    OptionError,
)
from tests.treex.metrics.counting import ONE, TWO, Count

m = tx.metrics


def test_names_of_metrics():
    names = lambda x: sorted(m.Metrics(x).metrics)  # noqa: E731
    assert names([m.Mean(), m.Mean()]) == ["mean", "mean2"]
    assert names({"a": m.Mean(), "b": [m.Mean(name="x")]}) == ["a/mean", "b/x"]
    assert names(m.Mean()) == ["mean"]


def test_metrics_give_each_what_it_asks_for():
    metrics = m.Metrics([m.MAE(), Count(), m.Mean()])
    metrics.update(**ONE, values=jnp.array([5.0]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == {"mean_absolute_error": 1.0, "count": 2.0, "mean": 5.0}
    metrics.reset()
    assert int(metrics.compute()["count"]) == 0


def test_metrics_of_several_values_have_flat_names():
    class Several(Count):
        def compute(self):
            return {"a": 1, "b": {"c": 2}}

    assert m.Metrics(Several(), name="m").compute() == {
        "several/a": 1,
        "several/b/c": 2,
    }


def test_losses():
    mse = tx.losses.MeanSquaredError
    losses = m.Losses({"a": mse(), "b": [mse(name="my_loss"), mse(), mse()]})
    names = ["a/mean_squared_error_loss", "b/mean_squared_error_loss",
             "b/mean_squared_error_loss2", "b/my_loss"]  # fmt: skip
    assert sorted(losses.totals) == names
    losses.update(**ONE)
    losses.update(**TWO)
    total, logs = losses.compute()
    assert float(total) == 20.0 and {float(v) for v in logs.values()} == {5.0}
    assert losses.counts["a/mean_squared_error_loss"].dtype == jnp.uint32
    assert m.Losses([]).compute() == (0.0, {})


def test_losses_get_the_arguments_that_they_name():
    losses = m.Losses([tx.losses.MeanSquaredError(), tx.regularizers.L2(0.5)])
    losses.update(**ONE, parameters=jnp.array([2.0]), sample_weight=jnp.zeros(2))
    _, logs = losses.compute()
    assert {k: float(v) for k, v in logs.items()} == {
        "mean_squared_error_loss": 1.0,  # its `call` names no weights
        "l2_loss": 2.0,
    }


class Logging(tx.Module):
    """Leaves logs behind."""

    aux: Any = tx.LossLog.node()
    named: Any = tx.LossLog.node()
    seen: Any = tx.MetricLog.node()

    def __init__(self, value):
        self.aux = jnp.array(value)
        self.named = tx.Named("my_loss", jnp.array(2 * value))
        self.seen = jnp.array([value, 3 * value])


def test_logs_of_modules():
    losses = m.AuxLosses(Logging(1.0).loss_logs())
    for value in (1.0, 3.0):
        losses.update(aux_losses=Logging(value).loss_logs())
    total, logs = losses.compute()
    assert {k: float(v) for k, v in logs.items()} == {"aux_loss": 2.0, "my_loss": 4.0}
    assert float(total) == 6.0
    metrics = m.AuxMetrics(Logging(1.0).metric_logs())
    found = metrics(aux_metrics=Logging(1.0).metric_logs())
    assert {k: float(v) for k, v in found.items()} == {"seen": 2.0}


def test_logs_of_plain_pytrees_have_names_too():
    metrics = m.AuxMetrics([1.0, 2.0, tx.Named("x", 3.0)])
    found = metrics(aux_metrics=[1.0, 2.0, tx.Named("x", 3.0)])
    assert {k: float(v) for k, v in found.items()} == {
        "aux_metric": 1.0, "aux_metric2": 2.0, "x": 3.0}  # fmt: skip
    two = [Logging(1.0), Logging(2.0)]
    assert sorted(m.AuxLosses([t.loss_logs() for t in two]).totals) == [
        "aux_loss", "aux_loss2", "my_loss", "my_loss2"]  # fmt: skip
    with pytest.raises(ValueError, match="'other'"):
        metrics.update(aux_metrics=tx.Named("other", 1.0))


def logger():
    example = Logging(1.0)
    return tx.LossAndLogs(
        tx.losses.MeanSquaredError(),
        m.MAE(),
        aux_losses=example.loss_logs(),
        aux_metrics=example.metric_logs(),
    )


def step(value, data):
    module = Logging(value)
    return dict(**data, aux_losses=module.loss_logs(),
                aux_metrics=module.metric_logs())  # fmt: skip


def test_loss_and_logs():
    log = logger()
    log(**step(0.0, ONE))
    loss, losses, metrics = log(**step(1.0, TWO))
    assert float(loss) == 9.0 + 3.0
    assert {k: float(v) for k, v in losses.items()} == {
        "loss": 12.0, "mean_squared_error_loss": 9.0, "aux_loss": 1.0,
        "my_loss": 2.0}  # fmt: skip
    assert {k: float(v) for k, v in metrics.items()} == {
        "mean_absolute_error": 3.0, "seen": 2.0}  # fmt: skip
    loss, losses, _ = log.compute()
    assert float(loss) == float(losses["loss"]) == 5.0 + 1.5


def test_loss_of_the_batch_and_logs_of_the_epoch():
    traces = []

    @jax.jit
    def f(log, data):
        traces.append(1)
        return log.batch_loss_epoch_logs(**data), log

    log = tx.LossAndLogs(tx.losses.MeanAbsoluteError(), m.MAE())
    (_, losses, _), log = f(log, ONE)
    (loss, losses, metrics), log = f(log, TWO)
    assert float(loss) == 3.0 and float(losses["loss"]) == 2.0
    assert float(metrics["mean_absolute_error"]) == 2.0 and len(traces) == 1
    log.reset()
    assert float(log(**ONE)[0]) == 1.0


def test_what_loss_and_logs_are_not_given():
    log = logger()
    with pytest.raises(OptionError, match="aux_losses"):
        log.update(**ONE)
    assert tx.LossAndLogs().compute() == (0.0, {"loss": 0.0}, {})
    plain = tx.LossAndLogs(tx.losses.MeanSquaredError())
    plain.update(**step(1.0, ONE))  # logs that nobody asked for
    assert float(plain.compute()[0]) == 1.0
    selected = tx.LossAndLogs(tx.losses.MeanSquaredError(), m.Mean(), on="a")
    inside = {name: {"a": value} for name, value in ONE.items()}
    loss, _, metrics = selected(metrics_kwargs={"values": jnp.array([4.0])}, **inside)
    assert (float(loss), float(metrics["mean"])) == (1.0, 4.0)


def test_a_loss_and_a_log_of_one_name_are_both_shown():
    log = tx.LossAndLogs(
        tx.losses.MeanSquaredError(name="aux"), aux_losses=Logging(1.0).loss_logs()
    )
    _, losses, _ = log(**ONE, aux_losses=Logging(5.0).loss_logs())
    assert {k: float(v) for k, v in losses.items()} == {
        "loss": 16.0, "aux_loss": 1.0, "aux_loss2": 5.0, "my_loss": 10.0}  # fmt: skip
