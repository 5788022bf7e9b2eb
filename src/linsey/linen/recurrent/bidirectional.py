"""Two recurrent layers that go through their inputs in opposite directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax import lax

from linsey.linen.module import Module
from linsey.linen.recurrent.base import Carry, Output
from linsey.typing import Array, PRNGKey


class RNNBase(Protocol):
    """What is called like `RNN`."""

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Carry | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Output | tuple[Carry, Output]:
        """Goes through the inputs, see `RNN`."""


def _concatenate(a: Array, b: Array) -> Array:
    """Joins the features of two outputs."""
    return lax.concatenate([a, b], a.ndim - 1)


class Bidirectional(Module):
    """Goes through inputs in both directions and joins the outputs.

    Attributes:
        forward_rnn: the layer that goes forward.
        backward_rnn: the layer that goes backward.
        merge_fn: joins the outputs of both; concatenates their features by default.
        time_major: whether time is the first axis.
        return_carry: whether to return the last carries with the outputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))
        >>> y, variables = layer.init_with_output(
        ...     jax.random.key(0), jnp.ones((2, 5, 3))
        ... )
        >>> y.shape, sorted(variables["params"])
        ((2, 5, 8), ['backward_rnn', 'forward_rnn'])

    References:
        Schuster, Paliwal 1997, https://doi.org/10.1109/78.650093
    """

    forward_rnn: RNNBase
    backward_rnn: RNNBase
    merge_fn: Callable[[Array, Array], Array] = _concatenate
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Carry | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Output | tuple[Carry, Output]:
        """Goes through the inputs in both directions.

        Args:
            inputs: array of shape (*batch, time, *features), or with time first.
            initial_carry: the first carries, forward and backward.
            init_key: random key for the first carries.
            seq_lengths: number of elements of each sequence that are not padding.
            return_carry: whether to return the last carries with the outputs.
            time_major: whether time is the first axis.
            reverse: accepted so that the call is that of `RNN`; it changes nothing.
            keep_order: likewise; outputs are in the order of the inputs.

        Returns:
            The joined outputs; with `return_carry` the pair of carries and the outputs.
        """
        if time_major is None:
            time_major = self.time_major
        if return_carry is None:
            return_carry = self.return_carry
        keys: Any = (None, None) if init_key is None else jax.random.split(init_key)
        carries = (None, None) if initial_carry is None else initial_carry

        def run(rnn: Any, which: int, **direction: bool) -> tuple[Carry, Output]:
            return rnn(
                inputs,
                initial_carry=carries[which],
                init_key=keys[which],
                seq_lengths=seq_lengths,
                return_carry=True,
                time_major=time_major,
                **direction,
            )

        forward_carry, forward = run(self.forward_rnn, 0, reverse=False)
        backward_carry, backward = run(
            self.backward_rnn, 1, reverse=True, keep_order=True
        )
        outputs = jax.tree.map(self.merge_fn, forward, backward)
        if return_carry:
            return (forward_carry, backward_carry), outputs
        return outputs
