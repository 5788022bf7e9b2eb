"""Optimizers and learning rate schedules by name, composed from optax."""

from __future__ import annotations

from typing import Any

import jax
import optax

from linsey.app.config import OptimizerOptions


def make_schedule(options: OptimizerOptions, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        options: the optimizer options.
        steps_per_epoch: steps in one pass over the data.

    Returns:
        A schedule, traceable.
    """
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total - 1)
    remaining = total - warmup
    body = {
        "constant": lambda: optax.constant_schedule(options.lr),
        "cosine": lambda: optax.cosine_decay_schedule(options.lr, remaining),
        "step": lambda: optax.piecewise_constant_schedule(
            options.lr, {remaining // 2: 0.1, 3 * remaining // 4: 0.1}
        ),
    }[options.schedule]()
    if warmup == 0:
        return body
    # The first step already learns: a rate of 0 would waste it.
    rise = optax.linear_schedule(options.lr / (warmup + 1), options.lr, warmup)
    return optax.join_schedules([rise, body], [warmup])


def make_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The chosen optimizer.

    Args:
        options: the optimizer options.
        schedule: its learning rate.

    Returns:
        A gradient transformation.
    """
    decay = options.weight_decay
    parts: list[optax.GradientTransformation]
    if options.optimizer == "sgd":
        parts = [
            optax.add_decayed_weights(decay, mask=_is_kernel),
            optax.sgd(schedule, options.momentum, nesterov=True),
        ]
    elif options.optimizer == "adam":
        parts = [optax.adam(schedule)]
    else:
        parts = [optax.adamw(schedule, weight_decay=decay, mask=_is_kernel)]
    if options.clip_norm > 0:
        parts.insert(0, optax.clip_by_global_norm(options.clip_norm))
    return optax.chain(*parts)


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda param: param.ndim > 1, params)
