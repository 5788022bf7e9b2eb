"""The tools for running statistics see the batch norms of Equinox and Haiku."""

from __future__ import annotations

import functools

import equinox as eqx
import haiku as hk
import jax
import numpy as np
import pytest

from linsey import batch_stats
from linsey.interop import from_equinox, from_haiku
from tests.interop.training import KEY, X

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


@all_modules
def test_fold_has_one_row_for_each_norm(kind):
    apply, folded, report = batch_stats.fold(MODULES[kind][0], trained(kind), X)
    (row, _), errors = report.rows, [row[2] for row in report.rows]
    assert row[:2] == (MODULES[kind][2], "first") and not report.findings
    assert max(errors) < 1e-6
    assert [*folded] == ["params"]  # no statistics are left
    np.testing.assert_allclose(
        apply(folded, X[:2]), evaluate(kind, trained(kind), X[:2]), 1e-5, 1e-6
    )
