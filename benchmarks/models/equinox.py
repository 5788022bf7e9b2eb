"""Equinox modules: pytrees called on one example, mapped over the batch."""

from __future__ import annotations

import equinox as eqx
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


def _init_dense(key: jax.Array, layers: int = LAYERS) -> list[eqx.nn.Linear]:
    keys = jax.random.split(key, layers)
    return [eqx.nn.Linear(WIDTH, WIDTH, key=layer_key) for layer_key in keys]


def dense_apply(layers: int = LAYERS) -> Work:
    """Forward pass of the dense layers."""

    def network(modules, x):
        for module in modules:
            x = module(x)
        return x

    forward = jax.vmap(network, in_axes=(None, 0))
    modules = _init_dense(jax.random.key(0), layers)
    return Work(forward, (modules, jnp.ones((BATCH, WIDTH))))


def dense_init() -> Work:
    """Return the dense layers."""
    return Work(_init_dense, (jax.random.key(0),))


class Block(eqx.Module):
    """`x + relu(batch_norm(conv(x)))`, channels first as Equinox has them."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, key: jax.Array):
        self.conv = eqx.nn.Conv2d(
            CHANNELS, CHANNELS, 3, padding="SAME", use_bias=False, key=key
        )
        self.norm = eqx.nn.BatchNorm(
            CHANNELS, axis_name="batch", eps=EPSILON, momentum=MOMENTUM, mode="ema"
        )

    def __call__(self, x: jax.Array, state: eqx.nn.State):
        """Apply the network to one example and its state."""
        y, state = self.norm(self.conv(x), state)
        return x + jax.nn.relu(y), state


class Residual(eqx.Module):
    """The blocks in sequence."""

    blocks: list[Block]

    def __init__(self, key: jax.Array):
        self.blocks = [Block(block_key) for block_key in jax.random.split(key, BLOCKS)]

    def __call__(self, x: jax.Array, state: eqx.nn.State):
        """Apply the network to one example and its state."""
        for block in self.blocks:
            x, state = block(x, state)
        return x, state


def _residual():
    model, state = eqx.nn.make_with_state(Residual)(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def forward(params, state, x):
        model = eqx.combine(params, static)
        batched = jax.vmap(
            model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        return batched(x, state)

    return forward, (params, state, jnp.ones((BATCH, CHANNELS, SIDE, SIDE)))


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
