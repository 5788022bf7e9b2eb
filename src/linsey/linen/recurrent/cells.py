"""Recurrent cells, which compute one time step: simple, gated, and with a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.base import UnsupportedError
from linsey.linen.activation import sigmoid, tanh
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import ones, orthogonal, zeros
from linsey.linen.linear import Conv, Dense, default_kernel_init
from linsey.linen.linear import dense as linear
from linsey.linen.module import Module, compact, nowrap
from linsey.ops.dot import dense
from linsey.promotion import promote, promotes
from linsey.typing import Dtype, Initializer, PrecisionLike, PRNGKey

A = TypeVar("A")
Carry = object
"""The state that a cell passes to its next step: a pytree of arrays."""
CarryHistory = object
"""The carries of all steps, stacked: a pytree of arrays."""
Output = Array
"""The output of a cell for each step: an array, or a pytree in user-defined cells."""
Pair = tuple[Array, Array]
Activation = Callable[[Array], Array]

default_recurrent_kernel_init: Initializer = orthogonal()


class RNNCellBase(Module):
    """Base class of recurrent cells, which compute one time step.

    A cell has a method `__call__(carry, inputs) -> (carry, outputs)`, and

    - `initialize_carry(rng, input_shape)`, which returns the first carry for inputs of
      that shape (without the time axis),
    - `num_feature_axes`, the number of axes of the inputs after batch and time.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> class Sum(nn.RNNCellBase):
        ...     def __call__(self, carry, inputs):
        ...         return carry + inputs, carry + inputs
        ...
        ...     def initialize_carry(self, rng, input_shape):
        ...         return jnp.zeros(input_shape)
        ...
        ...     num_feature_axes = 1
        >>> nn.RNN(Sum()).apply({}, jnp.arange(4.0).reshape(1, 4, 1)).ravel().tolist()
        [0.0, 1.0, 3.0, 6.0]
    """

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Carry:
        """Return the first carry.

        Args:
            rng: random key.
            input_shape: shape of the inputs of one step, (*batch, *features).

        Returns:
            The carry.

        Raises:
            UnsupportedError: the cell does not define the method.
        """
        raise UnsupportedError(
            f"`{type(self).__name__}` does not define `initialize_carry`.",
            "The first step needs a carry, and its shape is that of the cell.",
            "Define `initialize_carry(self, rng, input_shape)` in the cell.",
        )

    @property
    def num_feature_axes(self) -> int:
        """Number of axes of the inputs after batch and time."""
        raise UnsupportedError(
            f"`{type(self).__name__}` does not say how many axes its inputs have after "
            "batch and time.",
            "The axis of time is found by counting from the last axis.",
            "Define it in the cell, for example `num_feature_axes = 1`.",
        )


class _DenseCell(RNNCellBase):
    """Base of cells made of dense maps; the first carry is that of a single state h."""

    @nowrap
    def _map(
        self, name: str, x: Array, features: int, bias_init: Initializer | None = None
    ) -> Array:
        """Map inputs (`i...`) or states (`h...`), with a bias if it has an initializer.

        Args:
            name: name of the map.
            x: array of shape (*batch, channels).
            features: number of features of the state.
            bias_init: initializer of the bias. If `None`, there is no bias.

        Returns:
            An array of shape (*batch, features).
        """
        of_inputs = name.startswith("i")
        return Dense(
            features,
            use_bias=bias_init is not None,
            kernel_init=self.kernel_init if of_inputs else self.recurrent_kernel_init,
            bias_init=bias_init or zeros,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Array:
        """Return the first h for inputs of shape (*batch, channels)."""
        shape = (*input_shape[:-1], self.features)
        return self.carry_init(rng, shape, self.param_dtype)

    num_feature_axes = 1  # the channels


def _size(h: Array) -> int:
    """Return the number of features of a carry, which may differ from the cell's."""
    return np.shape(h)[-1]


class _GatedCell(_DenseCell):
    """The fields of cells whose gates share their activation and initializers."""

    features: int
    gate_fn: Activation = sigmoid
    activation_fn: Activation = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros


# -- cells with one state ------------------------------------------------------------


