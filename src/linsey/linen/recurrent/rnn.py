"""Layers that scan a cell over a sequence, in one direction or in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict
from linsey.errors import ShapeError
from linsey.errors.layers import InputRankError
from linsey.linen.module import Module, nowrap
from linsey.linen.recurrent.cells import Carry, Output, RNNCellBase
from linsey.linen.transforms import scan
from linsey.ops import axes as ops_axes
from linsey.ops import deferred, sharding
from linsey.ops.sequences import flip_sequences
from linsey.promotion import promote, promote_types
from linsey.typing import InOutScanAxis, PRNGKey, Shape


class RNN(Module):
    """Scan a recurrent cell over the time axis of its inputs.

        carry_t, y_t = cell(carry_{t-1}, x_t)

    Time is the axis after the batch axes or, with `time_major`, the first axis. The
    options from `time_major` to `keep_order` can be given in the call instead.

    Attributes:
        cell: the cell.
        time_major: whether time is the first axis.
        return_carry: whether to return the last carry with the outputs.
        reverse: whether to go from the last element to the first; if lengths are given,
            from the last element that is not padding.
        keep_order: whether, with `reverse`, the outputs are in the order of the inputs
            instead of the order of the steps.
        unroll: number of steps in one iteration of the compiled loop.
        variable_axes: collections that have a slice for each step; see `scan`.
        variable_broadcast: collections that all steps share.
        variable_carry: collections passed from step to step.
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
    variable_broadcast: Filter = "params"
    variable_carry: Filter = False
    split_rngs: Mapping[Any, bool] = FrozenDict({"params": False})

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Carry | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Output | tuple[Carry, Output]:
        """Scan the cell over the inputs.

        Args:
            inputs: array of shape (*batch, time, *features), or with time first.
            initial_carry: the first carry. By default, the cell creates it.
            init_key: random key for the first carry.
            seq_lengths: number of elements of each sequence that are not padding, of
                shape (*batch,). They determine which carry is returned and where
                `reverse` begins; outputs are also computed for the padding.
            return_carry: see the class.
            time_major: see the class.
            reverse: see the class.
            keep_order: see the class.

        Returns:
            The outputs, of shape (*batch, time, ...) or with time first; with
            `return_carry`, the last carry and the outputs.

        Raises:
            InputRankError: the inputs have too few axes.
            ShapeError: there is not one length for each sequence.
        """
        inputs = deferred.resolve(inputs)
        return_carry = _given(return_carry, self.return_carry)
        time_major = _given(time_major, self.time_major)
        reverse = _given(reverse, self.reverse)
        keep_order = _given(keep_order, self.keep_order)
        shape = np.shape(inputs)
        batch_dims = len(shape) - self.cell.num_feature_axes - 1
        if batch_dims < 0:
            raise InputRankError("RNN", shape, "time, features")
        time = 0 if time_major else batch_dims
        if seq_lengths is not None:
            batch_shape = (*shape[:time], *shape[time + 1 :])[:batch_dims]
            _check_lengths(np.shape(seq_lengths), batch_shape)
        axes = sharding.split_axes(inputs)
        if axes[time]:  # time is sharded, but each device has to compute all steps
            whole = *axes[:time], None, *axes[time + 1 :]
            inputs = sharding.leave_to_compiler(lambda x: x, whole, inputs)
        order = seq_lengths, batch_dims, time_major
        if reverse:
            inputs = flip_sequences(inputs, *order)
        carry = initial_carry
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, shape[:time] + shape[time + 1 :])
        batch = (*axes[:time], *axes[time + 1 :])[:batch_dims]
        carry = sharding.begin_loop(carry, batch, inputs, self._used(seq_lengths))
        lengths = seq_lengths if return_carry else None
        carry, outputs = self._scan(carry, inputs, lengths, time)
        if reverse and keep_order:
            outputs = jax.tree.map(lambda y: flip_sequences(y, *order), outputs)
        return (carry, outputs) if return_carry else outputs

    @nowrap
    def _used(self, lengths: Array | None) -> object:
        """Return the values used by the cell that may vary inside `jax.shard_map`."""
        scope = self.cell.scope
        if jax.sharding.get_abstract_mesh().empty or scope is None:
            return None
        return lengths, self.cell.variables, scope.rngs

    @nowrap
    def _scan(
        self, carry: Carry, inputs: Array, lengths: Array | None, time: int
    ) -> tuple[Carry, Output]:
        """Scan the cell; return the carry after the last element of each sequence."""
        lift = partial(
            scan,
            variable_axes=self.variable_axes,
            variable_broadcast=self.variable_broadcast,
            variable_carry=self.variable_carry,
            split_rngs=self.split_rngs,
            out_axes=time,
            unroll=self.unroll,
        )
        if lengths is None:
            return lift(_step, in_axes=time)(self.cell, carry, inputs)
        lengths = jnp.asarray(lengths)

        # The carry after the last element is kept in addition to the current one, which
        # the outputs of the padding need. Keeping all carries would take more memory.
        @nowrap
        def step(
            cell: Any, carries: tuple[Carry, Carry], x: Array, i: Array
        ) -> tuple[tuple[Carry, Carry], Output]:
            carry, last = carries
            carry, y = _step(cell, carry, x)
            keep = partial(_keep, i < lengths)
            return (carry, jax.tree.map(keep, carry, last)), y

        steps = jnp.arange(inputs.shape[time], dtype=lengths.dtype)
        (_, carry), outputs = lift(step, in_axes=(time, 0))(
            self.cell, (carry, carry), inputs, steps
        )
        return carry, outputs


