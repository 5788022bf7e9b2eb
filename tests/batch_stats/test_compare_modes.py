"""The first layer where training and evaluation part, and why, are found."""

from __future__ import annotations

import json
import math

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import treex as tx
from linsey.batch_stats import compare_modes, recalibrate
from linsey.errors import OptionError
from tests.batch_stats import mode_cases

KEY = jax.random.key(0)
LIBRARIES = pytest.mark.parametrize(
    "nn",
    [linsey.linen, pytest.param(flax.linen, marks=pytest.mark.slow)],
    ids=["linsey", "flax"],
)
X = np.random.default_rng(0).normal(3, 2, (300, 4)).astype(np.float32)


def expected(cause, layer):
    """The layer that is named: data of another kind are seen by the first."""
    return (cause, "a" if cause == "other_distribution" else layer)


def check(model, cause, layer):
    report = compare_modes(*mode_cases.make(model, cause, layer))
    assert report.first is not None, report
    assert (report.first.kind, report.first.layer) == expected(cause, layer), report
    assert report.findings[0].kind == cause
    assert [row[0] for row in report.rows] == ["a", "b", "c", "(output)"]


@pytest.mark.thinned(6)
@pytest.mark.parametrize(("cause", "layer"), mode_cases.FAULTS)
def test_layer_and_cause(cause, layer):
    check("mlp", cause, layer)


@pytest.mark.slow
@pytest.mark.parametrize(("cause", "layer"), mode_cases.FAULTS)
@pytest.mark.parametrize("model", ["cnn", "resnet", "third_party"])
def test_layer_and_cause_in_other_models(model, cause, layer):
    check(model, cause, layer)


@pytest.mark.slow
@pytest.mark.parametrize("model", mode_cases.MODELS)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_healthy_model_has_no_findings(model, seed):
    cls, _ = mode_cases.MODELS[model]
    variables = mode_cases.healthy(model, seed)
    batch = mode_cases.images(96, 20 + seed)
    for reference in (None, mode_cases.REFERENCE):
        report = compare_modes(cls(), variables, batch, reference)
        assert not report.findings, report


def kinds(report):
    return [one.kind for one in report]


@LIBRARIES
def test_what_remains_and_which_arguments_would_tell(nn):
    model = nn.BatchNorm()
    variables = model.init(KEY, X, use_running_average=True)
    healthy = recalibrate(model, variables, [X])
    moved = {"mean": np.full(4, 1.0), "var": np.full(4, 4.0)}
    lagging = {**healthy, "batch_stats": moved}
    before = {**healthy, "params": {"scale": np.zeros(4), "bias": np.zeros(4)}}

    report = compare_modes(model, lagging, X)
    assert kinds(report) == ["stale|slow_momentum|other_distribution"]
    assert "`reference=`" in report.first.remedy
    assert "`previous=`" in report.first.remedy

    report = compare_modes(model, lagging, X, reference=[X])
    assert kinds(report) == ["stale|slow_momentum"]
    assert "`previous=`" in report.first.remedy

    same = {**before, "batch_stats": moved}
    assert kinds(compare_modes(model, lagging, X, previous=same)) == ["stale"]
    # Neither where it was, nor on the way: those of other parameters.
    other = {**before, "batch_stats": {"mean": np.full(4, 9.0), "var": np.ones(4)}}
    assert kinds(compare_modes(model, lagging, X, [X], other)) == ["stale"]
    assert not compare_modes(model, healthy, X, [X], before).findings


@LIBRARIES
def test_the_gap_is_that_of_the_outputs(nn):
    model = nn.BatchNorm(use_bias=False, use_scale=False)
    stats = {"mean": np.arange(4.0), "var": np.arange(1.0, 5)}
    variables = {"batch_stats": jax.tree.map(np.float32, stats)}
    report = compare_modes(model, variables, X)
    y, _ = model.apply(variables, X, use_running_average=False, mutable=["batch_stats"])
    difference = model.apply(variables, X, use_running_average=True) - y
    columns = dict(zip(report.columns, report.rows[0], strict=True))
    np.testing.assert_allclose(
        columns["gap"], np.sqrt((difference**2).mean()), rtol=1e-4
    )
    np.testing.assert_allclose(
        columns["worst channel"], np.sqrt((difference**2).mean(0)).max(), rtol=1e-4
    )
    np.testing.assert_allclose(report.rows[1][2], columns["gap"], rtol=1e-4)
    assert columns["values"] == 299


