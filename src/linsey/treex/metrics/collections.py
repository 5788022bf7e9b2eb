"""Several metrics or losses as one metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from linsey.treex.kinds import MetricState
from linsey.treex.losses.loss import select_labels
from linsey.treex.metrics.metric import Metric, accepted
from linsey.treex.treeo import FieldInfo, add_field_info
from linsey.treex.types import Named
from linsey.treex.utils import named_leaves, unique_names


class Metrics(Metric):
    """Metrics by name.

    Args:
        metrics: a metric, or metrics in nested lists and dictionaries; the keys become
            the beginning of their names.
        on: see `Metric`, as the following ones.
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
        self, metrics: Any, on: Any = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.metrics = unique_names(named_leaves((), metrics))

    def update(self, **kwargs: Any) -> None:
        """Gives each metric those of the arguments that its `update` names."""
        for metric in self.metrics.values():
            chosen = select_labels(kwargs, metric._labels_filter)
            metric.update(**accepted(metric.update, chosen))

    def compute(self) -> dict[str, Any]:
        """The values by name; those of a metric with several have its name before."""
        pairs: list[tuple[str, Any]] = []
        for name, metric in self.metrics.items():
            pairs += _flat(name, metric.compute())
        return unique_names(pairs)


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [pair for key, v in value.items() for pair in _flat(f"{name}/{key}", v)]


class Losses(Metric):
    """Running averages of losses.

    Args:
        losses: a loss, or losses in nested lists and dictionaries; the keys become the
            beginning of their names.
        on: see `Metric`, as the following ones.
        name: name in logs.
        dtype: dtype of the state.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> losses = tx.metrics.Losses(tx.losses.MeanSquaredError())
        >>> total, logs = losses(target=jnp.zeros((1, 1)), preds=jnp.ones((1, 1)))
        >>> float(total), list(logs)
        (1.0, ['mean_squared_error_loss'])
    """

    totals: dict[str, jax.Array] = MetricState.node()
    counts: dict[str, jax.Array] = MetricState.node()

    def __init__(
        self, losses: Any, on: Any = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.losses = unique_names(
            [(loss_name(n), loss) for n, loss in named_leaves((), losses)]
        )
        self.totals, self.counts = zeros(self.losses)

    def update(self, **kwargs: Any) -> None:
        """Gives each loss those of the arguments that its `call` names."""
        self.totals, self.counts = dict(self.totals), dict(self.counts)
        for name, loss in self.losses.items():
            value = loss(**accepted(loss.call, kwargs))
            self.totals[name] += jnp.asarray(value, jnp.float32)
            self.counts[name] += jnp.array(1, jnp.uint32)

    def compute(self) -> tuple[Any, dict[str, Any]]:
        """The sum of the averages, and the averages by name."""
        logs = averages(self.totals, self.counts)
        return sum(logs.values(), start=0.0), logs


class _Aux(Metric):
    """Running averages of values that a model leaves behind."""

    totals: dict[str, jax.Array] = MetricState.node()
    counts: dict[str, jax.Array] = MetricState.node()

    def _start(self, logs: Any) -> None:
        self.totals, self.counts = zeros(self._named(logs))

    def _add(self, logs: Any) -> None:
        self.totals, self.counts = dict(self.totals), dict(self.counts)
        for name, value in self._named(logs).items():
            if name not in self.totals:
                raise ValueError(
                    f"Found the value {name!r}, which was not among those that the "
                    f"metric was made for: {sorted(self.totals)}. Make it with an "
                    "example of all logs."
                )
            value = jnp.asarray(value)
            self.totals[name] += jnp.sum(value).astype(jnp.float32)
            self.counts[name] += jnp.array(value.size, jnp.uint32)

    def _named(self, logs: Any) -> dict[str, Any]:
        return unique_names(
            [(self._log_name(info), info.value) for info in log_leaves(logs)]
        )

    def _log_name(self, info: FieldInfo) -> str:
        return info.name or "aux_metric"


class AuxMetrics(_Aux):
    """Running averages of the values that a model reports.

    Args:
        aux_metrics: an example of them, such as `module.metric_logs()`.
        on: see `Metric`, as the following ones.
        name: name in logs.
        dtype: dtype of the state.
    """

    def __init__(
        self,
        aux_metrics: Any,
        on: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self._start(aux_metrics)

    def update(self, aux_metrics: Any) -> None:
        """Adds values; arrays count for each of their entries."""
        self._add(aux_metrics)

    def compute(self) -> dict[str, Any]:
        """The averages by name."""
        return averages(self.totals, self.counts)


class AuxLosses(_Aux):
    """Running averages of the values that a model adds to the loss.

    Args:
        aux_losses: an example of them, such as `module.loss_logs()`.
        on: see `Metric`, as the following ones.
        name: name in logs.
        dtype: dtype of the state.
    """

    def __init__(
        self,
        aux_losses: Any,
        on: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self._start(aux_losses)

    def update(self, aux_losses: Any) -> None:
        """Adds values; arrays count for each of their entries."""
        self._add(aux_losses)

    def compute(self) -> tuple[Any, dict[str, Any]]:
        """The sum of the averages, and the averages by name."""
        logs = averages(self.totals, self.counts)
        return sum(logs.values(), start=0.0), logs

    def _log_name(self, info: FieldInfo) -> str:
        return loss_name(info.name or "aux")


def log_leaves(logs: Any) -> list[FieldInfo]:
    """The leaves of a tree or pytree, with the names that they have there."""
    with add_field_info():
        leaves = jax.tree.leaves(logs, is_leaf=lambda x: isinstance(x, Named))
    found = []
    for leaf in leaves:
        name = leaf.name if isinstance(leaf, Named) else None
        for value in jax.tree.leaves(leaf.value if name else leaf):
            info = value if isinstance(value, FieldInfo) else None
            bare = info.value if info else value
            own = name or (info.name if info else None)
            found.append(FieldInfo(own, bare, type(None), None))
    return found


def loss_name(name: str) -> str:
    """The name with the ending that losses have."""
    return name if name.endswith("loss") else f"{name}_loss"


def zeros(names: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Sums and numbers of nothing, for each name."""
    return (
        {name: jnp.array(0.0, jnp.float32) for name in names},
        {name: jnp.array(0, jnp.uint32) for name in names},
    )


def averages(
    totals: dict[str, jax.Array], counts: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Sums over numbers, for each name."""
    return {name: total / counts[name] for name, total in totals.items()}
