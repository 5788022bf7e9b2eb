"""What losses have in common, and the documented values of each."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linsey.treex as tx
from linsey.errors import ShapeError
from linsey.errors.treex import PositionalArgumentsError

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


VALUES = {
    "MeanSquaredError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.5, 0.25, 1.0, [0.5, 0.5],
    ),
    "MeanAbsoluteError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.5, 0.25, 1.0, [0.5, 0.5],
    ),
    "Huber": (
        [[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]], [1, 0],
        0.155, 0.09, 0.31, [0.18, 0.13],
    ),
    "CosineSimilarity": (
        [[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]], [0.8, 0.2],
        -0.5, -0.1, -1.0, [0.0, -1.0],
    ),
    "MeanAbsolutePercentageError": (
        [[1.0, 1.0], [0.9, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.1, 0.9],
        2.7777778, 2.5, 5.5555558, [0.0, 5.5555558],
    ),
    "MeanSquaredLogarithmicError": (
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0.7, 0.3],
        0.24022643, 0.12011322, 0.48045287, [0.24022643, 0.24022643],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_documented_values(name):
    target, preds, weights, mean, weighted, total, each = VALUES[name]
    given_ = dict(target=jnp.array(target), preds=jnp.array(preds))
    cls = getattr(losses, name)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)  # noqa: E731
    close(cls()(**given_), mean)
    close(cls()(**given_, sample_weight=jnp.array(weights)), weighted)
    close(cls()(**given_, sample_weight=list(weights)), weighted)
    close(cls(reduction=R.SUM)(**given_), total)
    close(cls(reduction="none")(**given_), each)
    close(cls(reduction=R.NONE, weight=2.0)(**given_), 2 * jnp.array(each))
    close(jax.jit(lambda t, p: cls()(target=t, preds=p))(*given_.values()), mean)


def test_integer_targets_take_the_dtype_of_the_predictions():
    value = losses.mean_squared_error(jnp.array([1, 2]), jnp.array([1.0, 3.0]))
    assert (value, value.dtype) == (0.5, jnp.float32)


@settings(max_examples=10)
@given(
    logits=st.booleans(),
    binary=st.booleans(),
    sparse=st.booleans(),
    smoothing=st.sampled_from([None, 0.9]),
)
def test_crossentropy(logits, binary, sparse, smoothing):
    preds = jax.random.normal(jax.random.key(0), (4, 3))
    labels = jnp.array([0, 2, 1, 2])
    hot = jax.nn.one_hot(labels, 3)
    smooth = hot if smoothing is None else optax.smooth_labels(hot, smoothing)
    if binary:
        expected = optax.sigmoid_binary_cross_entropy(preds, smooth).mean(-1)
    else:
        expected = optax.softmax_cross_entropy(preds, smooth)
    if not logits:
        preds = jax.nn.sigmoid(preds) if binary else jax.nn.softmax(preds)
    loss = losses.Crossentropy(binary=binary, from_logits=logits, reduction="none",
                               label_smoothing=smoothing)  # fmt: skip
    found = loss(target=labels if sparse else hot, preds=preds)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_shapes_of_crossentropy():
    with pytest.raises(ShapeError):
        losses.crossentropy(jnp.zeros(3, int), jnp.zeros((4, 3)))
    with pytest.raises(ValueError):
        losses.crossentropy(jnp.zeros((4, 3, 1)), jnp.zeros((4, 3)))
    outside = losses.crossentropy(jnp.array([7]), jnp.zeros((1, 3)))
    np.testing.assert_array_equal(outside, 0.0)
    probabilities = losses.crossentropy(
        jnp.array([1]), jnp.array([[1.0, 0.0]]), from_logits=False
    )
    assert jnp.isfinite(probabilities).all()
