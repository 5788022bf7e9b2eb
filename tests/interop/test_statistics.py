"""The tools for running statistics see the batch norms of Equinox and Haiku."""

from __future__ import annotations

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import batch_stats
from linsey.batch_stats.foreign import as_foreign, as_linen
from linsey.interop import from_equinox, from_haiku
from tests.interop.training import KEY, X, assert_equal

MOMENTUM, UPDATES = 0.9, 3


class Net(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, mode, key):
        self.first = eqx.nn.Linear(3, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", momentum=MOMENTUM, mode=mode)
        self.last = eqx.nn.Linear(4, 1, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(x)), state


def net(x, is_training):
    x = hk.BatchNorm(True, True, MOMENTUM)(hk.Linear(4, name="first")(x), is_training)
    return hk.Linear(1, name="last")(jax.nn.relu(x))


MODULES = {
    "batch": (from_equinox(functools.partial(Net, "batch")), "training", "norm"),
    "ema": (from_equinox(functools.partial(Net, "ema")), "training", "norm"),
    "haiku": (from_haiku(net), "is_training", "batch_norm"),
}
all_modules = pytest.mark.parametrize("kind", MODULES)
slow = pytest.mark.slow
others_slow = pytest.mark.parametrize(
    "kind",
    ["haiku", *(pytest.param(kind, marks=slow) for kind in ("batch", "ema"))],
)


@functools.cache
def initial(kind):
    module, flag, _ = MODULES[kind]
    return jax.jit(lambda: module.init(KEY, X, **{flag: True}))()


@functools.cache
def trained(kind):
    """The variables after some calls in training."""
    module, flag, _ = MODULES[kind]
    variables = initial(kind)
    step = jax.jit(
        lambda v, x: module.apply(v, x, **{flag: True}, mutable=["batch_stats"])[1]
    )
    for i in range(UPDATES):
        variables = {**variables, **step(variables, X + i)}
    return variables


def evaluate(kind, variables, x=X):
    module, flag, _ = MODULES[kind]
    return module.apply(variables, x, **{flag: False})


@others_slow
def test_fold_has_one_row_for_each_norm(kind):
    apply, folded, report = batch_stats.fold(MODULES[kind][0], trained(kind), X)
    (row, _), errors = report.rows, [row[2] for row in report.rows]
    assert row[:2] == (MODULES[kind][2], "first") and not report.findings
    assert max(errors) < 1e-6
    assert [*folded] == ["params"]  # no statistics are left
    np.testing.assert_allclose(
        apply(folded, X[:2]), evaluate(kind, trained(kind), X[:2]), 1e-5, 1e-6
    )


def arrays_of(kind, variables, layer):
    """The kernel and the bias of a dense layer."""
    params = variables["params"][layer]
    if kind == "haiku":
        return params["w"], params["b"]
    return params["weight"].T, params["bias"]


BATCHES = [X, 2 * X[:5], X[2:] - 1]


@others_slow
def test_recalibrate_stores_the_moments_of_the_data(kind):
    module, flag, layer = MODULES[kind]
    before = trained(kind)
    after = batch_stats.recalibrate(module, before, BATCHES)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), v) for v in (after, before)]
    assert shapes[0] == shapes[1]
    assert_equal(after["params"], before["params"])

    first = before["params"]["first"]
    kernel, bias = (
        (first["w"], first["b"])
        if kind == "haiku"
        else (first["weight"].T, first["bias"])
    )
    inputs = jnp.concatenate(BATCHES) @ kernel + bias
    found = as_linen(after)["batch_stats"][layer]
    np.testing.assert_allclose(found["mean"].ravel(), inputs.mean(0), 1e-5, 1e-6)
    np.testing.assert_allclose(found["var"].ravel(), inputs.var(0), 1e-5)
    # Evaluation uses them unchanged, and training continues from them.
    x = BATCHES[1]
    y = (x @ kernel + bias - inputs.mean(0)) / jnp.sqrt(inputs.var(0) + 1e-5)
    last = before["params"]["last"]
    last = (
        (last["w"], last["b"]) if kind == "haiku" else (last["weight"].T, last["bias"])
    )
    expected = jax.nn.relu(y) @ last[0] + last[1]
    np.testing.assert_allclose(evaluate(kind, after, x), expected, 1e-4, 1e-5)
    _, updates = module.apply(after, x, **{flag: True}, mutable=["batch_stats"])
    mean = as_linen(updates)["batch_stats"][layer]["mean"].ravel()
    batch = (x @ kernel + bias).mean(0)
    new = MOMENTUM * inputs.mean(0) + (1 - MOMENTUM) * batch
    np.testing.assert_allclose(mean, new, 1e-5, 1e-6)


@all_modules
def test_audit_sees_each_norm(kind):
    module, _, layer = MODULES[kind]
    report = batch_stats.audit(trained(kind), momentum=MOMENTUM)
    assert [row[:3] for row in report.rows] == [
        (layer, 4, None if kind == "ema" else 3)
    ]
    # The initial variance of 1 stays in that mode, which debiases as if it were 0.
    kinds = ["too_few_updates"] if kind == "batch" else []
    assert [one.kind for one in report] == kinds
    good = batch_stats.recalibrate(module, trained(kind), [X])
    assert "nothing found" in str(batch_stats.audit(good, module, [X]))
    moved = as_linen(good)
    stats = moved["batch_stats"][layer]
    moved["batch_stats"] = {
        **moved["batch_stats"],
        layer: {**stats, "mean": stats["mean"] + 3},
    }
    (found,) = batch_stats.audit(as_foreign(moved, good), module, [X])
    assert (found.kind, found.layer, found.severity) == (
        "wrong_statistics",
        layer,
        "error",
    )


@all_modules
def test_audit_finds_norms_that_were_never_updated(kind):
    (found,) = batch_stats.audit(initial(kind)).of_kind("never_updated")
    assert (found.layer, found.severity) == (MODULES[kind][2], "error")
    assert found.message == (
        "No training step has updated the statistics, as the counter beside them says, "
        "or its updates were not kept."
    )


@slow
def test_norms_of_linsey_and_others_are_recalibrated_together():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x, training):
            x = nn.BatchNorm(not training, momentum=MOMENTUM)(x)
            inner = type(MODULES["haiku"][0])(MODULES["haiku"][0].transformed)
            return inner(x, training)

    variables = jax.jit(lambda: Both().init(KEY, X, True))()
    after = as_linen(batch_stats.recalibrate(Both(), variables, [X]))["batch_stats"]
    stats = [after["BatchNorm_0"], after["HaikuModule_0"]["batch_norm"]]
    x = (X - X.mean(0)) / jnp.sqrt(X.var(0) + 1e-5)
    first = variables["params"]["HaikuModule_0"]["first"]
    for found, inputs in zip(stats, (X, x @ first["w"] + first["b"]), strict=True):
        np.testing.assert_allclose(found["mean"].ravel(), inputs.mean(0), 1e-4, 1e-5)
        np.testing.assert_allclose(found["var"].ravel(), inputs.var(0), 1e-4)
