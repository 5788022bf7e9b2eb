"""Running statistics stay right whatever the size and the offset of the values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import linen as nn
from linsey import treex as tx
from linsey.config import config

pytestmark = pytest.mark.timeout(60)

OLD = 0.99  # of the running statistics, in both faces
SCALES = (1e-25, 1e-10, 1.0, 1e10, 1e18)
TOO_LARGE = 1e25  # the variance, 1e50, is no float32


def values(scale: float, offset: float, count: int, dtype: str) -> jax.Array:
    x = np.random.default_rng(0).standard_normal((count, 3)) + offset
    return jnp.asarray(x * scale, dtype)


@functools.cache
def linen_step(count: int, dtype: str):
    """One update of fresh statistics: outputs, mean and variance."""
    layer = nn.BatchNorm(use_running_average=False, momentum=OLD)
    variables = layer.init(jax.random.key(0), jnp.zeros((4, 3), dtype))

    @jax.jit
    def step(x):
        y, changed = layer.apply(variables, x, mutable="batch_stats")
        return y, changed["batch_stats"]["mean"], changed["batch_stats"]["var"]

    return step


@functools.cache
def treex_step(count: int, dtype: str):
    layer = tx.BatchNorm(momentum=OLD).init(0, jnp.zeros((4, 3), dtype))

    @jax.jit
    def step(x):
        changed = layer.train()
        y = changed(x)
        return y, changed.mean, changed.var

    return step


@pytest.mark.thinned(8)
@pytest.mark.parametrize("face", [linen_step, treex_step])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 64])
def test_statistics_equal_those_in_float64(face, dtype, count):
    with config.temp_flip_flag("misuse", "ignore"):  # such as one value a channel
        step = face(count, dtype)
        for offset in (0.0, 1e3, 1e5):
            for scale in SCALES:
                x = values(scale, offset, count, dtype)
                y, mean, var = (np.asarray(a, np.float64) for a in step(x))
                exact = np.asarray(x).astype(np.float64)
                right = OLD + (1 - OLD) * exact.var(0)
                assert np.isfinite(y).all()
                assert (var >= 0).all()
                np.testing.assert_allclose(mean, (1 - OLD) * exact.mean(0), rtol=1e-3)
                np.testing.assert_allclose(var, right, rtol=1e-3)


@pytest.mark.parametrize("face", [linen_step, treex_step])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_statistics_that_no_float32_holds_leave_the_old_ones(face, dtype):
    for x in (values(TOO_LARGE, 1.0, 64, dtype), values(np.nan, 1.0, 64, dtype)):
        y, mean, var = face(64, dtype)(x)
        assert np.isfinite(np.asarray(y, np.float32)).all() == np.isfinite(x).all()
        np.testing.assert_array_equal(mean, 0.0)
        np.testing.assert_array_equal(var, 1.0)
