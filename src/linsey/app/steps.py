"""One step of training, one of evaluation: the compiled part of a run.

A step computes new parameters, optimizer state and batch statistics and commits all
of them, or, if anything in it is not finite, none. Its noise is drawn from a key
that depends on the seed and the step alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import numpy as jnp

from linsey import linen as nn
from linsey import struct
from linsey.training import train_state


class TrainState(train_state.TrainState):
    """Everything a step changes.

    Attributes:
        apply_fn: the model.
        batch_stats: running statistics; empty without batch normalization.
        skipped: steps that were not committed.
        noise: key of all noise; never changes.

    `step` counts batches, the skipped ones included: it is the place in the data.
    """

    apply_fn: Callable[..., Any] = struct.field(pytree_node=False)
    batch_stats: Any
    skipped: jax.Array
    noise: jax.Array


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shape: tuple[int, ...],
    seed: int,
) -> TrainState:
    """Initialises a model and its optimizer.

    Args:
        model: takes (batch, train).
        optimizer: the gradient transformation.
        shape: of one example.
        seed: decides parameters and noise.

    Returns:
        The state before the first step.
    """
    init_key, noise = jax.random.split(jax.random.key(seed))
    example = jnp.zeros((1, *shape), jnp.float32)
    variables = jax.jit(model.init, static_argnums=2)(init_key, example, False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optimizer,
        batch_stats=variables.get("batch_stats", {}),
        skipped=jnp.zeros((), jnp.int32),
        noise=jax.random.key_data(noise),
    )
    # An array from the start: a Python 0 would compile the step twice.
    return state.replace(step=jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Learns from one batch.

    Args:
        state: given up to the step.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        The next state; loss, correct answers, and whether the step was skipped.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.noise), state.step)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            x,
            True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, (logits, updates.get("batch_stats", {}))

    gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = gradient_fn(state.params)
    proposed = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    is_finite = _all_finite((loss, grads, proposed))
    committed = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), proposed, state
    )
    skipped = 1 - is_finite.astype(jnp.int32)
    metrics = {
        "loss": loss,
        "correct": jnp.sum(logits.argmax(-1) == y),
        "skipped": skipped,
    }
    return committed.replace(
        step=state.step + 1, skipped=state.skipped + skipped
    ), metrics


@jax.jit
def eval_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Applies the model with its running statistics.

    Args:
        state: not changed.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        The loss and the predicted class of each example.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, x, False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses, logits.argmax(-1)


def _all_finite(tree: Any) -> jax.Array:
    checks = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.stack(checks).all()
