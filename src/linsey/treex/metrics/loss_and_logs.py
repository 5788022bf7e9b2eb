"""The loss of a batch together with everything that is logged."""

from __future__ import annotations

from typing import Any

from linsey.errors.treex import MissingAuxError
from linsey.treex.losses.loss import select_labels
from linsey.treex.metrics.collections import AuxLosses, AuxMetrics, Losses, Metrics
from linsey.treex.metrics.metric import Metric
from linsey.treex.treeo import copy
from linsey.treex.utils import unique_names


class LossAndLogs(Metric):
    """Losses, metrics and the logs of a model as one metric.

    Args:
        losses: as of `Losses`.
        metrics: as of `Metrics`.
        aux_losses: as of `AuxLosses`.
        aux_metrics: as of `AuxMetrics`.
        on: see `Metric`; it selects for the losses.
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
        losses: Any = None,
        metrics: Any = None,
        aux_losses: Any = None,
        aux_metrics: Any = None,
        on: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.losses = _as(Losses, losses)
        self.metrics = _as(Metrics, metrics)
        self.aux_losses = _as(AuxLosses, aux_losses)
        self.aux_metrics = _as(AuxMetrics, aux_metrics)

    def update(
        self,
        metrics_kwargs: dict[str, Any] | None = None,
        aux_losses: Any = None,
        aux_metrics: Any = None,
        **losses_kwargs: Any,
    ) -> None:
        """Adds a batch.

        Args:
            metrics_kwargs: arguments of the metrics, by default those of the losses.
            aux_losses: values that the model adds to the loss.
            aux_metrics: values that the model reports.
            **losses_kwargs: arguments of the losses.

        Raises:
            MissingAuxError: logs that were configured are not given.
        """
        if self.losses is not None:
            self.losses.update(**losses_kwargs)
        if self.metrics is not None:
            given = losses_kwargs if metrics_kwargs is None else metrics_kwargs
            self.metrics.update(**given)
        if self.aux_losses is not None:
            if aux_losses is None:
                raise MissingAuxError("aux_losses")
            self.aux_losses.update(aux_losses=aux_losses)
        if self.aux_metrics is not None:
            if aux_metrics is None:
                raise MissingAuxError("aux_metrics")
            self.aux_metrics.update(aux_metrics=aux_metrics)

    def compute(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The loss, the logs of losses (with it, as `loss`), and the other logs."""
        loss: Any = 0.0
        losses_logs: list[tuple[str, Any]] = []
        for losses in (self.losses, self.aux_losses):
            if losses is not None:
                value, logs = losses.compute()
                loss = loss + value
                losses_logs += logs.items()
        metrics_logs: list[tuple[str, Any]] = []
        for metrics in (self.metrics, self.aux_metrics):
            if metrics is not None:
                metrics_logs += metrics.compute().items()
        return (
            loss,
            unique_names([("loss", loss), *losses_logs]),
            unique_names(metrics_logs),
        )

    def batch_loss_epoch_logs(
        self,
        metrics_kwargs: dict[str, Any] | None = None,
        aux_losses: Any = None,
        aux_metrics: Any = None,
        **losses_kwargs: Any,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Adds a batch; the loss of the batch, and the logs of all batches.

        Args:
            metrics_kwargs: see `update`, as the following ones.
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


def _as(cls: type, value: Any) -> Any:
    return value if value is None or isinstance(value, cls) else cls(value)
