"""Metrics: batches, accumulation, names."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors.treex import MissingAuxError, PositionalArgumentsError

m = tx.metrics
ONE = dict(target=jnp.zeros((2, 1)), preds=jnp.ones((2, 1)))
TWO = dict(target=jnp.zeros((2, 1)), preds=3 * jnp.ones((2, 1)))


class Count(tx.Metric):
    """Counts the entries of the targets."""

    total: Any = tx.MetricState.node()

    def __init__(self, on=None):
        super().__init__(on=on)
        self.total = jnp.array(0)

    def update(self, target, scale=1):
        self.total = self.total + target.size * scale

    def compute(self):
        return self.total


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


# ------------------------------------------------------------------ Reduce


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


# ------------------------------------------------------------------ Accuracy

LABELS = jnp.array([0, 1, 2, 1])
LOGITS = jnp.array([[3, 1, 0], [0, 1, 2], [0, 1, 2], [0, 2, 1]], jnp.float32)


@pytest.mark.parametrize(
    ("options", "preds", "target", "expected"),
    [
        ({}, LOGITS, LABELS, 0.75),
        ({}, LOGITS.astype(jnp.bfloat16), LABELS, 0.75),
        ({"num_classes": 3}, LOGITS.argmax(-1), LABELS, 0.75),
        ({"top_k": 2}, LOGITS, LABELS, 1.0),
        ({"average": "macro", "num_classes": 3}, LOGITS, LABELS, (1 + 0.5 + 1) / 3),
        ({"average": "weighted", "num_classes": 3}, LOGITS, LABELS, 0.75),
        ({"average": "MACRO", "num_classes": 4}, LABELS, LABELS, 1.0),
        ({"average": "none", "num_classes": 3}, LOGITS, LABELS, [1.0, 0.5, 1.0]),
        ({"ignore_index": 1}, LOGITS, LABELS, 1.0),
        ({}, LOGITS.reshape(2, 2, 3), LABELS.reshape(2, 2), 0.75),
        ({"num_classes": 3}, jnp.array([1, 1]), jnp.array([1, 7]), 1.0),
        ({"mode": "binary"}, jnp.array([0.9, 0.2, 0.6]), jnp.array([1, 0, 0]), 2 / 3),
        ({"mode": "multilabel"}, jnp.array([[0.9, 0.2], [0.6, 0.6]]),
         jnp.array([[1, 0], [0, 1]]), 0.75),
        ({"mode": "multilabel", "subset_accuracy": True},
         jnp.array([[0.9, 0.2], [0.6, 0.6]]), jnp.array([[1, 0], [0, 1]]), 0.5),
        ({}, jnp.array([[0.9], [0.2]]), jnp.array([1, 1]), 0.5),
    ],
)  # fmt: skip
def test_accuracy(options, preds, target, expected):
    metric = m.accuracy.Accuracy(**options)
    found = jax.jit(lambda a, p, t: a(preds=p, target=t))(metric, preds, target)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_accuracy_of_labels_with_axes_of_size_one():
    target = jnp.arange(10)[None, None, None]
    preds = target.at[..., :2].set(9)
    metric = m.Accuracy(num_classes=10)
    np.testing.assert_allclose(metric(preds=preds, target=target), 0.8)
    metric.update(target, target)  # preds first
    np.testing.assert_allclose(metric.compute(), 0.9)
    assert m.Accuracy().compute() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"average": "macro"},
        {"average": "samples"},
        {"average": None},
        {"mdmc_average": "samplewise"},
        {"ignore_index": 3, "num_classes": 3},
        {"top_k": 0},
        {"multiclass": True},
    ],
)
def test_options_of_accuracy_that_make_no_sense(options):
    with pytest.raises(ValueError):
        m.Accuracy(**options)


def test_data_that_accuracy_refuses():
    for options, preds, target in [
        ({}, LOGITS, LABELS.astype(float)),
        ({}, LOGITS[:2], LABELS),
        ({}, LOGITS, LABELS[:, None] + jnp.arange(2)),
        ({"num_classes": 4}, LOGITS, LABELS),
        ({"top_k": 3}, LOGITS, LABELS),
        ({}, LABELS, LABELS),
    ]:
        with pytest.raises(ValueError):
            m.Accuracy(**options)(preds=preds, target=target)
    with pytest.raises(KeyError):
        m.Accuracy(average="other")


def test_words_of_accuracy():
    words = tx.metrics.utils
    assert words.DataType.of("multi-class") is words.DataType.MULTICLASS
    assert words.AverageMethod.of("Micro") is words.AverageMethod.MICRO
    assert words.MDMCAverageMethod.of("global") is words.MDMCAverageMethod.GLOBAL


# ------------------------------------------------------------------ collections


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
    with pytest.raises(MissingAuxError, match="aux_losses"):
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
