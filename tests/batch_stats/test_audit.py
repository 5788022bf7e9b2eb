"""Seeded faults are named, with their layer; healthy models have no error."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
from linsey import treex as tx
from linsey.batch_stats import audit
from linsey.batch_stats.auditing.effects import effect_of
from linsey.batch_stats.auditing.evidence import Settings, read_layer
from linsey.batch_stats.auditing.observed import Observed, observe
from linsey.batch_stats.calls import find_call
from linsey.batch_stats.statistics import Statistics, at, find_statistics
from linsey.core import freeze
from linsey.errors import ArgumentTypeError, OptionError
from linsey.training.train_state import TrainState
from tests.batch_stats import zoo

NAMES = ["mlp", "cnn", "resnet", "flax"]
# Half of the models in the fast suite: what they share is tested in each.
SOME = [
    pytest.param(name, marks=[] if name in ("cnn", "flax") else pytest.mark.slow)
    for name in NAMES
]
# The layer with the fault, another of the same shape, and the product before.
PLACES = {
    "mlp": ("BatchNorm_1", "BatchNorm_0", "Dense_1"),
    "cnn": ("BatchNorm_1", "BatchNorm_0", "Conv_1"),
    "resnet": (
        "ResidualBlock_0/BatchNorm_0",
        "ResidualBlock_0/BatchNorm_1",
        "ResidualBlock_0/Conv_0",
    ),
    "flax": ("bn1", "bn2", "conv1"),
}


@dataclasses.dataclass
class Case:
    """A healthy model in which a fault is put somewhere.

    Attributes:
        model: the module.
        variables: nested dictionaries; the statistics are those of the data.
        layer: path of the layer with the fault.
        twin: another one of the same shape.
        product: the convolution or dense layer before.
    """

    model: Any
    variables: Any
    layer: str
    twin: str
    product: str

    def stats(self, layer: str = "") -> Any:
        return at(self.variables["batch_stats"], (layer or self.layer).split("/"))

    def params(self, layer: str = "") -> Any:
        return at(self.variables["params"], (layer or self.layer).split("/"))

    def remove(self, collection: str) -> None:
        *parents, last = self.layer.split("/")
        del at(self.variables[collection], parents)[last]


@functools.cache
def healthy(name: str) -> Case:
    """A model with the statistics of its data, and large variances in one layer."""
    model = zoo.models()[name]
    variables = jax.tree.map(np.asarray, zoo.init(model)(zoo.KEY))
    case = Case(model, variables, *PLACES[name])
    kernel = case.params(case.product)
    kernel["kernel"] = 20 * kernel["kernel"] + 0.1
    call = find_call(model, variables, zoo.batches()[0])
    for path, found in observe(call, variables, zoo.batches()).items():
        stats = at(variables["batch_stats"], path)
        stats["mean"] = found.mean.astype(np.float32)
        stats["var"] = found.var.astype(np.float32)
    return case


def with_data(case: Case) -> dict[str, Any]:
    return {"model": case.model, "batches": zoo.batches()}


# -- faults: each changes the case and gives what else the audit is told -------------


def never_updated(case):
    case.stats().update(mean=0 * case.stats()["mean"], var=1 + 0 * case.stats()["var"])


def too_few_updates(case):
    stats, kept = case.stats(), 0.9**5
    stats["mean"], stats["var"] = (
        (1 - kept) * stats["mean"],
        kept + (1 - kept) * stats["var"],
    )
    return with_data(case)


def stale(case):
    previous = copy.deepcopy(case.variables)
    kernels = case.params(case.product)
    kernels["kernel"] = 1.5 * kernels["kernel"]
    for one in find_statistics(previous):
        if one.layer != case.layer:
            at(previous["batch_stats"], one.path)["mean"] = one.mean + 0.5
    return {"previous": previous}


def nonfinite(case):
    case.stats()["mean"] = np.where(
        np.arange(len(case.stats()["mean"])) == 1, np.nan, 1
    )


def negative_variance(case):
    case.stats()["var"] = -case.stats()["var"]


def tiny_variance(case):
    case.stats()["var"] = 1e-9 * case.stats()["var"]


def half_precision(case):
    case.stats().update(jax.tree.map(lambda a: a.astype(jnp.bfloat16), case.stats()))


def precision_lost(case):
    stats = case.stats()
    stats["mean"] = stats["mean"] + 1e7 * np.sqrt(stats["var"])


def copied_layers(case):
    case.stats().update(copy.deepcopy(case.stats(case.twin)))


def in_optimizer(case):
    state = optax.adam(1e-3).init(case.variables)
    moments = copy.deepcopy(state[0].mu)
    for one in find_statistics(moments):
        is_it = one.layer == case.layer
        at(moments["batch_stats"], one.path)["var"] = one.var + is_it
    return {"opt_state": (state[0]._replace(mu=moments), *state[1:])}


def missing_statistics(case):
    case.remove("batch_stats")
    return with_data(case)


def missing_parameters(case):
    case.remove("params")


def foreign_layout(case):
    stats = case.stats()
    stats["running_mean"], stats["running_var"] = stats.pop("mean"), stats.pop("var")


def mean_and_variance_exchanged(case):
    stats = case.stats()
    stats["mean"], stats["var"] = stats["var"], stats["mean"]
    return with_data(case)


def deviation_for_variance(case):
    case.stats()["var"] = np.sqrt(case.stats()["var"])
    return with_data(case)


def wrong_statistics(case):
    stats = case.stats()
    stats["mean"] = stats["mean"] + 5 * np.sqrt(stats["var"])
    return with_data(case)


def dead_channel(case):
    case.params(case.product)["kernel"][..., 0] = 0
    return with_data(case)


FAULTS: list[Callable[[Case], dict[str, Any] | None]] = [
    never_updated,
    too_few_updates,
    stale,
    nonfinite,
    negative_variance,
    tiny_variance,
    half_precision,
    precision_lost,
    copied_layers,
    in_optimizer,
    missing_statistics,
    missing_parameters,
    foreign_layout,
    mean_and_variance_exchanged,
    deviation_for_variance,
    wrong_statistics,
    dead_channel,
]
# Nothing else in the model is like these; what the other kinds are is told by effect.
SEVERITIES = {
    "half_precision": "warning",
    "too_few_updates": "warning",
    "copied_layers": "warning",
    "tiny_variance": "warning",
    "dead_channel": "note",
}


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_with_its_layer(fault, name):
    case, kind = copy.deepcopy(healthy(name)), fault.__name__
    report = audit(case.variables, **(fault(case) or {}))
    found = [one for one in report.of_kind(kind) if one.layer == case.layer]
    assert found, report
    assert found[0].severity == SEVERITIES.get(kind, "error"), report
    assert found[0].remedy
    graver = {one.layer for one in report if one.severity != "note"}
    # Copies have two places, an optimizer takes all, and a dead channel changes what
    # comes behind it.
    if kind not in ("copied_layers", "in_optimizer", "dead_channel"):
        assert graver == {case.layer}, report
    json.loads(report.to_json())


@pytest.mark.parametrize("name", SOME)
def test_statistics_of_the_data_are_right(name):
    case = healthy(name)
    report = audit(case.variables, case.model, zoo.batches())
    assert not [one for one in report if one.severity != "note"], report
    assert len(report.rows) == len(find_statistics(case.variables))
    assert audit(freeze(case.variables)).findings == audit(case.variables).findings


# -- healthy models ------------------------------------------------------------------


def assert_no_error(trained: zoo.Trained) -> None:
    for variables in (trained.variables, trained.average):
        report = audit(
            variables,
            trained.model,
            zoo.batches(),
            previous=trained.early,
            step=trained.steps,
            opt_state=trained.opt_state,
        )
        assert not report.errors, report
        assert not audit(variables, previous=trained.early).errors


@pytest.mark.parametrize(("seed", "steps", "lr"), [(0, 40, 0.02), (1, 8, 0.1)])
def test_a_trained_model_has_no_error(seed, steps, lr):
    assert_no_error(zoo.train(zoo.models()["mlp"], steps, lr=lr, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "momentum"),
    [
        *[("mlp", 0.5), ("mlp", 0.9), ("mlp", 0.99), ("mlp", 0.999)],
        *[("cnn", 0.9), ("cnn", 0.99), ("resnet", 0.9), ("resnet", 0.99)],
        *[("flax", 0.9), ("flax", 0.99), ("layer", 0.9), ("none", 0.9)],
    ],
)
def test_trained_models_have_no_error(name, momentum):
    model = zoo.with_momentum(name, momentum)
    for seed, steps, size, lr in (
        (0, 60, 64, 0.02),
        (1, 20, 16, 5e-3),
        (2, 60, 64, 0.1),
    ):
        assert_no_error(zoo.train(model, steps, size, lr, seed))


def test_border_pixels_are_a_note():
    x = zoo.data()[0].reshape(-1, 64)
    model = nn.BatchNorm(momentum=0.5)
    variables = model.init(zoo.KEY, x[:1], True)
    for start in range(0, 1280, 64):
        _, updates = model.apply(
            variables, x[start : start + 64], False, mutable=["batch_stats"]
        )
        variables = {**variables, **updates}
    report = audit(variables, model, [x[1280:1408], x[1408:1536]])
    assert {one.severity for one in report} == {"note"}, report
    assert {one.kind for one in report} == {"tiny_variance", "dead_channel"}


# -- what is given -------------------------------------------------------------------


def normalized(**options):
    """A layer alone, and what it normalizes."""
    x = 3 * jax.random.normal(zoo.KEY, (64, 4)) + jnp.arange(4.0)
    layer = nn.BatchNorm(**options)
    return layer, layer.init(zoo.KEY, x, True), x


def test_states_of_trainings_and_objects_are_taken_apart():
    layer, variables, _ = normalized()

    class State(TrainState):
        batch_stats: Any

    state = State.create(apply_fn=layer.apply, tx=optax.adam(0.1), **variables)
    assert audit(state).of_kind("never_updated")[0].severity == "note"  # step 0
    (found,) = audit(state.replace(step=3))
    assert (found.kind, found.severity) == ("never_updated", "error")
    tree = {"params": {}, "batch_stats": variables["batch_stats"], "step": jnp.int32(3)}
    assert audit(tree, opt_state=()).of_kind("never_updated")[0].severity == "error"

    whole = TrainState.create(apply_fn=None, tx=optax.adam(0.1), params=variables)
    assert audit(whole).of_kind("in_optimizer")

    model = tx.Sequential(tx.Linear(3), tx.BatchNorm(momentum=0.5)).init(0, np.ones(4))
    report = audit(model, batches=[np.eye(4, dtype=np.float32)])
    assert [one.layer for one in report.of_kind("never_updated")] == ["layers/1"]
    assert report.rows[0][report.columns.index("momentum")] == pytest.approx(0.5)
    with pytest.raises(ArgumentTypeError, match=r"The variables are of type `int`."):
        audit(3)


def test_counted_updates_tell_what_is_left_of_the_initial_values():
    layer, variables, x = normalized(momentum=0.9, count_updates=True)
    for _ in range(4):
        _, updates = layer.apply(
            variables, x, False, mutable=["batch_stats", "batch_counts"]
        )
        variables = {**variables, **updates}
    (found,) = audit(variables, momentum=0.9).of_kind("too_few_updates")
    assert found.numbers == {"share": pytest.approx(0.9**4), "count": 4}
    assert "needs 44 updates" in found.message
    assert not audit(variables).of_kind("too_few_updates")  # the momentum is not known
    (found,) = audit(variables, layer, x[None]).of_kind("too_few_updates")
    assert found.numbers["share"] == pytest.approx(0.9**4)


def test_a_share_of_the_initial_values_is_found_without_a_count():
    layer, variables, x = normalized(momentum=0.9)
    for _ in range(6):
        _, updates = layer.apply(variables, x, False, mutable=["batch_stats"])
        variables = {**variables, **updates}
    (found,) = audit(variables, layer, x[None])
    assert found.kind == "too_few_updates"
    assert found.numbers["share"] == pytest.approx(0.9**6, rel=1e-3)
    assert found.numbers["count"] == 6


def test_frozen_layers_may_keep_their_statistics():
    layer, variables, x = normalized(frozen="statistics")
    report = audit(variables, layer, x[None])
    assert [one.severity for one in report] == ["note"]
    assert "momentum" not in report.columns


def test_gradients_of_statistics():
    _, variables, _ = normalized()
    report = audit(variables, grads=variables)
    assert report.of_kind("in_optimizer")[0].message.startswith("`grads['batch_stats']")
    average = {"ema": variables}
    assert not audit(variables, opt_state=average).of_kind("in_optimizer")


def test_files_of_pytorch_are_told_what_to_write():
    weights = {
        "features.0.weight": np.zeros((8, 3, 3, 3), np.float32),
        "features.1.weight": np.ones(8, np.float32),
        "features.1.bias": np.zeros(8, np.float32),
        "features.1.running_mean": np.zeros(8, np.float32),
        "features.1.running_var": np.ones(8, np.float32),
        "head.weight": np.zeros((10, 8), np.float32),
    }
    report = audit({"state_dict": weights})
    assert {one.kind for one in report} == {"foreign_layout"}
    lines = {one.layer: one.remedy for one in report}
    assert lines["features/0"].endswith("['kernel'] = weight.transpose(2, 3, 1, 0)")
    assert lines["head"] == "variables['params']['head']['kernel'] = weight.T"
    assert "BatchNorm(momentum=1 - m)" in lines["features/1"]


@pytest.mark.parametrize("with_model", [True, False])
def test_kernels_of_pytorch(with_model):
    case = copy.deepcopy(healthy("cnn"))
    kernel = case.params("Conv_1")
    kernel["kernel"] = np.tile(kernel["kernel"], (1, 1, 1, 3)).transpose(3, 2, 0, 1)
    if with_model:
        kernel["kernel"] = kernel["kernel"][:4]
    report = audit(case.variables, **(with_data(case) if with_model else {}))
    if with_model:  # (4, 4, 3, 3) in place of (3, 3, 4, 4)
        assert [one.layer for one in report.errors] == ["Conv_1"]
    (found,) = report.of_kind("foreign_layout")
    assert found.remedy.endswith("= kernel.transpose(2, 3, 1, 0)")


def test_layers_in_a_scan_are_seen_from_outside():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(not train, momentum=0.9)(nn.Dense(4)(x))
            return nn.relu(x), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            axes = {"params": 0, "batch_stats": 0}
            rngs = {"params": True}
            scan = nn.scan(Block, axes, split_rngs=rngs, length=3, in_axes=nn.broadcast)
            return scan(name="blocks")(x, train)[0]

    x = jax.random.normal(zoo.KEY, (32, 4))
    variables = Model().init(zoo.KEY, x, False)
    call = find_call(Model(), variables, x)
    (found,) = observe(call, variables, [x]).values()
    assert found.mean.shape == (3, 4)
    stats = variables["batch_stats"]["blocks"]["BatchNorm_0"]
    stats.update(mean=found.mean, var=found.var)
    assert not audit(variables, Model(), [x]).findings
    stats["var"] = stats["var"] * 100
    assert audit(variables, Model(), [x]).of_kind("wrong_statistics")


def test_a_model_that_cannot_be_called_is_asked_about():
    _, variables, x = normalized()
    with pytest.raises(OptionError, match="No way was found to call"):
        audit(variables, lambda variables, x: x, [x])


def test_the_effect_is_that_of_the_outputs():
    random = np.random.default_rng(0)
    data = random.normal(2, 3, (1000, 1))
    seen = Observed(0.9, data.mean(0)[None], data.var(0)[None])
    found = Statistics(("bn",), np.array([0.5], "f4"), np.array([4.0], "f4"))
    layer = dataclasses.replace(read_layer(found, Settings()), observed=seen)
    effect = effect_of(layer)
    y = (data - 0.5) / np.sqrt(4 + 1e-5)
    right = (data - data.mean()) / np.sqrt(data.var() + 1e-5)
    np.testing.assert_allclose(effect.shift, y.mean(0), rtol=1e-6)
    np.testing.assert_allclose(effect.ratio, y.std(0) / right.std(0), rtol=1e-5)
    distance = np.sqrt(np.mean((np.sort(y, 0) - np.sort(right, 0)) ** 2))
    np.testing.assert_allclose(effect.distance, distance, rtol=1e-6)


def test_scaled_weights_are_no_lack_of_updates_where_there_were_enough():
    """Half of the mean and a quarter of the variance look like a share of 0 and 1."""
    layer, variables, x = normalized(momentum=0.9)
    variables["batch_stats"].update(mean=x.mean(0), var=x.var(0))
    report = audit(variables, layer, [2 * x], step=60)
    assert {one.kind for one in report} == {"wrong_statistics"}


class Behind(nn.Module):
    """A frozen batch norm before one that is trained."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(not train, frozen=True)(x)
        x = nn.BatchNorm(not train, momentum=self.momentum)(nn.Dense(4)(x))
        return nn.Dense(2)(x)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_layer_behind_a_frozen_one_has_its_own_momentum(momentum):
    model, x = Behind(momentum), np.random.default_rng(0).normal(size=(32, 3))
    x = x.astype(np.float32)
    variables = model.init(jax.random.key(0), x, False)
    found = observe(find_call(model, variables, x), variables, [x])
    assert [*found] == [("BatchNorm_1",)]
    np.testing.assert_allclose(found["BatchNorm_1",].momentum, momentum, atol=1e-6)
    report = audit(variables, model, [x], step=0 if momentum else 3)
    assert "inf" not in str(report) and "nan" not in str(report)


