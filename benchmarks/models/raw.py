"""Plain JAX: functions over dictionaries of arrays, as one writes them by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

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


def _init_dense(key: jax.Array) -> list[dict[str, jax.Array]]:
    init = jax.nn.initializers.lecun_normal()
    return [
        {"kernel": init(layer_key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}
        for layer_key in jax.random.split(key, LAYERS)
    ]


def _apply_dense(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for layer in params:
        x = x @ layer["kernel"] + layer["bias"]
    return x


def dense_apply() -> Work:
    """Forward pass of the dense layers."""
    params = _init_dense(jax.random.key(0))
    return Work(_apply_dense, (params, jnp.ones((BATCH, WIDTH))))


def dense_init() -> Work:
    """Parameters of the dense layers and one forward pass, which libraries need too."""

    def init(key: jax.Array, x: jax.Array):
        params = _init_dense(key)
        _apply_dense(params, x)
        return params

    return Work(init, (jax.random.key(0), jnp.ones((BATCH, WIDTH))))


def _batch_norm(params, stats, x):
    mean = jnp.mean(x, axis=(0, 1, 2))
    var = jnp.var(x, axis=(0, 1, 2))
    y = (x - mean) * lax.rsqrt(var + EPSILON) * params["scale"] + params["bias"]
    new_stats = {
        "mean": MOMENTUM * stats["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * stats["var"] + (1 - MOMENTUM) * var,
    }
    return y, new_stats


def _residual(params, stats, x):
    updated = []
    for block, block_stats in zip(params, stats, strict=True):
        y = lax.conv_general_dilated(
            x,
            block["kernel"],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y, new_stats = _batch_norm(block, block_stats, y)
        updated.append(new_stats)
        x = x + jax.nn.relu(y)
    return x, updated


def _residual_arguments():
    init = jax.nn.initializers.lecun_normal()
    keys = jax.random.split(jax.random.key(0), BLOCKS)
    params = [
        {
            "kernel": init(key, (3, 3, CHANNELS, CHANNELS)),
            "scale": jnp.ones(CHANNELS),
            "bias": jnp.zeros(CHANNELS),
        }
        for key in keys
    ]
    stats = [{"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)} for _ in keys]
    return params, stats, jnp.ones((BATCH, SIDE, SIDE, CHANNELS))


def residual_forward() -> Work:
    """Training-mode forward pass of the residual blocks."""
    return Work(_residual, _residual_arguments())


def residual_grad() -> Work:
    """Value and gradient of a loss over the residual blocks."""

    def step(params, stats, x):
        def loss(params):
            y, updated = _residual(params, stats, x)
            return jnp.mean(y * y), updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    return Work(step, _residual_arguments())
