"""Accuracy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx

m = tx.metrics


LABELS = jnp.array([0, 1, 2, 1])


LOGITS = jnp.array([[3, 1, 0], [0, 1, 2], [0, 1, 2], [0, 2, 1]], jnp.float32)


@pytest.mark.thinned(3)
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
