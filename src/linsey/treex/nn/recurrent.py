"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar
from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.errors.treex import MissingVariableError
from linsey.linen.initializers import orthogonal, zeros
from linsey.treex.key_seq import KeySeq
from linsey.treex.module import Module, next_key
from linsey.treex.nn.flax_module import layer
from linsey.treex.nn.linear import default_kernel_init
from linsey.treex.treeo import node, static
from linsey.treex.types import Cache, Parameter
from linsey.typing import Dtype, Initializer, Shape

_orthogonal = orthogonal()


def default_recurrent_init(
    key: jax.Array, shape: Shape, dtype: Dtype = jnp.float32
) -> jax.Array:
    """Return an orthogonal kernel; this function can be pickled, unlike JAX's."""
    return _orthogonal(key, shape, dtype)


class GRUCell(linen.GRUCell):
    """The Linen cell, with a first state of given batch axes and size."""

    @staticmethod
    def initialize_carry(  # type: ignore[override]
        rng: Any, batch_dims: Sequence[int], size: int, init_fn: Initializer = zeros
    ) -> jax.Array:
        """Return the first state, of shape (*batch_dims, size)."""
        return init_fn(rng, (*batch_dims, size), jnp.float32)


@layer
class GRU(Module):
    """Runs a gated recurrent unit, `linsey.linen.GRUCell`, over a sequence.

    Args:
        units: number of features of the state.
        gate_fn: nonlinearity of the gates.
        activation_fn: nonlinearity of the candidate.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of the state.
        bias_init: initializer of the biases.
        initial_state_init: initializer of the first state.
        return_sequences: whether to return the states of all time steps.
        return_state: whether to return the last state; if `return_sequences` is set,
            after all states.
        go_backwards: whether to process the sequence from its end.
        stateful: whether each call continues from the last state of the previous call.
        time_axis: the time axis.
        unroll: number of steps in one iteration of the compiled loop.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.ones((2, 7, 3))  # (batch, time, channels)
        >>> tx.nn.GRU(4, return_sequences=True).init(42, x)(x).shape
        (2, 7, 4)
    """

    units: InitVar[int]
    _: KW_ONLY
    gate_fn: Callable[..., Any] = jax.nn.sigmoid
    activation_fn: Callable[..., Any] = jax.lax.tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_init
    bias_init: Initializer = zeros
    initial_state_init: Initializer = zeros
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    time_axis: int | tuple[int] = -2
    unroll: int = 1
    hidden_units: int = static(init=False)
    params: Any = Parameter.node(default=None, init=False)
    last_state: Any = Cache.node(default=None, init=False)
    next_key: KeySeq = node(default_factory=KeySeq, init=False)

    def __post_init__(self, units: int) -> None:
        self.hidden_units = units
        if isinstance(self.time_axis, int):
            self.time_axis = (self.time_axis,)

    @property
    def module(self) -> GRUCell:
        """The Linen cell."""
        return GRUCell(
            features=self.hidden_units,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            kernel_init=self.kernel_init,
            recurrent_kernel_init=self.recurrent_kernel_init,
            bias_init=self.bias_init,
        )

    def initialize_state(self, batch_dims: int | Sequence[int]) -> jax.Array:
        """Return a first state, of shape (*batch_dims, units)."""
        if isinstance(batch_dims, int):
            batch_dims = (batch_dims,)
        return self.module.initialize_carry(
            self.next_key(), batch_dims, self.hidden_units, self.initial_state_init
        )

    def __call__(self, x: jax.Array, initial_state: jax.Array | None = None) -> Any:
        """Run over a sequence.

        Args:
            x: inputs of shape (..., time, channels), with time on `time_axis`.
            initial_state: the first state, of shape (..., units). Defaults to the
                last state if the layer is stateful, otherwise to a new one.

        Returns:
            The last state. If `return_sequences` is set, the states of all time steps,
            in the order of processing; if `return_state` is set as well, both.

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        assert isinstance(self.time_axis, tuple)
        (axis,) = self.time_axis
        x = jnp.swapaxes(x, axis, 0)  # (time, ..., channels)
        initializing = self.initializing()
        if initial_state is None:
            initial_state = self.initialize_state(x.shape[1:-1])
            if self.stateful and self.last_state is not None:
                initial_state = self.last_state
        if initializing:
            variables = self.module.init(next_key(), initial_state, x[0])
            self.params = variables["params"]
        if self.params is None:
            raise MissingVariableError(self, ["params"])
        cell, variables = self.module, {"params": self.params}

        def step(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            return cell.apply(variables, state, inputs)

        if self.go_backwards:
            x = x[::-1]
        state, sequence = jax.lax.scan(step, initial_state, x, unroll=self.unroll)
        if self.stateful and not initializing:
            self.last_state = state
        if not self.return_sequences:
            return state
        sequence = jnp.swapaxes(sequence, 0, axis)
        return (sequence, state) if self.return_state else sequence
