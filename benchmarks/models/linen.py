"""Linen modules, for either library that has them: linsey and Flax."""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp

from benchmarks.models import (
    BATCH,
    BLOCKS,
    CHANNELS,
    COMPILED,
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


def _dense(nn: ModuleType, layers: int = LAYERS):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(layers):
                x = nn.Dense(WIDTH)(x)
            return x

    return Stack(), jnp.ones((BATCH, WIDTH))


def dense_apply(nn: ModuleType, layers: int = LAYERS) -> Work:
    """Forward pass of the dense layers."""
    model, x = _dense(nn, layers)
    return Work(model.apply, (model.init(jax.random.key(0), x), x))


def dense_init(nn: ModuleType) -> Work:
    """Initialize variables of the dense layers."""
    model, x = _dense(nn)
    return Work(model.init, (jax.random.key(0), x))


def _residual(nn: ModuleType):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            y = nn.Conv(CHANNELS, (3, 3), use_bias=False)(x)
            y = nn.BatchNorm(
                use_running_average=not train, momentum=MOMENTUM, epsilon=EPSILON
            )(y)
            return x + nn.relu(y)

    class Residual(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            for _ in range(BLOCKS):
                x = Block()(x, train)
            return x

    model = Residual()
    x = jnp.ones((BATCH, SIDE, SIDE, CHANNELS))
    variables = model.init(jax.random.key(0), x, train=False)

    def forward(params, stats, x):
        y, updated = model.apply(
            {"params": params, "batch_stats": stats},
            x,
            train=True,
            mutable=["batch_stats"],
        )
        return y, updated["batch_stats"]

    return forward, (variables["params"], variables["batch_stats"], x)


def residual_forward(nn: ModuleType) -> Work:
    """Training-mode forward pass of the residual blocks."""
    return Work(*_residual(nn))


def residual_grad(nn: ModuleType) -> Work:
    """Value and gradient of a loss over the residual blocks."""
    forward, arguments = _residual(nn)

    def step(params, stats, x):
        def loss(params):
            y, updated = forward(params, stats, x)
            return jnp.mean(y * y), updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    return Work(step, arguments)


def _block(nn: ModuleType):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS)(y, mask=mask)
            y = nn.gelu(nn.Dense(4 * EMBED)(nn.LayerNorm()(x)))
            return x + nn.Dense(EMBED)(y), None

    return Block


def _transformer(nn: ModuleType, scanned: bool) -> Work:
    block = _block(nn)

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = nn.make_causal_mask(x[..., 0])
            if scanned:
                stack = nn.scan(
                    block,
                    variable_axes={"params": 0},
                    split_rngs={"params": True},
                    in_axes=nn.broadcast,
                    length=DEPTH,
                )
                return stack()(x, mask)[0]
            for _ in range(DEPTH):
                x, _ = block()(x, mask)
            return x

    model, x = Transformer(), jnp.ones((BATCH, LENGTH, EMBED))
    return Work(model.apply, (model.init(jax.random.key(0), x), x))


def transformer(nn: ModuleType) -> Work:
    """Forward pass of the transformer."""
    return _transformer(nn, scanned=False)


def transformer_scan(nn: ModuleType) -> Work:
    """Forward pass of the transformer by a scan over its blocks."""
    return _transformer(nn, scanned=True)


def compiled_blocks(nn: ModuleType) -> Work:
    """Forward pass of equal blocks whose call is compiled."""

    class Block(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))
            return x + nn.Dense(WIDTH)(nn.relu(y))

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(COMPILED):
                x = Block()(x)
            return x

    x = jnp.ones((BATCH, WIDTH))
    return Work(Stack().apply, (Stack().init(jax.random.key(0), x), x))
