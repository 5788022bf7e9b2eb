"""Recurrent layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.treex as tx
from tests.treex.nn.agreement import normal


def reference_gru(params, h, x):
    p = params

    def dense(name, value):
        return value @ p[name]["kernel"] + p[name].get("bias", 0.0)

    r = jax.nn.sigmoid(dense("ir", x) + dense("hr", h))
    z = jax.nn.sigmoid(dense("iz", x) + dense("hz", h))
    n = jnp.tanh(dense("in", x) + r * dense("hn", h))
    return (1 - z) * n + z * h


def test_gru_equals_its_formula():
    x = normal(2, 5, 3)
    gru = tx.nn.recurrent.GRU(4, return_sequences=True, return_state=True).init(0, x)
    assert len(jax.tree.leaves(gru)) == 11 and gru.last_state is None
    h, states = jnp.zeros((2, 4)), []
    for t in range(5):
        h = reference_gru(gru.params, h, x[:, t])
        states.append(h)
    sequence, state = gru(x)
    np.testing.assert_allclose(sequence, jnp.stack(states, 1), atol=1e-6)
    np.testing.assert_allclose(state, h, atol=1e-6)
    hr = gru.params["hr"]["kernel"]
    np.testing.assert_allclose(hr.T @ hr, np.eye(4), atol=1e-5)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("time_axis", [0, 1, -2])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_what_gru_returns(time_axis, sequences, state):
    x = normal(5, 2, 3) if time_axis == 0 else normal(2, 5, 3)
    gru = tx.nn.GRU(4, return_sequences=sequences, return_state=state,
                    time_axis=time_axis)  # fmt: skip
    y = gru.init(0, x)(x)
    shape = x.shape[:2] + (4,) if sequences else (2, 4)
    y, *rest = y if sequences and state else (y,)
    assert y.shape == shape and [r.shape for r in rest] == [(2, 4)] * len(rest)


def test_gru_options():
    x = normal(2, 5, 3)
    gru = tx.nn.GRU(4).init(0, x)
    other = tx.nn.GRU(4, go_backwards=True, unroll=5).init(0, x[:, ::-1])
    np.testing.assert_allclose(gru(x), other(x[:, ::-1]), atol=1e-6)
    zeros = gru.module.initialize_carry(None, (2,), 4)
    np.testing.assert_allclose(gru(x, zeros), gru(x), atol=1e-6)
    assert gru.initialize_state(3).shape == (3, 4)
    kernel = tx.nn.GRU(4, recurrent_kernel_init=nn.initializers.zeros).init(0, x)
    assert not kernel.params["hr"]["kernel"].any()


def test_stateful_gru_goes_on():
    x = normal(2, 6, 3)
    gru = tx.nn.GRU(4, stateful=True).init(0, x)
    assert gru.last_state is None
    gru(x[:, :3])
    whole = tx.nn.GRU(4).init(0, x)
    np.testing.assert_allclose(gru(x[:, 3:]), whole(x), atol=1e-6)
    assert len(jax.tree.leaves(gru.caches())) == 1
