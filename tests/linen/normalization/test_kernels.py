"""`BatchNorm` calls the kernels for a CPU in training and evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import linsey.linen as nn
from linsey.ops.cpu import dispatch

X = jnp.ones((32, 16, 16, 32))


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (True, {}),
        (True, {"save_memory": True}),
        (True, {"renorm": (3.0, 5.0)}),
        (False, {}),
    ],
)
def test_the_gradient_calls_kernels(train, options):
    if not dispatch.kernels_usable():
        pytest.skip("needs numba and Linux")
    layer = nn.BatchNorm(use_running_average=not train, **options)
    variables = layer.init(jax.random.key(0), X)
    mutable = [name for name in variables if name != "params"]

    def loss(params, x):
        y, _ = layer.apply({**variables, "params": params}, x, mutable=mutable)
        return jnp.sum(jnp.asarray(y) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    assert "@linsey_channel" in gradient.lower(variables["params"], X).as_text()
