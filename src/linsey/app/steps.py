"""State, optimizer, a step of training, and evaluation.

A step computes new parameters, optimizer state and batch statistics and commits all
of them, or, if anything in it is not finite, none. Its noise is drawn from a key that
depends on the seed and the number of steps committed before, and so does its learning
rate: a step that is skipped leaves no trace in the ones after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

from linsey import linen as nn
from linsey import struct
from linsey.app.config import OptimizerOptions, Shape
from linsey.app.dataset import Dataset
from linsey.app.devices import Devices
from linsey.app.loading import prepared
from linsey.app.scores import Answers
from linsey.app.standardizer import Standardizer
from linsey.app.stopping import StopRequest
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
    batch_stats: Mapping[str, Any]
    skipped: jax.Array
    noise: jax.Array


def make_schedule(options: OptimizerOptions, steps_per_epoch: int) -> optax.Schedule:
    """Make the learning rate as a function of the step.

    Args:
        options: the optimizer options.
        steps_per_epoch: steps in one pass over the data.

    Returns:
        A schedule, traceable.
    """
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total - 1)
    remaining = total - warmup
    drops = {remaining // 2: 0.1, 3 * remaining // 4: 0.1}
    body = {
        "constant": lambda: optax.constant_schedule(options.lr),
        "cosine": lambda: optax.cosine_decay_schedule(options.lr, remaining),
        "step": lambda: optax.piecewise_constant_schedule(options.lr, drops),
    }[options.schedule]()
    if warmup == 0:
        return body
    # The first step already learns: a rate of 0 would waste it.
    rise = optax.linear_schedule(options.lr / (warmup + 1), options.lr, warmup)
    return optax.join_schedules([rise, body], [warmup])


def make_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Make the chosen optimizer.

    Args:
        options: the optimizer options.
        schedule: its learning rate.

    Returns:
        A gradient transformation.
    """
    decay = options.weight_decay
    parts: list[optax.GradientTransformation]
    if options.optimizer == "sgd":
        sgd = optax.sgd(schedule, options.momentum, nesterov=True)
        parts = [optax.add_decayed_weights(decay, mask=_is_kernel), sgd]
    elif options.optimizer == "adam":
        parts = [optax.adam(schedule)]
    else:
        parts = [optax.adamw(schedule, weight_decay=decay, mask=_is_kernel)]
    if options.clip_norm > 0:
        parts.insert(0, optax.clip_by_global_norm(options.clip_norm))
    return optax.chain(*parts)


def _is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda param: param.ndim > 1, params)


def create_state(
    options: OptimizerOptions, model: nn.Module, shape: Shape, steps_per_epoch: int
) -> TrainState:
    """Initialize a model and its optimizer.

    Args:
        options: the optimizer options; the seed decides parameters and noise.
        model: takes (batch, train).
        shape: of one example.
        steps_per_epoch: steps in one pass over the data.

    Returns:
        The state before the first step.
    """
    init_key, noise = jax.random.split(jax.random.key(options.seed))
    example = jnp.zeros((1, *shape), jnp.float32)
    variables = jax.jit(model.init, static_argnums=2)(init_key, example, False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=make_optimizer(options, make_schedule(options, steps_per_epoch)),
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
    """Learn from one batch.

    Args:
        state: given up to the step.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        The next state; loss, correct answers, and whether the step was skipped.
    """
    gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = gradient_fn(state.params, state, x, y)
    proposed = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    is_finite = _all_finite((loss, grads, proposed))
    committed = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), proposed, state
    )
    skipped = 1 - is_finite.astype(jnp.int32)
    counters = {"step": state.step + 1, "skipped": state.skipped + skipped}
    correct = jnp.sum(logits.argmax(-1) == y)
    metrics = {"loss": loss, "correct": correct, "skipped": skipped}
    return committed.replace(**counters), metrics


def loss_fn(
    params: optax.Params, state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """Apply the model as in training, with the noise of the step.

    Args:
        params: those of the state; what is derived by.
        state: before the step.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        The mean cross entropy; logits and new batch statistics.
    """
    committed = state.step - state.skipped
    key = jax.random.fold_in(jax.random.wrap_key_data(state.noise), committed)
    variables = {"params": params, "batch_stats": state.batch_stats}
    logits, updates = state.apply_fn(
        variables, x, True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, (logits, updates.get("batch_stats", {}))


def _all_finite(tree: object) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    inexact = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in inexact]).all()


# -- evaluation ----------------------------------------------------------------------

_BATCH = 256
_VALUES = 2**22
"""Inputs of a batch at most: 16 MiB, and a model needs many times that beside them."""


@jax.jit
def eval_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Apply the model with its running statistics.

    Args:
        state: not changed.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        Of each example the loss, the predicted class, its probability, and how many
        classes were put before the true one.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, x, False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    confidence = jax.nn.softmax(logits).max(-1)  # (batch,)
    own = jnp.take_along_axis(logits, y[:, None], -1)  # (batch, 1)
    # Of equal logits the first one counts, as in argmax; NaN is not below anything.
    is_earlier = jnp.arange(logits.shape[-1]) < y[:, None]  # (batch, classes)
    is_before = jnp.where(is_earlier, ~(logits < own), ~(logits <= own))
    return losses, logits.argmax(-1), confidence, is_before.sum(-1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        loss: mean cross entropy, in nats.
        answers: what was said to each example, in the order of the test part.
    """

    loss: float
    answers: Answers

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Examples by true (row) and predicted (column) class."""
        return self.answers.confusion()

    @property
    def correct(self) -> int:
        """The number of right answers."""
        return int(self.confusion.trace())

    @property
    def count(self) -> int:
        """The number of examples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of right answers."""
        return self.correct / self.count

    def numbers(self) -> dict[str, float]:
        """Return what is recorded of it."""
        return {"loss": self.loss, "accuracy": self.accuracy}


def evaluate(
    state: TrainState,
    dataset: Dataset,
    standardize: Standardizer,
    devices: Devices,
    stop: StopRequest | None = None,
) -> Evaluation:
    """Evaluate on the test part.

    Args:
        state: parameters and running statistics.
        dataset: its test part is used.
        standardize: as in training.
        devices: each batch is split over them.
        stop: checked before each batch.

    Returns:
        The evaluation.

    Raises:
        Stopped: a signal arrived.
    """
    # Every batch has one shape, so one program serves all; rows beyond the end are
    # zeros whose results are dropped (nothing mixes rows in evaluation).
    most = max(1, min(_BATCH, _VALUES // math.prod(dataset.shape)))
    size = -(-most // devices.count) * devices.count
    found, y_test = [], dataset.y_test
    order = np.array_split(np.arange(len(y_test)), range(size, len(y_test), size))
    with contextlib.closing(prepared(dataset.x_test, standardize, order)) as inputs:
        for rows, x in zip(order, inputs, strict=True):
            if stop is not None:
                stop.check()
            y = y_test[rows]
            batch = devices.put_batch(_padded(x, size), _padded(y, size))
            found.append([np.asarray(a)[: len(y)] for a in eval_step(state, *batch)])
    losses, predicted, confidence, rank = map(np.concatenate, zip(*found, strict=True))
    # Rounding may take a probability of float32 above 1.
    confidence = np.minimum(confidence.astype(np.float64), 1.0)
    classes = len(dataset.class_names)
    answers = Answers(dataset.y_test, predicted, confidence, rank, classes)
    return Evaluation(float(losses.astype(np.float64).mean()), answers)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(array)
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
