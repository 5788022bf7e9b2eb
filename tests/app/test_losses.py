import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey.app.losses import CrossEntropy, class_weights, cross_entropy
from linsey.errors import InputError

LOGITS = np.random.default_rng(0).normal(size=(7, 4)) * 3
Y = np.array([0, 1, 3, 3, 2, 0, 1])


def by_hand(smoothing: float, weights: np.ndarray) -> float:
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(4)[Y] + smoothing / 4
    return float((weights[Y] * -(wanted * log_p).sum(-1)).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 3.0)])
def test_loss_is_the_formula(smoothing, weights):
    loss = CrossEntropy(smoothing, weights)(jnp.asarray(LOGITS, "f4"), jnp.asarray(Y))
    expected = by_hand(smoothing, np.array(weights or np.ones(4)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_smoothing_is_that_of_optax():
    logits, y = jnp.asarray(LOGITS, "f4"), jnp.asarray(Y)
    labels = optax.smooth_labels(jax.nn.one_hot(y, 4), 0.3)
    expected = optax.softmax_cross_entropy(logits, labels).mean()
    np.testing.assert_allclose(CrossEntropy(0.3)(logits, y), expected, rtol=1e-5)


def test_logits_in_bfloat16_give_a_loss_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    for found in (CrossEntropy(0.1)(logits, Y), cross_entropy(logits, jnp.asarray(Y))):
        assert found.dtype == jnp.float32
    same = cross_entropy(logits.astype("f4"), jnp.asarray(Y))
    np.testing.assert_array_equal(cross_entropy(logits, jnp.asarray(Y)), same)


NAMES = ["cat", "dog", "a=b", "3"]


def test_balanced_weights_are_those_of_scikit_learn():
    counts = np.bincount(Y)
    expected = len(Y) / (4 * counts)  # n_samples / (n_classes * np.bincount(y))
    assert class_weights(["balanced"], Y, NAMES) == pytest.approx(tuple(expected))
    weights = np.array(class_weights(["balanced"], Y, NAMES))
    sums = [weights[Y[Y == label]].sum() for label in range(4)]
    np.testing.assert_allclose(sums, len(Y) / 4)


def test_a_class_without_examples_does_not_count_among_the_classes():
    weights = class_weights(["balanced"], np.array([0, 0, 0, 1]), NAMES)
    assert weights == pytest.approx((4 / 6, 2.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ()),
        (["dog=2", "a=b=0.5", "3=4"], (1.0, 2.0, 0.5, 4.0)),
        (["1", "2", "3", "4.5"], (1.0, 2.0, 3.0, 4.5)),
    ],
)
def test_weights_by_name_and_in_order(given, expected):
    assert class_weights(given, Y, NAMES) == expected


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["dgo=2"], r"--class-weights: no such class: .*'dgo' \(did you mean dog\?\)"),
        (["dog=x"], "not a weight: expected a positive number, found x"),
        (["dog=0"], "not a weight"),
        (["dog=inf"], "not a weight"),
        (["1", "2"], "not a weight for each class: expected balanced, .* or 4 weights"),
        (["balance"], "not a weight for each class"),
    ],
)
def test_other_weights_are_refused(given, error):
    with pytest.raises(InputError, match=error):
        class_weights(given, Y, NAMES)