def test_rows_of_scanned_layers_are_told_apart():
    class Block(linsey.linen.Module):
        still: bool

        @linsey.linen.compact
        def __call__(self, x, _):
            return linsey.linen.BatchNorm(self.still, name="norm")(x) ** 2, None

    class Model(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, train=False):
            axes = {"params": 0, "batch_stats": 0}
            split = {"params": True}
            blocks = linsey.linen.scan(Block, axes, split_rngs=split, length=3)
            return blocks(not train, name="blocks")(x, None)[0]

    variables = recalibrate(Model(), Model().init(KEY, X), [X])
    stats = variables["batch_stats"]["blocks"]["norm"]
    stats["mean"], stats["var"] = stats["mean"].at[1].set(0), stats["var"].at[1].set(1)
    report = compare_modes(Model(), variables, X)
    assert [(one.layer, one.kind) for one in report] == [
        ("blocks/norm[1]", "never_updated")
    ]
    assert [row[0] for row in report.rows[:-1]] == [
        f"blocks/norm[{i}]" for i in range(3)
    ]


def test_frozen_layers_agree_and_are_a_note():
    model = linsey.linen.BatchNorm(frozen="statistics")
    variables = model.init(KEY, X, use_running_average=True)
    report = compare_modes(model, variables, X)
    assert [(one.kind, one.severity) for one in report] == [("frozen", "note")]
    assert report.first is None
    assert report.rows[-1][2] == 0  # the outputs


def test_inputs_that_are_not_finite():
    model = linsey.linen.BatchNorm()
    variables = recalibrate(model, model.init(KEY, X, True), [X])
    bad = np.where(np.arange(4) == 2, np.nan, X)
    report = compare_modes(model, variables, bad)
    assert kinds(report) == ["nonfinite"]
    assert math.isnan(report.first.numbers["gap"])
    json.loads(report.to_json())


def test_objects_and_functions():
    model = tx.Sequential(tx.Linear(3), tx.BatchNorm()).init(0, X)
    report = compare_modes(model, None, X)
    assert [(one.layer, one.kind) for one in report] == [("layers/1", "never_updated")]
    healthy = recalibrate(model, None, [X])
    assert not compare_modes(healthy, None, X).findings

    def function(variables, x, train, mutable):
        stats = variables["batch_stats"]
        batch = {"mean": x.mean(0), "var": x.var(0)}
        used = batch if train else stats
        y = (x - used["mean"]) / jnp.sqrt(used["var"])
        new = jax.tree.map(lambda s, b: 0.9 * s + 0.1 * b, dict(stats), batch)
        return (y, {"batch_stats": new}) if mutable else y

    stats = {"mean": np.ones(4, np.float32), "var": np.ones(4, np.float32)}
    report = compare_modes(function, {"batch_stats": stats}, X)
    assert kinds(report) == ["stale|slow_momentum|other_distribution"]
    assert "keeps 0.9 of" in report.first.message


def test_text_and_plot():
    model = linsey.linen.BatchNorm()
    report = compare_modes(model, model.init(KEY, X, True), X)
    assert report.summary == "Training and evaluation part at the layer: 1 error"
    assert "never_updated" in str(report)
    pytest.importorskip("matplotlib")
    (axes,) = report.plot().axes
    assert [bar.get_width() for bar in axes.patches] == [report.rows[0][2]]


def test_what_is_refused():
    model = linsey.linen.BatchNorm()
    variables = model.init(KEY, X, True)
    with pytest.raises(OptionError) as caught:
        compare_modes(model, variables, X, previous=variables)
    assert str(caught.value) == (
        "`previous` has the same parameters as `variables`.\n"
        "What has moved since an earlier checkpoint tells causes apart.\n"
        "Pass the variables of an earlier step."
    )
    dense = linsey.linen.Dense(2)
    with pytest.raises(OptionError) as caught:
        compare_modes(dense, dense.init(KEY, X), X)
    assert str(caught.value) == (
        "The variables hold no running statistics.\n"
        "Those are `mean` and `var` of a layer in the collection `batch_stats`.\n"
        "Pass all variables of the model, as `init` returned them."
    )
