"""Haiku modules under `transform` and `transform_with_state`."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.models import (
    BATCH,
    BLOCKS,
    CHANNELS,
    EPSILON,
    LAYERS,
    MOMENTUM,
    SIDE,
    WIDTH,
    Work,
)


def _dense(layers: int = LAYERS):
    def forward(x):
        for _ in range(layers):
            x = hk.Linear(WIDTH)(x)
        return x

    return hk.without_apply_rng(hk.transform(forward)), jnp.ones((BATCH, WIDTH))


def dense_apply(layers: int = LAYERS) -> Work:
    """Forward pass of the dense layers."""
    model, x = _dense(layers)
    return Work(model.apply, (model.init(jax.random.key(0), x), x))


def dense_init() -> Work:
    """Return parameters of the dense layers."""
    model, x = _dense()
    return Work(model.init, (jax.random.key(0), x))


def _residual():
    def network(x):
        for _ in range(BLOCKS):
            y = hk.Conv2D(CHANNELS, 3, with_bias=False)(x)
            y = hk.BatchNorm(
                create_scale=True, create_offset=True, decay_rate=MOMENTUM, eps=EPSILON
            )(y, is_training=True)
            x = x + jax.nn.relu(y)
        return x

    model = hk.without_apply_rng(hk.transform_with_state(network))
    x = jnp.ones((BATCH, SIDE, SIDE, CHANNELS))
    return model.apply, (*model.init(jax.random.key(0), x), x)


def residual_forward() -> Work:
    """Training-mode forward pass of the residual blocks."""
    return Work(*_residual())


def residual_grad() -> Work:
    """Value and gradient of a loss over the residual blocks."""
    forward, arguments = _residual()

    def step(params, state, x):
        def loss(params):
            y, updated = forward(params, state, x)
            return jnp.mean(y * y), updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    return Work(step, arguments)