class SimpleCell(_DenseCell):
    """The cell of a simple recurrent network.

        h' = activation(W_i x + b + W_h h)

    The carry is h and the output is h'. With `residual`, h is added before the
    activation.

    Attributes:
        features: number of features of the first h; a step reads it from its carry.
        activation_fn: the activation.
        kernel_init: initializer of the kernel of the inputs.
        recurrent_kernel_init: initializer of the kernel of h.
        bias_init: initializer of the bias.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.
        residual: whether to add h before the activation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.SimpleCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> jax.tree.map(jnp.shape, variables["params"])
        {'h': {'kernel': (4, 4)}, 'i': {'bias': (4,), 'kernel': (3, 4)}}

    References:
        Elman 1990, https://doi.org/10.1207/s15516709cog1402_1
    """

    features: int
    activation_fn: Activation = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros
    residual: bool = False

    @compact
    @promotes
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, as the carry and as the output.
        """
        h, size = carry, _size(carry)
        from_x = self._map("i", inputs, size, self.bias_init)
        new_h = from_x + self._map("h", h, size)
        if self.residual:
            new_h = new_h + h
        new_h = self.activation_fn(new_h)
        return new_h, new_h


class GRUCell(_GatedCell):
    """The cell of a gated recurrent unit (GRU).

        r = gate(W_ir x + b_r + W_hr h)    z = gate(W_iz x + b_z + W_hz h)
        n = activation(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    The carry is h and the output is h'.

    Attributes:
        features: number of features of the first h; a step reads it from its carry.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        bias_init: initializer of the biases.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.GRUCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> y.shape, sorted(variables["params"])
        ((2, 4), ['hn', 'hr', 'hz', 'in', 'ir', 'iz'])

    References:
        Cho et al. 2014, https://arxiv.org/abs/1406.1078
    """

    @compact
    @promotes
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, as the carry and as the output.
        """
        x, h, size, bias_init = inputs, carry, _size(carry), self.bias_init
        r = self.gate_fn(self._map("ir", x, size, bias_init) + self._map("hr", h, size))
        z = self.gate_fn(self._map("iz", x, size, bias_init) + self._map("hz", h, size))
        from_x = self._map("in", x, size, bias_init)
        n = self.activation_fn(from_x + r * self._map("hn", h, size, bias_init))
        new_h = (1.0 - z) * n + z * h
        return new_h, new_h


class MGUCell(_DenseCell):
    """The cell of a minimal gated unit: a gated recurrent unit with one gate.

        f = gate(W_if x + b_if + W_hf h)
        n = activation(W_in x + b_in + f (W_hn h + b_hn))
        h' = (1 - f) n + f h

    Without `reset_gate`, `n = activation(W_in x + b_in + W_hn h)`. The carry is h and
    the output is h'.

    Attributes:
        features: number of features of the first h; a step reads it from its carry.
        gate_fn: activation of the gate.
        activation_fn: activation of the candidate.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        forget_bias_init: initializer of the bias of the gate.
        activation_bias_init: initializer of the biases of the candidate.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.
        reset_gate: whether the gate scales the state in the candidate.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.MGUCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> y.shape, sorted(variables["params"])
        ((2, 4), ['hf', 'hn', 'if', 'in'])

    References:
        Zhou et al. 2016, https://arxiv.org/abs/1603.09420
    """

    features: int
    gate_fn: Activation = sigmoid
    activation_fn: Activation = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    forget_bias_init: Initializer = ones
    activation_bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros
    reset_gate: bool = True

    @compact
    @promotes
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, as the carry and as the output.
        """
        x, h, size, bias_init = inputs, carry, _size(carry), self.activation_bias_init
        from_x = self._map("if", x, size, self.forget_bias_init)
        f = self.gate_fn(from_x + self._map("hf", h, size))
        from_h = self._map("hn", h, size, bias_init if self.reset_gate else None)
        if self.reset_gate:
            from_h = from_h * f
        n = self.activation_fn(self._map("in", x, size, bias_init) + from_h)
        new_h = (1.0 - f) * n + f * h
        return new_h, new_h


# -- cells with a memory --------------------------------------------------------------


class _MemoryCell(RNNCellBase):
    """Base of cells with a memory c and an output h, which are the carry."""

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Pair:
        """Return the first c and h for inputs of shape (*batch, *spatial, channels)."""
        shape, dtype = (*input_shape[:-1], self.features), self.param_dtype
        c_key, h_key = jax.random.split(rng)
        c = self.carry_init(c_key, shape, dtype)
        return c, self.carry_init(h_key, shape, dtype)


def _remember(
    c: Array, gates: Iterable[Array], gate_fn: Activation, activation_fn: Activation
) -> tuple[Pair, Array]:
    """Compute a step from the memory and the four pre-activations of the gates."""
    i, f, g, o = gates
    new_c = gate_fn(f) * c + gate_fn(i) * activation_fn(g)
    new_h = gate_fn(o) * activation_fn(new_c)
    return (new_c, new_h), new_h


class _DenseMemoryCell(_MemoryCell, _GatedCell):
    """A memory cell with two dense maps for each gate."""

    @compact
    @promotes
    def __call__(self, carry: Pair, inputs: Array) -> tuple[Pair, Array]:
        """Take a step.

        Args:
            carry: c and h, each of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new carry, and the output of shape (*batch, features).
        """
        c, h = carry
        gates = self._gates(inputs, h)
        return _remember(c, gates, self.gate_fn, self.activation_fn)

    @nowrap
    def _gates(self, x: Array, h: Array) -> Sequence[Array]:
        """Return the pre-activations `W_i x + W_h h + b` of the gates i, f, g and o."""
        size, bias = _size(h), self.bias_init
        return [
            self._map("i" + g, x, size) + self._map("h" + g, h, size, bias)
            for g in "ifgo"
        ]


class LSTMCell(_DenseMemoryCell):
    r"""The cell of a long short-term memory (LSTM).

        i = gate(W_ii x + W_hi h + b_i)        f = gate(W_if x + W_hf h + b_f)
        g = activation(W_ig x + W_hg h + b_g)  o = gate(W_io x + W_ho h + b_o)
        c' = f c + i g                         h' = o activation(c')

    The carry is the pair (c, h) and the output is h'.

    Attributes:
        features: number of features of the first c and h; a step reads it from its h.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate and of the output.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        bias_init: initializer of the biases.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.LSTMCell(features=4)
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> variables = cell.init(key, carry, x)
        >>> (c, h), y = cell.apply(variables, carry, x)
        >>> c.shape, h.shape, bool((h == y).all())
        ((2, 4), (2, 4), True)

    References:
        Hochreiter, Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735
    """


class DenseParams(Module):
    """The parameters of a `Dense` layer, which are returned and not applied.

    Attributes:
        features: number of output features.
        use_bias: whether there is a bias.
        param_dtype: dtype of the parameters.
        precision: accepted as by `Dense`.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = DenseParams(4).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        >>> params["kernel"].shape, params["bias"].shape
        ((3, 4), (4,))
    """

    features: int
    use_bias: bool = True
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros

    @compact
    def __call__(self, inputs: Array) -> tuple[Array, Array | None]:
        """Return the kernel and bias for inputs of shape (..., channels)."""
        shape = (np.shape(inputs)[-1], self.features)
        return linear.kernel_and_bias(self, shape, (self.features,))


class OptimizedLSTMCell(_DenseMemoryCell):
    """The cell of a long short-term memory (LSTM) with two matrix products.

    It is the same as `LSTMCell`, including the parameters, but concatenates the kernels
    of the four gates before it applies them. This is faster on wide accelerators.

    Attributes:
        features: number of features of the first c and h; a step reads it from its h.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate and of the output.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        bias_init: initializer of the biases.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell, plain = nn.OptimizedLSTMCell(features=4), nn.LSTMCell(features=4)
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> variables = cell.init(key, carry, x)
        >>> _, y = cell.apply(variables, carry, x)
        >>> _, expected = plain.apply(variables, carry, x)
        >>> bool(jnp.allclose(y, expected))
        True
    """

    @nowrap
    def _gates(self, x: Array, h: Array) -> Sequence[Array]:
        """Return the pre-activations of the gates, from two concatenated maps."""
        size = _size(h)
        pairs = [
            (self._params("i" + g, x, size), self._params("h" + g, h, size))
            for g in "ifgo"
        ]
        of_x, of_h = zip(*pairs, strict=True)
        gates = self._sums(x, of_x) + self._sums(h, of_h)
        return lax.split(gates, (size,) * 4, axis=gates.ndim - 1)

    @nowrap
    def _params(
        self, name: str, inputs: Array, features: int
    ) -> tuple[Array, Array | None]:
        of_h = name.startswith("h")
        return DenseParams(
            features,
            use_bias=of_h,
            param_dtype=self.param_dtype,
            kernel_init=self.recurrent_kernel_init if of_h else self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )(inputs)

    @nowrap
    def _sums(self, x: Array, params: Iterable[tuple[Array, Array | None]]) -> Array:
        """Apply the concatenated kernels; return shape (*batch, 4 * features)."""
        kernels, biases = zip(*params, strict=True)
        kernel = lax.concatenate(promote(*kernels), 1)
        bias = None if biases[0] is None else lax.concatenate(promote(*biases), 0)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return dense(x, kernel, bias)


class ConvLSTMCell(_MemoryCell):
    """The cell of a convolutional long short-term memory (LSTM).

        i, g, f, o = split(W_i * x + W_h * h + b)
        c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    `*` is the convolution. The carry is the pair (c, h) and the output is h'.

    Attributes:
        features: number of features of c and h.
        kernel_size: size of the kernels, one for each spatial axis.
        strides: strides of the convolution of the inputs and of h. Defaults to 1.
        padding: see `Conv`.
        use_bias: whether to add biases.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((1, 5, 5, 3))
        >>> cell = nn.ConvLSTMCell(features=4, kernel_size=(3, 3))
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> ((c, h), y), variables = cell.init_with_output(key, carry, x)
        >>> y.shape, variables["params"]["ih"]["kernel"].shape
        ((1, 5, 5, 4), (3, 3, 3, 16))

    References:
        Shi et al. 2015, https://arxiv.org/abs/1506.04214
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros

    @compact
    @promotes
    def __call__(self, carry: Pair, inputs: Array) -> tuple[Pair, Array]:
        """Take a step.

        Args:
            carry: c and h, each of shape (*batch, *spatial, features).
            inputs: x of shape (*batch, *spatial, channels).

        Returns:
            The new carry, and the output of shape (*batch, *spatial, features).
        """
        c, h = carry
        gates = self._convolve("ih", inputs) + self._convolve("hh", h)
        i, g, f, o = lax.split(gates, (self.features,) * 4, axis=gates.ndim - 1)
        return _remember(c, (i, f + 1, g, o), sigmoid, tanh)

    @nowrap
    def _convolve(self, name: str, x: Array) -> Array:
        return Conv(
            features=4 * self.features,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)

    @property
    def num_feature_axes(self) -> int:
        """The number of spatial axes, plus one for the channels."""
        return len(self.kernel_size) + 1
