"""Layers that draw random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from linsey.errors.base import OptionError
from linsey.errors.misuse import report_misuse
from linsey.linen.module import Module, compact, merge_param
from linsey.ops.dropout import dropout
from linsey.typing import PRNGKey


class Dropout(Module):
    """Drop entries at random in training: `y = mask * x / (1 - rate)`.

    The mask is drawn from the stream `rng_collection`: pass a key for it to `apply`, or
    `rng` to the call. In evaluation, the inputs are returned unchanged.

    Attributes:
        rate: probability of dropping an entry, in [0, 1].
        broadcast_dims: axes along which all entries share one mask.
        deterministic: whether to disable dropout; given here or in the call.
        rng_collection: name of the stream of random keys.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.Dropout(0.5), jnp.ones(4)
        >>> layer.apply({}, x, deterministic=True).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> key = jax.random.key(0)
        >>> y = layer.apply({}, x, deterministic=False, rngs={"dropout": key})
        >>> set(y.tolist()) <= {0.0, 2.0}
        True

    References:
        Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @compact
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Apply dropout.

        Args:
            inputs: array of any shape.
            deterministic: whether to disable dropout.
            rng: random key for the mask. Defaults to the next key of the stream.

        Returns:
            An array like `inputs`.

        Raises:
            ValueError: `deterministic` was given both here and to the constructor, or
                in neither place.
            OptionError: `rate` is not in [0, 1].
        """
        deterministic = merge_param("deterministic", self.deterministic, deterministic)
        if self.rate == 0.0 or deterministic:
            return inputs
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        if not 0.0 < self.rate < 1.0:
            report_misuse(
                OptionError(
                    f"`Dropout` has rate={self.rate}.",
                    "It is the probability to drop an entry, in [0, 1].",
                    "To keep 90 % of the entries write `Dropout(rate=0.1)`.",
                )
            )
        key = self.make_rng(self.rng_collection) if rng is None else rng
        return dropout(inputs, key, self.rate, self.broadcast_dims)