@nowrap
def _step(cell: Any, carry: Carry, x: Array) -> tuple[Carry, Output]:
    new, y = cell(carry, x)
    if jax.tree.structure(new) == jax.tree.structure(carry):  # `scan` raises otherwise
        new = jax.tree.map(_as_before, new, carry)
    return new, y


def _as_before(new: Array, old: Array) -> Array:
    """Convert a new carry to the dtype and the sharding of the previous one."""
    if not isinstance(new, Array) or new.shape != old.shape:
        return new
    dtype = old.dtype
    if new.dtype != dtype and promote_types(new.dtype, dtype) == new.dtype:
        keeps_parts = jnp.iscomplexobj(old) or not jnp.iscomplexobj(new)
        new = lax.convert_element_type(new, dtype) if keeps_parts else new
    return sharding.split_like(new, old)


def _keep(going: Array, new: Array, old: Array) -> Array:
    """Choose between the new and the old carry, for each sequence."""
    mask = going.reshape(going.shape + (1,) * (new.ndim - going.ndim))
    return lax.select(
        sharding.split_like(ops_axes.broadcast_all(mask, new.shape), new), new, old
    )


def _check_lengths(found: Shape, batch: Shape) -> None:
    """Raise an error if the shape of the lengths does not broadcast to the batch's."""
    pairs = zip(reversed(found), reversed(batch), strict=False)
    if len(found) > len(batch) or not all(n in (1, size) for n, size in pairs):
        raise ShapeError(
            f"`seq_lengths` of `RNN` has shape {found}, the batch has shape {batch}.",
            "They are the numbers of elements of each sequence that are not padding.",
            f"Pass one number for each sequence, an array of shape {batch}.",
        )


def _given(value: bool | None, default: bool) -> bool:
    return default if value is None else value


class RNNBase(Protocol):
    """The type of layers that are called like `RNN`."""

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Carry | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Output | tuple[Carry, Output]:
        """Run over the inputs; see `RNN`."""


def _concatenate(a: Array, b: Array) -> Array:
    """Concatenate the features of two outputs."""
    return lax.concatenate(promote(a, b), a.ndim - 1)


class Bidirectional(Module):
    """Run over the inputs in both directions and combine the outputs.

    Attributes:
        forward_rnn: the layer that runs forward.
        backward_rnn: the layer that runs backward.
        merge_fn: combines both outputs. By default, it concatenates their features.
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
        inputs: Array,
        *,
        initial_carry: tuple[Carry, Carry] | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Output | tuple[Carry, Output]:
        """Run over the inputs in both directions.

        Args:
            inputs: array of shape (*batch, time, *features), or with time first.
            initial_carry: the first carries, forward and backward.
            init_key: random key for the first carries.
            seq_lengths: number of elements of each sequence that are not padding.
            return_carry: whether to return the last carries with the outputs.
            time_major: whether time is the first axis.
            reverse: has no effect; accepted so that the signature is that of `RNN`.
            keep_order: has no effect; outputs are in the order of the inputs.

        Returns:
            The combined outputs; with `return_carry`, the pair of carries and the
            outputs.
        """
        return_carry = _given(return_carry, self.return_carry)
        time_major = _given(time_major, self.time_major)
        keys = None if init_key is None else jax.random.split(init_key)
        carries = (None, None) if initial_carry is None else initial_carry

        def run(rnn: RNNBase, which: int, **direction: bool) -> tuple[Carry, Output]:
            carry, outputs = rnn(
                inputs,
                initial_carry=carries[which],
                init_key=None if keys is None else keys[which],
                seq_lengths=seq_lengths,
                return_carry=True,
                time_major=time_major,
                **direction,
            )
            return carry, outputs

        forward_carry, forward = run(self.forward_rnn, 0, reverse=False)
        backward_carry, backward = run(
            self.backward_rnn, 1, reverse=True, keep_order=True
        )
        outputs = jax.tree.map(self.merge_fn, forward, backward)
        if return_carry:
            return (forward_carry, backward_carry), outputs
        return outputs