def test_a_dead_layer_with_the_statistics_of_its_data_is_not_frozen():
    layer, x = nn.BatchNorm(momentum=0.9), np.zeros((16, 3), np.float32)
    variables = layer.init(jax.random.key(0), x, True)
    exact = {"mean": jnp.zeros(3), "var": jnp.zeros(3)}
    variables = {**variables, "batch_stats": exact}
    (found,) = observe(find_call(layer, variables, x), variables, [x]).values()
    assert found.momentum == pytest.approx(0.9, abs=1e-6)


def test_what_is_compiled_does_not_grow_with_the_layers(caplog):
    class Model(nn.Module):
        widths: tuple[int, ...]

        @nn.compact
        def __call__(self, x, train):
            for width in self.widths:
                x = nn.BatchNorm(not train, momentum=0.9)(nn.Dense(width)(x))
            return x

    def programs(*widths):
        variables = Model(widths).init(jax.random.key(0), x, False)
        caplog.clear()
        with jax.log_compiles():
            audit(variables, Model(widths), [x])
        return re.findall(r"XLA compilation of (\S+)", caplog.text)

    x = np.random.default_rng(0).normal(size=(8, 7)).astype(np.float32)
    programs(2)  # keys are drawn once
    assert programs(9, 11, 13) == programs(15) != []
