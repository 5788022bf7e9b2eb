"""Plain JAX: functions over dictionaries of arrays, as one writes them by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.models import (
    BATCH,
    BLOCKS,
    CHANNELS,
    DEPTH,
    EMBED,
    EPSILON,
    HEADS,
    LAYERS,
    LENGTH,
    MOMENTUM,
    SIDE,
    WIDTH,
    Work,
)


def _init_dense(key: jax.Array, layers: int = LAYERS) -> list[dict[str, jax.Array]]:
    init = jax.nn.initializers.lecun_normal()
    return [
        {"kernel": init(layer_key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}
        for layer_key in jax.random.split(key, layers)
    ]


def _apply_dense(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for layer in params:
        x = x @ layer["kernel"] + layer["bias"]
    return x


def dense_apply(layers: int = LAYERS) -> Work:
    """Forward pass of the dense layers."""
    params = _init_dense(jax.random.key(0), layers)
    return Work(_apply_dense, (params, jnp.ones((BATCH, WIDTH))))


def dense_init() -> Work:
    """Initialize the dense layers, with the forward pass that libraries need too."""

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


def _layer_norm(params, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-6) * params["scale"] + params["bias"]


def _attention(params, x, mask):
    def project(name):
        return (
            jnp.einsum("btf,fhd->bthd", x, params[name]["kernel"])
            + params[name]["bias"]
        )

    query, key, value = project("query"), project("key"), project("value")
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (EMBED // HEADS) ** 0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    out = params["out"]
    return jnp.einsum("bqhd,hdf->bqf", y, out["kernel"]) + out["bias"]


def _block(params, x, mask):
    x = x + _attention(params["attention"], _layer_norm(params["norm_0"], x), mask)
    y = _layer_norm(params["norm_1"], x)
    y = jax.nn.gelu(y @ params["up"]["kernel"] + params["up"]["bias"])
    return x + y @ params["down"]["kernel"] + params["down"]["bias"]


def _block_params():
    depth = EMBED // HEADS

    def linear(*shape, outputs=1):
        return {"kernel": jnp.ones(shape), "bias": jnp.zeros(shape[-outputs:])}

    def norm():
        return {"scale": jnp.ones(EMBED), "bias": jnp.zeros(EMBED)}

    heads = {
        name: linear(EMBED, HEADS, depth, outputs=2)
        for name in ("query", "key", "value")
    }
    return {
        "norm_0": norm(),
        "attention": {**heads, "out": linear(HEADS, depth, EMBED)},
        "norm_1": norm(),
        "up": linear(EMBED, 4 * EMBED),
        "down": linear(4 * EMBED, EMBED),
    }


def _causal(x):
    return jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))


def transformer() -> Work:
    """Forward pass of the transformer."""

    def forward(params, x):
        mask = _causal(x)
        for block in params:
            x = _block(block, x, mask)
        return x

    params = [_block_params() for _ in range(DEPTH)]
    return Work(forward, (params, jnp.ones((BATCH, LENGTH, EMBED))))


def transformer_scan() -> Work:
    """Forward pass of the transformer by a scan over its blocks."""

    def forward(params, x):
        mask = _causal(x)
        return lax.scan(lambda x, block: (_block(block, x, mask), None), x, params)[0]

    params = jax.tree.map(lambda x: jnp.stack([x] * DEPTH), _block_params())
    return Work(forward, (params, jnp.ones((BATCH, LENGTH, EMBED))))
