"""Dropout, with its own random keys."""

from __future__ import annotations

from collections.abc import Sequence

import jax

import linsey.linen as linen
from linsey.treex.key_seq import KeySeq
from linsey.treex.nn.flax_module import LinenLayer, layer
from linsey.treex.treeo import node


@layer
class Dropout(LinenLayer):
    """Drops entries at random in training: `y = mask * x / (1 - rate)`.

    Args:
        rate: probability of dropping an entry, in [0, 1].
        broadcast_dims: axes along which all entries share one mask.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> layer = tx.Dropout(0.5).init(42)
        >>> set(layer(jnp.ones(20)).tolist()) == {0.0, 2.0}
        True
        >>> layer.eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]

    References:
        Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    linen_class = linen.Dropout

    rate: float
    broadcast_dims: Sequence[int] = ()
    next_key: KeySeq = node(default_factory=KeySeq, init=False)

    def __call__(
        self,
        x: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Apply dropout.

        Args:
            x: array of any shape.
            deterministic: whether to disable dropout. By default, the mode of the
                module decides.
            rng: random key for the mask. Defaults to the next key of the layer.

        Raises:
            NotInitializedError: the layer has no key yet.
        """
        if deterministic is None:
            deterministic = not self.training or self.frozen
        if deterministic:
            return self.run(x, deterministic=True)
        if rng is not None:
            return self.run(x, deterministic=False, rng=rng)
        return self.run(x, deterministic=False, rngs={"dropout": self.next_key()})
