"""Haiku functions as objects."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors.treex import MissingVariableError

haiku = pytest.importorskip("haiku")

X = jax.random.normal(jax.random.key(3), (4, 6, 2))


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def forward(x, training):
    x = haiku.Linear(3)(x)
    x = haiku.BatchNorm(True, True, 0.9)(x, is_training=training)
    if training:
        x = haiku.dropout(haiku.next_rng_key(), 0.5, x)
    return haiku.Linear(2)(x)


@pytest.mark.slow
@pytest.mark.parametrize("made", [forward, haiku.transform_with_state(forward)],
                         ids=["function", "transformed"])  # fmt: skip
def test_haiku_functions_are_objects(made):
    model = tx.HaikuModule(made).init(42, X)
    assert len(jax.tree.leaves(model.parameters())) == 6
    before = model.batch_stats()
    first, second = model(X), model(X)
    assert jnp.any(first != second)
    assert any(
        jnp.any(a != b)
        for a, b in zip(jax.tree.leaves(before),
                        jax.tree.leaves(model.batch_stats()), strict=True)
    )  # fmt: skip
    for quiet in (model.eval(), model.freeze()):
        stats = quiet.batch_stats()
        np.testing.assert_array_equal(quiet(X), quiet(X))
        equal(quiet.batch_stats().state_, stats.state_)
    _, after = jax.jit(lambda m: (m(X), m))(model)
    assert isinstance(after, tx.HaikuModule)
    assert model(X, False).shape == (4, 6, 2)


def test_haiku_without_state_and_with_given_parameters():
    transformed = haiku.transform(lambda x: haiku.Linear(3)(x))
    params = transformed.init(jax.random.key(0), X)
    model = tx.HaikuModule(transformed, params=params).init(0)
    expected = transformed.apply(params, None, X)
    np.testing.assert_array_equal(model(X), expected)
    with pytest.raises(RuntimeError):
        tx.HaikuModule(transformed)(X)
    with pytest.raises(MissingVariableError):
        tx.HaikuModule(transformed).init(0)(X)
