"""A layer that scans a recurrent cell over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linsey.core.frozen_dict import FrozenDict
from linsey.errors.layers import InputRankError
from linsey.linen.module import Module, nowrap
from linsey.linen.recurrent.base import Carry, Output, RNNCellBase
from linsey.linen.transforms import scan
from linsey.ops.sequences import flip_sequences
from linsey.typing import Array, InOutScanAxis, PRNGKey


class RNN(Module):
    """Scans a recurrent cell over the time axis of its inputs.

        carry_t, y_t = cell(carry_{t-1}, x_t)

    Time is the axis after the batch axes, or the first one with `time_major`. The
    fields up to `keep_order` can be given at the call instead.

    Attributes:
        cell: the cell.
        time_major: whether time is the first axis.
        return_carry: whether to return the last carry with the outputs.
        reverse: whether to go from the last element to the first; where lengths are
            given, from the last element that is not padding.
        keep_order: with `reverse`, whether outputs are in the order of the inputs
            rather than in that of the steps.
        unroll: steps in one iteration of the compiled loop.
        variable_axes: collections that have a slice for each step, see `scan`.
        variable_broadcast: collections that all steps share.
        variable_carry: collections handed from step to step.
        split_rngs: whether random streams differ between steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.RNN(nn.LSTMCell(features=4)), jnp.ones((2, 5, 3))
        >>> y, variables = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape
        (2, 5, 4)

        Sequences of 5 and 2 elements, and the carry after their last ones:

        >>> (c, h), y = layer.apply(
        ...     variables, x, seq_lengths=jnp.array([5, 2]), return_carry=True
        ... )
        >>> bool((h[1] == y[1, 1]).all())
        True
    """

    cell: RNNCellBase
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    variable_axes: Mapping[Any, InOutScanAxis] = FrozenDict()
    variable_broadcast: Any = "params"
    variable_carry: Any = False
    split_rngs: Mapping[Any, bool] = FrozenDict({"params": False})

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
        """Scans the cell over the inputs.

        Args:
            inputs: array of shape (*batch, time, *features), or with time first.
            initial_carry: the first carry; none means what the cell makes.
            init_key: random key for the first carry.
            seq_lengths: number of elements of each sequence that are not padding, of
                shape (*batch,). They decide which carry is returned and where
                `reverse` begins; outputs are computed for the padding too.
            return_carry: see the class.
            time_major: see the class.
            reverse: see the class.
            keep_order: see the class.

        Returns:
            The outputs, of shape (*batch, time, ...) or with time first; with
            `return_carry` the last carry and the outputs.

        Raises:
            InputRankError: the inputs have too few axes.
        """
        return_carry = _given(return_carry, self.return_carry)
        time_major = _given(time_major, self.time_major)
        reverse = _given(reverse, self.reverse)
        keep_order = _given(keep_order, self.keep_order)
        shape = np.shape(inputs)
        batch_dims = len(shape) - self.cell.num_feature_axes - 1
        if batch_dims < 0:
            raise InputRankError("RNN", shape, "time, features")
        time = 0 if time_major else batch_dims
        if reverse:
            inputs = flip_sequences(inputs, seq_lengths, batch_dims, time_major)
        carry = initial_carry
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, shape[:time] + shape[time + 1 :])
        lengths = None
        if return_carry and seq_lengths is not None:
            lengths = jnp.asarray(seq_lengths)
        carry, outputs = self._scan(carry, inputs, lengths, time)
        if reverse and keep_order:
            outputs = jax.tree.map(
                lambda y: flip_sequences(y, seq_lengths, batch_dims, time_major),
                outputs,
            )
        return (carry, outputs) if return_carry else outputs

    @nowrap
    def _scan(
        self, carry: Carry, inputs: jax.Array, lengths: jax.Array | None, time: int
    ) -> tuple[Carry, Output]:
        """Scans the cell; with lengths, the carry returned is that after the last."""
        options: dict[str, Any] = {
            "variable_axes": self.variable_axes,
            "variable_broadcast": self.variable_broadcast,
            "variable_carry": self.variable_carry,
            "split_rngs": self.split_rngs,
            "out_axes": time,
            "unroll": self.unroll,
        }
        if lengths is None:
            return scan(_step, in_axes=time, **options)(self.cell, carry, inputs)

        # The carry at the last element is kept beside the one that goes on, which the
        # outputs of the padding need; keeping all carries would take more memory.
        def step(cell: Any, carries: Any, x: Any, i: Any) -> Any:
            carry, last = carries
            carry, y = cell(carry, x)
            going = i < lengths

            def keep(new: Array, old: Array) -> Array:
                mask = going.reshape(going.shape + (1,) * (new.ndim - going.ndim))
                return jnp.where(mask, new, old)

            return (carry, jax.tree.map(keep, carry, last)), y

        steps = jnp.arange(inputs.shape[time])
        (_, carry), outputs = scan(step, in_axes=(time, 0), **options)(
            self.cell, (carry, carry), inputs, steps
        )
        return carry, outputs


def _step(cell: Any, carry: Carry, x: jax.Array) -> tuple[Carry, Output]:
    return cell(carry, x)


def _given(value: bool | None, default: bool) -> bool:
    return default if value is None else value
