"""Sequences of different lengths, padded at the end to a common length."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.deferred import resolve
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes

if TYPE_CHECKING:
    from jaxtyping import Integer, Shaped


def flip_sequences(
    inputs: Shaped[Array, "*shape"],
    seq_lengths: Integer[Array | np.ndarray, "*batch"] | None,
    num_batch_dims: int,
    time_major: bool,
) -> Shaped[Array, "*shape"]:
    """Reverse sequences in time; the padding stays at the end.

    Args:
        inputs: array of shape (*batch, time, ...), or (time, *batch, ...).
        seq_lengths: length of each sequence, of shape (*batch,) and at most `time`.
            If `None`, there is no padding.
        num_batch_dims: number of batch axes.
        time_major: whether time is the first axis.

    Returns:
        An array of the shape of `inputs`.

    Example:
        >>> x = jnp.array([[1, 2, 3, 0], [4, 5, 6, 7]])
        >>> flip_sequences(x, jnp.array([3, 4]), 1, False).tolist()
        [[3, 2, 1, 0], [7, 6, 5, 4]]
    """
    inputs = resolve(inputs)
    time = 0 if time_major else num_batch_dims
    if seq_lengths is None:
        return lax.rev(inputs, (time,))
    if is_split(inputs, seq_lengths):
        function = partial(
            flip_sequences, num_batch_dims=num_batch_dims, time_major=time_major
        )
        return leave_to_compiler(function, split_axes(inputs), inputs, seq_lengths)
    length = inputs.shape[time]
    # Entry i comes from n - 1 - i. Negative numbers stand for padding and come last.
    lengths = jnp.expand_dims(jnp.asarray(seq_lengths), time)
    steps = jnp.arange(length - 1, -1, -1, dtype=lengths.dtype)
    steps = lax.expand_dims(steps, [i for i in range(num_batch_dims + 1) if i != time])
    indices = (lengths + steps) % jnp.asarray(length, lengths.dtype)
    rest = range(num_batch_dims + 1, inputs.ndim)
    return jnp.take_along_axis(inputs, jnp.expand_dims(indices, rest), axis=time)
