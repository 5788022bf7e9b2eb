"""What all losses have in common."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors.treex import (
    PositionalArgumentsError,
)

losses = tx.losses


R = losses.Reduction


ZO = jnp.array([[0.0, 1.0], [0.0, 0.0]])


def test_weights_are_aligned_with_the_leading_axes():
    class Values(tx.Loss):
        def call(self, values):
            return values

    values = jnp.ones((2, 2, 3))
    weighted = Values(reduction="none")(values=values, sample_weight=[1.0, 3.0])
    np.testing.assert_array_equal(weighted[:, 0, 0], [1.0, 3.0])
    assert Values()(values=values, sample_weight=2.0) == 2.0
    higher = Values(reduction="none")(
        values=jnp.ones(3), sample_weight=jnp.ones((2, 3))
    )
    assert higher.shape == (2, 3)


def test_what_losses_have_in_common():
    loss = losses.MeanSquaredError(on="a", name="mine", weight=3)
    assert (loss.name, loss.weight.dtype) == ("mine", jnp.float32)
    assert losses.MeanSquaredError().name == "mean_squared_error"
    assert losses.Huber(name="h").name == "h"
    given_ = dict(target={"a": ZO}, preds={"a": ZO + 1.0})
    assert loss(**given_) == 3.0
    deep = losses.MeanSquaredError(on=["a", 0])
    assert deep(target={"a": [ZO]}, preds={"a": [ZO + 2.0]}) == 4.0
    np.testing.assert_array_equal(loss.call(target=ZO, preds=ZO + 1.0), [1.0, 1.0])
    with pytest.raises(PositionalArgumentsError):
        loss(ZO, ZO)
    with pytest.raises(TypeError):
        loss(ZO, ZO)
    assert tx.Loss().call() is None
    assert losses.MeanSquaredError(R.SUM, 2.0)(target=ZO, preds=ZO + 1.0) == 4.0


def test_reductions():
    assert R.all() == (R.NONE, R.SUM, R.SUM_OVER_BATCH_SIZE)
    R.validate("sum")
    with pytest.raises(ValueError):
        R.validate("product")
    with pytest.raises(ValueError):
        losses.MeanSquaredError(reduction="product")(target=ZO, preds=ZO)


@pytest.mark.parametrize("name", sorted(losses.__all__))
def test_functions_and_classes_come_in_pairs(name):
    found = getattr(losses, name)
    if inspect.isclass(found) and issubclass(found, tx.Loss) and found is not tx.Loss:
        function = getattr(losses, tx.utils.lower_snake_case(name))
        assert list(inspect.signature(function).parameters)[:2] == ["target", "preds"]
