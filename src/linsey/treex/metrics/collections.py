"""Several metrics, losses and logs of a model, combined into one metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from linsey.errors.base import OptionError
from linsey.treex.losses import On, select_labels
from linsey.treex.metrics.metric import Metric, accepted
from linsey.treex.treeo import FieldInfo, add_field_info, copy
from linsey.treex.treeo.names import named_leaves, unique_names
from linsey.treex.types import MetricState, Named
from linsey.typing import Dtype

__all__ = ["AuxLosses", "AuxMetrics", "LossAndLogs", "Losses", "Metrics"]

M = TypeVar("M", bound=Metric)
Values = dict[str, jax.Array]


class Metrics(Metric):
    """Several metrics with names.

    Args:
        metrics: a metric, or metrics in nested lists and dictionaries, whose keys
            become prefixes of the names.
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the state.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> metrics = tx.metrics.Metrics({"a": tx.metrics.Mean()})
        >>> metrics.update(values=jnp.array([1.0, 2.0]))
        >>> {name: float(value) for name, value in metrics.compute().items()}
        {'a/mean': 1.5}
    """

    metrics: dict[str, Metric]

    def __init__(
        self,
        metrics: object,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.metrics = unique_names(named_leaves(metrics))

    def update(self, **kwargs: Any) -> None:
        """Update each metric with those arguments that its `update` accepts."""
        for metric in self.metrics.values():
            chosen = select_labels(kwargs, metric._labels_filter)
            metric.update(**accepted(metric.update, chosen))

    def compute(self) -> dict[str, object]:
        """Return all values by name; the name of a metric with several is a prefix."""
        found = [_flat(name, metric.compute()) for name, metric in self.metrics.items()]
        return unique_names(pair for pairs in found for pair in pairs)


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [pair for key, v in value.items() for pair in _flat(f"{name}/{key}", v)]


class _Averages(Metric):
    """Base of metrics that keep sums and counts of values by name."""

    totals: Values = MetricState.node()
    counts: Values = MetricState.node()

    def _start(self, names: Iterable[str]) -> None:
        self.totals = {name: jnp.array(0.0, jnp.float32) for name in names}
        self.counts = {name: jnp.array(0, jnp.uint32) for name in names}

    def _add(self, sums: Iterable[tuple[str, jax.Array, int]]) -> None:
        """Add sums of values with their counts."""
        self.totals, self.counts = dict(self.totals), dict(self.counts)
        for name, total, count in sums:
            self.totals[name] += total.astype(jnp.float32)
            self.counts[name] += jnp.array(count, jnp.uint32)

    def _averages(self) -> Values:
        return {name: total / self.counts[name] for name, total in self.totals.items()}

    def _sum_and_averages(self) -> tuple[jax.Array | float, Values]:
        logs = self._averages()
        return sum(logs.values(), start=0.0), logs


class Losses(_Averages):
    """Running averages of losses.

    Args:
        losses: a loss, or losses in nested lists and dictionaries, whose keys become
            prefixes of the names.
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the state.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> losses = tx.metrics.Losses(tx.losses.MeanSquaredError())
        >>> total, logs = losses(target=jnp.zeros((1, 1)), preds=jnp.ones((1, 1)))
        >>> float(total), list(logs)
        (1.0, ['mean_squared_error_loss'])
    """

    def __init__(
        self,
        losses: object,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        named = [(loss_name(name), loss) for name, loss in named_leaves(losses)]
        self.losses = unique_names(named)
        self._start(self.losses)

    def update(self, **kwargs: Any) -> None:
        """Call each loss with those arguments that its `call` accepts."""
        self._add(
            (name, jnp.asarray(loss(**accepted(loss.call, kwargs))), 1)
            for name, loss in self.losses.items()
        )

    def compute(self) -> tuple[jax.Array | float, Values]:
        """Return the sum of the averages, and the averages by name."""
        return self._sum_and_averages()


class _Aux(_Averages):
    """Running averages of values that a model logs."""

    def _add_logs(self, logs: object) -> None:
        named = self._named(logs)
        for name in named.keys() - self.totals.keys():
            raise OptionError(
                f"Found the value {name!r}, which is not among those that the metric "
                f"was made for: {sorted(self.totals)}.",
                "Its average would count nothing for the batches before.",
                "Make the metric with an example of all logs.",
            )
        self._add((name, jnp.sum(v), jnp.size(v)) for name, v in named.items())

    def _named(self, logs: object) -> Values:
        return unique_names((self._log_name(name), v) for name, v in log_leaves(logs))

    def _log_name(self, name: str | None) -> str:
        return name or "aux_metric"


class AuxMetrics(_Aux):
    """Running averages of the values that a model reports.

    Args:
        aux_metrics: an example of these values, such as `module.metric_logs()`.
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the state.
    """

    def __init__(
        self,
        aux_metrics: object,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self._start(self._named(aux_metrics))

    def update(self, aux_metrics: object) -> None:
        """Add values; arrays count for each of their entries."""
        self._add_logs(aux_metrics)

    def compute(self) -> Values:
        """Return the averages by name."""
        return self._averages()


class AuxLosses(_Aux):
    """Running averages of the values that a model adds to the loss.

    Args:
        aux_losses: an example of these values, such as `module.loss_logs()`.
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the state.
    """

    def __init__(
        self,
        aux_losses: object,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self._start(self._named(aux_losses))

    def update(self, aux_losses: object) -> None:
        """Add values; arrays count for each of their entries."""
        self._add_logs(aux_losses)

    def compute(self) -> tuple[jax.Array | float, Values]:
        """Return the sum of the averages, and the averages by name."""
        return self._sum_and_averages()

    def _log_name(self, name: str | None) -> str:
        return loss_name(name or "aux")


def log_leaves(logs: object) -> list[tuple[str | None, Any]]:
    """Return the leaves of a tree or pytree with their names in it."""
    with add_field_info():
        leaves = jax.tree.leaves(logs, is_leaf=lambda x: isinstance(x, Named))
    found = []
    for leaf in leaves:
        name = leaf.name if isinstance(leaf, Named) else None
        for value in jax.tree.leaves(leaf.value if name else leaf):
            if isinstance(value, FieldInfo):
                found.append((name or value.name, value.value))
            else:
                found.append((name, value))
    return found


def loss_name(name: str) -> str:
    """Return the name, with the suffix of losses if it has another one."""
    return name if name.endswith("loss") else f"{name}_loss"


LossLogsAndMetrics = tuple[jax.Array | float, dict[str, Any], dict[str, Any]]
"""The loss, the logs of losses, and the other logs."""


class LossAndLogs(Metric):
    """Losses, metrics and the logs of a model, combined into one metric.

    Args:
        losses: see `Losses`.
        metrics: see `Metrics`.
        aux_losses: see `AuxLosses`.
        aux_metrics: see `AuxMetrics`.
        on: see `Metric`; it selects the arguments of the losses.
        name: name in logs.
        dtype: dtype of the state.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> logger = tx.LossAndLogs(tx.losses.MeanSquaredError(), tx.metrics.MAE())
        >>> x, y = jnp.ones((1, 1)), jnp.zeros((1, 1))
        >>> loss, losses_logs, metrics_logs = logger(target=y, preds=x)
        >>> float(loss), sorted(losses_logs), sorted(metrics_logs)
        (1.0, ['loss', 'mean_squared_error_loss'], ['mean_absolute_error'])
    """

    losses: Losses | None
    metrics: Metrics | None
    aux_losses: AuxLosses | None
    aux_metrics: AuxMetrics | None

    def __init__(
        self,
        losses: object = None,
        metrics: object = None,
        aux_losses: object = None,
        aux_metrics: object = None,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.losses = _as(Losses, losses)
        self.metrics = _as(Metrics, metrics)
        self.aux_losses = _as(AuxLosses, aux_losses)
        self.aux_metrics = _as(AuxMetrics, aux_metrics)

    def update(
        self,
        metrics_kwargs: dict[str, Any] | None = None,
        aux_losses: object = None,
        aux_metrics: object = None,
        **losses_kwargs: Any,
    ) -> None:
        """Add a batch.

        Args:
            metrics_kwargs: arguments of the metrics. Defaults to those of the losses.
            aux_losses: values that the model adds to the loss.
            aux_metrics: values that the model reports.
            **losses_kwargs: arguments of the losses.

        Raises:
            OptionError: logs for which the metric was made are missing.
        """
        given = {"aux_losses": aux_losses, "aux_metrics": aux_metrics}
        for name, value in given.items():
            if value is None and getattr(self, name) is not None:
                logs = "loss_logs" if name == "aux_losses" else "metric_logs"
                raise OptionError(
                    f"`{name}` was configured and is not given to `update`.",
                    "Its average would count nothing for this batch.",
                    f"Pass `{name}=...`, for example `model.{logs}()`.",
                )
        if self.losses is not None:
            self.losses.update(**losses_kwargs)
        if self.metrics is not None:
            kwargs = losses_kwargs if metrics_kwargs is None else metrics_kwargs
            self.metrics.update(**kwargs)
        if self.aux_losses is not None:
            self.aux_losses.update(aux_losses)
        if self.aux_metrics is not None:
            self.aux_metrics.update(aux_metrics)

    def compute(self) -> LossLogsAndMetrics:
        """Return the loss, the logs of losses (with `loss`), and the other logs."""
        loss: jax.Array | float = 0.0
        losses_logs: list[tuple[str, object]] = []
        for losses in (self.losses, self.aux_losses):
            if losses is not None:
                value, logs = losses.compute()
                loss = loss + value
                losses_logs += logs.items()
        metrics_logs: list[tuple[str, object]] = []
        for metrics in (self.metrics, self.aux_metrics):
            if metrics is not None:
                metrics_logs += metrics.compute().items()
        losses_logs = [("loss", loss), *losses_logs]
        return loss, unique_names(losses_logs), unique_names(metrics_logs)

    def batch_loss_epoch_logs(
        self,
        metrics_kwargs: dict[str, Any] | None = None,
        aux_losses: object = None,
        aux_metrics: object = None,
        **losses_kwargs: Any,
    ) -> LossLogsAndMetrics:
        """Add a batch; return the loss of the batch, and the logs of all batches.

        Args:
            metrics_kwargs: see `update`, also for the arguments that follow.
            aux_losses: values that the model adds to the loss.
            aux_metrics: values that the model reports.
            **losses_kwargs: arguments of the losses.
        """
        losses_kwargs = select_labels(losses_kwargs, self._labels_filter)
        batch = copy(self)
        batch.reset()
        for logger in (batch, self):
            logger.update(metrics_kwargs, aux_losses, aux_metrics, **losses_kwargs)
        batch_loss, _, _ = batch.compute()
        _, losses_logs, metrics_logs = self.compute()
        return batch_loss, losses_logs, metrics_logs


def _as(cls: type[M], value: object) -> M | None:
    return value if value is None or isinstance(value, cls) else cls(value)
