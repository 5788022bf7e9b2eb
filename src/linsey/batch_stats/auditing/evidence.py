"""The evidence for an audit: the numbers and settings of each batch norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from linsey.batch_stats.auditing.observed import Observed
from linsey.batch_stats.calls import Batch, Call
from linsey.batch_stats.statistics import Path, Statistics, Variables, find_statistics
from linsey.batch_stats.subject import Subject

EPSILON = 1e-5
"""The default number that Flax, linsey and PyTorch add to the variance."""


@dataclass(frozen=True)
class Settings:
    """The settings of a batch norm.

    Attributes:
        momentum: momentum; `None` if it is not known.
        epsilon: number added to the variance.
        frozen: whether training intentionally does not change the statistics.
        cumulative: whether the statistics are the plain average of all batches.
    """

    momentum: float | None = None
    epsilon: float = EPSILON
    frozen: bool = False
    cumulative: bool = False


@dataclass(frozen=True)
class Layer:
    """A batch norm: its arrays in float64 on the host, and its settings.

    Attributes:
        path: path of the layer.
        mean: running mean.
        var: running variance, of the same shape.
        scale: scale; `None` if there is none.
        dtype: dtype in which the statistics are stored.
        count: number of updates so far, the smallest if parts of the layer have
            separate counts; `None` if unknown.
        settings: settings of the layer.
        observed: moments of its inputs on the data; `None` if there is no data.
    """

    path: Path
    mean: np.ndarray
    var: np.ndarray
    scale: np.ndarray | None
    dtype: np.dtype
    count: int | None = None
    settings: Settings = Settings()
    observed: Observed | None = None

    @property
    def name(self) -> str:
        """The path as a string."""
        return "/".join(self.path)

    @property
    def rstd(self) -> np.ndarray:
        """The factor by which evaluation multiplies; NaN where it is undefined."""
        with np.errstate(all="ignore"):
            return 1 / np.sqrt(self.var + self.settings.epsilon)

    @property
    def matters(self) -> np.ndarray:
        """A mask of the channels whose output depends on them: the scale is not 0."""
        shape = self.mean.shape
        if self.scale is None or self.scale.shape not in (shape, shape[-1:]):
            return np.full(shape, True)
        return np.broadcast_to(np.not_equal(self.scale, 0), shape)

    @property
    def is_initial(self) -> np.ndarray:
        """A mask of the channels whose mean and variance are the initial values."""
        return (self.mean == 0) & (self.var == 1)


@dataclass(frozen=True)
class Evidence:
    """All the information that an audit has.

    Attributes:
        subject: the state.
        layers: its batch norms.
        previous: an earlier state of the same training.
        grads: gradients.
        expected: shapes and dtypes of the variables that the model initialises, by
            collection.
    """

    subject: Subject
    layers: Sequence[Layer] = ()
    previous: Subject | None = None
    grads: object = None
    expected: Variables | None = None
    settings: Mapping[Path, Settings] = field(default_factory=dict)


def read_layer(found: Statistics, settings: Settings) -> Layer:
    """Copy the numbers of a batch norm to the host."""
    mean = np.asarray(found.mean)
    count = None if found.count is None else int(np.min(np.asarray(found.count)))
    return Layer(
        found.path,
        mean.astype(np.float64),
        np.asarray(found.var).astype(np.float64),
        None if found.scale is None else np.asarray(found.scale).astype(np.float64),
        mean.dtype,
        count,
        settings,
    )


# -- settings of layers --------------------------------------------------------------


def settings_in(call: Call, variables: Variables, batch: Batch) -> dict[Path, Settings]:
    """Return the settings of the batch norms of a model, as far as they are known."""
    found: dict[Path, Settings] = {}
    paths = [one.path for one in find_statistics(variables)]
    if call.module is None:
        for path in paths:
            layer = call.model
            for name in path:
                layer = _member(layer, name)
            if layer is not None:
                found[path] = _settings(layer)
        return found

    def watch(
        next_fun: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: Any,
    ) -> object:
        path = tuple(context.module.path)
        if path in paths:
            found[path] = _settings(context.module)
        return next_fun(*args, **kwargs)

    with call.intercept(watch):
        jax.eval_shape(call.train, variables, batch)
    return found


def _settings(layer: object) -> Settings:
    momentum = getattr(layer, "momentum", getattr(layer, "decay", None))
    epsilon = getattr(layer, "epsilon", getattr(layer, "eps", EPSILON))
    return Settings(
        None if momentum is None else float(momentum),
        float(epsilon),
        getattr(layer, "frozen", False) in (True, "statistics"),
        momentum is None and hasattr(layer, "momentum"),
    )


def _member(owner: object, name: str) -> object:
    if hasattr(owner, name):
        return getattr(owner, name)
    if isinstance(owner, Mapping):
        return owner.get(name)
    if isinstance(owner, Sequence) and name.isdigit() and int(name) < len(owner):
        return owner[int(name)]
    return None
