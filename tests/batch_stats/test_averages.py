"""Averages of variables, and how far averaged statistics are from right ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import errors
from linsey.batch_stats import average, ema
from linsey.checkpoint import write_checkpoint


def tree(value, step, dtype=jnp.float32):
    return {
        "params": {"w": jnp.full(3, value, dtype)},
        "step": jnp.int32(step),
        "key": jax.random.key(step),
    }


def test_an_average_counts_as_weighted_and_takes_other_leaves_from_the_last():
    trees = [tree(1.0, 1), tree(2.0, 2), tree(6.0, 3)]
    assert average(trees)["params"]["w"].tolist() == [3.0] * 3
    mean = average(iter(trees), weights=[0, 3, 1])
    assert mean["params"]["w"].tolist() == [3.0] * 3
    assert int(mean["step"]) == 3
    assert jax.random.key_data(mean["key"]).tolist() == [0, 3]


def test_half_precision_is_averaged_in_float32():
    trees = [tree(1.0, 1, jnp.bfloat16)] * 255 + [tree(2.0, 1, jnp.bfloat16)]
    mean = average(trees)["params"]["w"]
    assert mean.dtype == jnp.bfloat16
    assert mean.tolist() == jnp.full(3, 257 / 256).astype(jnp.bfloat16).tolist()


def test_steps_on_disk_are_read(tmp_path):
    for step, value in enumerate([1.0, 3.0]):
        variables = {"params": {"w": jnp.full(2, value)}}
        write_checkpoint(tmp_path / str(step), step, variables, {})
    mean = average([tmp_path / "0", str(tmp_path / "1")])
    assert mean["params"]["w"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("checkpoints", "weights", "kind", "text"),
    [
        ([], None, errors.OptionError, "There are no checkpoints to average."),
        ([{"w": 1.0}], [1, 2], errors.OptionError, "There are 2 weights, and not as"),
        ([{"w": 1.0}] * 3, [1, 2], errors.OptionError, "There are 2 weights, and not"),
        ([{"w": 1.0}], [-1], errors.OptionError, "A weight is -1.0."),
        ([{"w": 1.0}], [0], errors.OptionError, "All weights are zero."),
        (
            [{"w": jnp.ones(2)}, {"w": jnp.ones(3)}],
            None,
            errors.MismatchError,
            "Checkpoint 2 differs from the one before at `['w']`: (3,) after (2,).",
        ),
        (
            [{"w": 1.0}, {"v": 1.0}],
            None,
            errors.MismatchError,
            "Checkpoint 2 differs from the one before at `['w']`: missing after ().",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(checkpoints, weights, kind, text):
    with pytest.raises(kind) as caught:
        average(checkpoints, weights)
    assert str(caught.value).startswith(text)


# --- moving averages ------------------------------------------------------------------


def moving(values, **options):
    average = ema(0.9, **options)
    state = average.init(tree(0.0, 0))
    update = jax.jit(average.update)
    for step, value in enumerate(values, 1):
        state = update(tree(value, step), state)
    return average.variables(state)


def test_without_bias_a_constant_stays_what_it_is():
    found = moving([5.0, 5.0, 5.0])
    np.testing.assert_allclose(found["params"]["w"], 5.0, rtol=1e-6)
    assert int(found["step"]) == 3


def test_an_average_that_starts_at_the_first_variables_keeps_them():
    found = moving([5.0, 5.0], debias=False)["params"]["w"]
    np.testing.assert_allclose(found, 5 * (1 - 0.81), rtol=1e-5)


def test_a_warm_up_keeps_less_in_the_beginning():
    found = moving([1.0, 4.0], warmup=True, debias=False)["params"]["w"]
    first = 0.9 * 1.0  # 1 / 10 is kept
    second = 2 / 11 * first + 9 / 11 * 4.0
    np.testing.assert_allclose(found, second, rtol=1e-5)


def test_before_an_update_there_is_nothing():
    average = ema(0.9)
    start = average.variables(average.init(tree(3.0, 0)))
    assert start["params"]["w"].tolist() == [0.0] * 3


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(errors.OptionError, match="`decay` is 1.0"):
        ema(1.0)


# --- statistics -----------------------------------------------------------------------


def test_averaged_statistics_of_a_first_layer_are_off_by_the_variance_of_weights():
    # One dense layer before the norm: its output is linear in the weights, so that the
    # mean is right, and the variance too large by that of the differences.
    x = jax.random.normal(jax.random.key(0), (512, 4))
    kernels = jax.random.normal(jax.random.key(1), (5, 4, 3))
    norm = nn.BatchNorm(False, momentum=0.0)
    start = norm.init(jax.random.key(2), x @ kernels[0])

    def variables(kernel):
        updates = norm.apply(start, x @ kernel, mutable=["batch_stats"])[1]
        return {"kernel": kernel, **updates}

    mean = average([variables(kernel) for kernel in kernels])
    right = variables(mean["kernel"])["batch_stats"]
    found = mean["batch_stats"]
    np.testing.assert_allclose(found["mean"], right["mean"], atol=1e-5)
    differences = jnp.var((kernels - mean["kernel"]).transpose(0, 1, 2), axis=0)
    assert differences.min() > 0
    centred = x - x.mean(0)
    excess = jnp.square(centred @ (kernels - mean["kernel"])).mean((0, 1))
    np.testing.assert_allclose(found["var"] - right["var"], excess, rtol=1e-4)
    assert (found["var"] > 2 * right["var"]).all()
