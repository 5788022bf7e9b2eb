"""Stopping when a metric no longer improves."""

from __future__ import annotations

import math

import jax

from linsey import struct


class EarlyStopping(struct.PyTreeNode):
    """A record of a metric that should fall, which tells when it no longer does.

    Args:
        min_delta: how much the metric must fall to count as improved. Defaults to 0.
        patience: number of steps without improvement to tolerate. Defaults to 0.
        best_metric: the best value so far.
        patience_count: number of steps since the best value.
        should_stop: whether the patience is used up.
        has_improved: whether the last step improved the metric.

    Example:
        >>> watch = EarlyStopping(min_delta=0.1, patience=1)
        >>> for loss in (1.0, 0.95, 0.93):
        ...     watch = watch.update(loss)
        >>> watch.should_stop, watch.best_metric
        (True, 1.0)
    """

    min_delta: float = 0
    patience: int = 0
    best_metric: float = float("inf")
    patience_count: int = 0
    should_stop: bool = False
    has_improved: bool = False

    def reset(self) -> EarlyStopping:
        """Return the state before the first step."""
        return self.replace(
            best_metric=math.inf,
            patience_count=0,
            should_stop=False,
            has_improved=False,
        )

    def update(self, metric: float | jax.Array) -> EarlyStopping:
        """Update the state with the metric of a step.

        Args:
            metric: the metric; lower is better.

        Returns:
            The new state.
        """
        if math.isinf(self.best_metric) or self.best_metric - metric > self.min_delta:
            return self.replace(best_metric=metric, patience_count=0, has_improved=True)
        return self.replace(
            patience_count=self.patience_count + 1,
            should_stop=self.patience_count >= self.patience or self.should_stop,
            has_improved=False,
        )
