"""Learning rate schedules, counted in epochs; new programs should use those of optax.

Each function returns a function from the step to the learning rate. During the first
`warmup_length` epochs, which may be a fraction, the learning rate is multiplied by a
ramp from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Number = float | jax.Array
Schedule = Callable[[Number], Number]


def _with_warmup(
    schedule: Schedule, steps_per_epoch: int, warmup_length: float
) -> Schedule:
    if not warmup_length:
        return schedule

    def warm(step: Number) -> Number:
        ramp = jnp.minimum(1.0, step / float(warmup_length) / steps_per_epoch)
        return schedule(step) * ramp

    return warm


def create_constant_learning_rate_schedule(
    base_learning_rate: float, steps_per_epoch: int, warmup_length: float = 0.0
) -> Schedule:
    """Keep the learning rate constant after the warm-up.

    Example:
        >>> rate = create_constant_learning_rate_schedule(0.5, 10, warmup_length=1.0)
        >>> float(rate(5)), float(rate(20))
        (0.25, 0.5)
    """
    return _with_warmup(lambda step: base_learning_rate, steps_per_epoch, warmup_length)


def create_stepped_learning_rate_schedule(
    base_learning_rate: float,
    steps_per_epoch: int,
    lr_sched_steps: Sequence[Sequence[float]],
    warmup_length: float = 0.0,
) -> Schedule:
    """Multiply the learning rate by a different factor from given epochs on.

    Args:
        base_learning_rate: the learning rate at factor 1.
        steps_per_epoch: number of steps of an epoch.
        lr_sched_steps: pairs (epoch, factor), the first at epoch 0.
        warmup_length: epochs of warm-up. Defaults to 0.

    Returns:
        The schedule.

    Example:
        >>> rate = create_stepped_learning_rate_schedule(0.5, 10, [[0, 1.0], [3, 0.5]])
        >>> float(rate(30)), float(rate(31))
        (0.5, 0.25)
    """
    boundaries = [steps_per_epoch * epoch for epoch, _ in lr_sched_steps][1:]
    factors = [factor for _, factor in lr_sched_steps]

    def rate(step: Number) -> Number:
        if not boundaries:
            return base_learning_rate * (factors[0] if factors else 1.0)
        passed = jnp.sum(jnp.asarray(boundaries) < step)
        return base_learning_rate * jnp.asarray(factors)[passed]

    return _with_warmup(rate, steps_per_epoch, warmup_length)


def create_cosine_learning_rate_schedule(
    base_learning_rate: float,
    steps_per_epoch: int,
    halfcos_epochs: float,
    warmup_length: float = 0.0,
) -> Schedule:
    """Decrease the learning rate to 0 along half a cosine wave.

    Args:
        base_learning_rate: the learning rate at the beginning.
        steps_per_epoch: number of steps of an epoch.
        halfcos_epochs: number of epochs until the learning rate is 0.
        warmup_length: epochs of warm-up. Defaults to 0.

    Returns:
        The schedule.

    Example:
        >>> rate = create_cosine_learning_rate_schedule(0.5, 10, halfcos_epochs=4)
        >>> [round(float(rate(step)), 3) for step in (0, 20, 40)]
        [0.5, 0.25, 0.0]
    """

    def rate(step: Number) -> Number:
        angle = step / steps_per_epoch * jnp.pi / halfcos_epochs
        return base_learning_rate * (jnp.cos(angle) + 1.0) / 2.0

    return _with_warmup(rate, steps_per_epoch, warmup_length)
