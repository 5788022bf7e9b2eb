"""What losses have in common: selection, sample weights, reduction, weight."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp

from linsey.errors.base import OptionError
from linsey.errors.treex import PositionalArgumentsError
from linsey.treex.treeo.names import snake_case


class Reduction(enum.Enum):
    """How the values of the examples become one.

    Example:
        >>> [r.value for r in Reduction]
        ['none', 'sum', 'sum_over_batch_size']
    """

    NONE = "none"
    SUM = "sum"
    SUM_OVER_BATCH_SIZE = "sum_over_batch_size"

    @classmethod
    def all(cls) -> tuple[Self, ...]:
        """Return all of them."""
        return tuple(cls)

    @classmethod
    def validate(cls, key: object) -> None:
        """Refuse what is none of them.

        Raises:
            OptionError: `key` is no reduction.
        """
        as_reduction(key)


def as_reduction(key: object) -> Reduction:
    """Return the reduction of a name, in any case; a reduction is returned as it is."""
    if isinstance(key, Reduction):
        return key
    try:
        return Reduction(key.lower() if isinstance(key, str) else key)
    except ValueError:
        names = ", ".join(repr(r.value) for r in Reduction)
        raise OptionError(
            f"Invalid reduction {key!r}.",
            "A reduction says how the values of the examples become one.",
            f"Write a `Reduction`, or one of {names}.",
        ) from None


On = str | int | Sequence[str | int] | None
"""A key or an index, or several that are applied in turn."""


class Loss:
    """Base of losses: subclasses define `call`, which gives a value per example.

    Args:
        reduction: how the values become one. Defaults to their mean.
        weight: factor of the result.
        on: key or index, or several in turn, that select a part of `target` and
            `preds`.
        name: name in logs. Defaults to the class in snake case.
    """

    def __init__(
        self,
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        name: str | None = None,
    ) -> None:
        self.name = name if name is not None else snake_case(type(self).__name__)
        self.weight = jnp.asarray(1.0 if weight is None else weight, jnp.float32)
        self._reduction = (
            Reduction.SUM_OVER_BATCH_SIZE if reduction is None else reduction
        )
        self._labels_filter = labels_filter(on)

    def __call__(self, *args: object, **kwargs: Any) -> jax.Array:
        """Return the loss of the arguments of `call`, all given by name.

        Args:
            *args: none.
            **kwargs: arguments of `call`, among them usually `target` and `preds`, and
                `sample_weight`, a factor for each value.

        Raises:
            PositionalArgumentsError: an argument has no name.
        """
        if args:
            raise PositionalArgumentsError(self, len(args))
        kwargs = select_labels(kwargs, self._labels_filter)
        sample_weight = kwargs.pop("sample_weight", None)
        values = jnp.asarray(self.call(**kwargs))
        if sample_weight is not None:  # of the leading axes
            factors = jnp.asarray(sample_weight)
            missing = values.ndim - factors.ndim
            values = values * factors.reshape(factors.shape + (1,) * max(missing, 0))
        reduction = as_reduction(self._reduction)
        if reduction is not Reduction.NONE:
            total = jnp.sum(values)
            if reduction is Reduction.SUM_OVER_BATCH_SIZE:
                total = total / values.size
            values = total
        return values * self.weight

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Return a value for each example; to be overridden."""


def labels_filter(on: On) -> tuple[str | int, ...]:
    """Return keys and indices that are applied in turn."""
    if on is None:
        return ()
    return (on,) if isinstance(on, str | int) else tuple(on)


def select_labels(kwargs: dict[str, Any], on: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the arguments with the selected part of `target` and `preds`."""
    kwargs = dict(kwargs)
    for name in ("target", "preds"):
        if kwargs.get(name) is not None:
            for index in on:
                kwargs[name] = kwargs[name][index]
    return kwargs
