"""What the tests of kernels share."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.ops.cpu import conv_kernels, dispatch

need_kernels = pytest.mark.skipif(
    not dispatch.kernels_usable(), reason="needs numba and Linux"
)
SAME = conv_kernels.Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)


def normal(seed, *shape, loc=0.0):
    drawn = np.random.default_rng(seed).standard_normal(shape) + loc
    return jnp.asarray(drawn, jnp.float32)


def kernels_in(function, *arguments):
    """The kernels that a compiled function calls."""
    text = jax.jit(function).lower(*arguments).as_text()
    return set(re.findall(r"custom_call @(linsey_\w+)", text))


def assert_near(found, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(float(np.max(np.abs(b), initial=0)), 1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def in_new_process(program, **environment):
    """The lines that a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
