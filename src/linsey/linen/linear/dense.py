"""Dense layers: linear maps of chosen axes or by an einsum equation, and embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.core import meta
from linsey.errors.base import OptionError
from linsey.errors.layers import AxisOutOfRangeError, InputRankError, IntegerInputError
from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import lecun_normal, variance_scaling, zeros
from linsey.linen.module import Module, compact, merge_param, nowrap
from linsey.ops import dot
from linsey.ops.deferred import Deferred
from linsey.typing import DotGeneralT, Dtype, Initializer, PrecisionLike, Shape

__all__ = ["Dense", "DenseGeneral", "Einsum", "Embed"]

default_kernel_init: Initializer = lecun_normal()
default_embed_init: Initializer = variance_scaling(1.0, "fan_in", "normal", out_axis=0)


class Dense(Module):
    """Map the last axis linearly: `y = x @ kernel + bias`.

    Attributes:
        features: number of output features.
        use_bias: whether to add a bias.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape (channels, features).
        bias_init: initializer of `bias`, of shape (features,).
        promote_dtype: converts `(inputs, kernel, bias)` to a common dtype.
        dot_general: computes the product in place of `jax.lax.dot_general`.
        dot_general_cls: builds such a function, for example a module with state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> variables = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'kernel': (3, 4)}}
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtypeFn = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Callable[[], DotGeneralT] | None = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Map `inputs` of shape (..., channels) to shape (..., features).

        Raises:
            InputRankError: `inputs` is a scalar.
        """
        shape = np.shape(inputs)
        if not shape:
            raise InputRankError("Dense", shape, "channels")
        features = self.features
        kernel, bias = kernel_and_bias(self, (shape[-1], features), (features,))
        dot_general = choose_dot_general(self.dot_general, self.dot_general_cls)
        if isinstance(inputs, Deferred) and self.dot_general_cls is None:
            consumer = partial(self._map, dot_general=dot_general)
            return inputs.feed(consumer, kernel, bias)
        return self._map(inputs, kernel, bias, dot_general)

    @nowrap
    def _map(
        self, inputs: Array, kernel: Array, bias: Array | None, dot_general: DotGeneralT
    ) -> Array:
        operands = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return dot.dense(*operands, precision=self.precision, dot_general=dot_general)


class DenseGeneral(Module):
    """Map chosen axes linearly to one or more feature axes.

    Attributes:
        features: number of output features, or one for each feature axis.
        axis: the axes to contract; negative ones count from the end.
        batch_dims: leading axes along which each entry has its own kernel.
        use_bias: whether to add a bias.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of `kernel`. It is called with the shape
            (batch * contracted, features), for the correct fan-in, and the result is
            reshaped to (*batch, *contracted, *features).
        bias_init: initializer of `bias`, of shape (*batch, *features); it is called
            with the flat shape as well.
        precision: see `jax.lax.Precision`.
        promote_dtype: converts `(inputs, kernel, bias)` to a common dtype.
        dot_general: computes the product in place of `jax.lax.dot_general`.
        dot_general_cls: builds such a function, for example a module with state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.DenseGeneral(features=(4, 5), axis=(1, -1))
        >>> y, variables = layer.init_with_output(
        ...     jax.random.key(0), jnp.ones((1, 3, 6, 7))
        ... )
        >>> y.shape, variables["params"]["kernel"].shape
        ((1, 6, 4, 5), (3, 7, 4, 5))
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    batch_dims: Sequence[int] = ()
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    precision: PrecisionLike = None
    promote_dtype: PromoteDtypeFn = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Callable[[], DotGeneralT] | None = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Map `inputs` of any rank to shape (*batch, *remaining axes, *features).

        Raises:
            OptionError: `batch_dims` are not the leading axes.
            AxisOutOfRangeError: `inputs` has no such axis.
        """
        shape = np.shape(inputs)
        batch_axes = tuple(sorted(self.batch_dims))
        if batch_axes != tuple(range(len(batch_axes))):
            raise OptionError(
                f"batch_dims {tuple(self.batch_dims)} must be consecutive leading "
                "dimensions starting from 0.",
                "Each entry of a batch axis has a kernel of its own, and the result "
                "puts these axes first.",
                f"Write `batch_dims={tuple(range(len(batch_axes)))}` and move those "
                "axes of the input to the front with `jnp.moveaxis`.",
            )
        axes = sorted(_axis(axis, shape) for axis in as_tuple(self.axis))
        batch = tuple(shape[axis] for axis in batch_axes)
        contracted = tuple(shape[axis] for axis in axes)
        features = as_tuple(self.features)
        kernel = self._param("kernel", self.kernel_init, batch + contracted, features)
        bias = None
        if self.use_bias:
            bias = self._param("bias", self.bias_init, batch + features)
        operands = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return dot.dense_general(
            *operands,
            axes=axes,
            batch_axes=batch_axes,
            precision=self.precision,
            dot_general=choose_dot_general(self.dot_general, self.dot_general_cls),
        )

    @nowrap
    def _param(self, name: str, init: Initializer, *sides: tuple[int, ...]) -> Array:
        """Declare a parameter; it is initialized as a matrix, for the right fan-in."""
        flat, shape = tuple(map(math.prod, sides)), sum(sides, ())
        try:
            init_fn = _reshaped(init, flat)
        except TypeError:  # the initializer is not hashable
            init_fn = _reshaped.__wrapped__(init, flat)
        return self.param(name, init_fn, shape, self.param_dtype)


@lru_cache(maxsize=256)
def _reshaped(init: Initializer, flat: Shape) -> Initializer:
    """Return an initializer that uses a flat shape and reshapes the result."""

    @wraps(init, assigned=())
    def init_and_reshape(key: Array, shape: Shape, dtype: Dtype) -> Array:
        value = init(key, flat, dtype)
        return meta.replace_boxed(value, jnp.reshape(meta.unbox(value), shape))

    return init_and_reshape


class Einsum(Module):
    """Contract inputs with a kernel: `y = einsum(equation, x, kernel) + bias`.

    The bias has one axis for each axis of the kernel that appears in the output.

    Attributes:
        shape: shape of `kernel`.
        einsum_str: the equation 'input,kernel->output'; given here or in the call.
        use_bias: whether to add a bias.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`.
        bias_init: initializer of `bias`.
        promote_dtype: converts `(inputs, kernel, bias)` to a common dtype.
        preferred_element_type: dtype in which products are summed and returned.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Einsum((5, 6, 7), "abc,cde->abde")
        >>> variables = layer.init(jax.random.key(0), jnp.ones((3, 4, 5)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (6, 7), 'kernel': (5, 6, 7)}}
    """

    shape: Sequence[int]
    einsum_str: str | None = None
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtypeFn = promote_dtype
    preferred_element_type: Dtype | None = None

    @compact
    def __call__(self, inputs: Array, einsum_str: str | None = None) -> Array:
        """Contract `inputs` with the kernel.

        Args:
            inputs: the left operand.
            einsum_str: the equation, unless it was given to the constructor.

        Returns:
            The array that the equation describes, plus the bias.

        Raises:
            ValueError: the equation was given both here and to the constructor, or in
                neither place.
            OptionError: the equation lacks '->' or does not have two operands.
        """
        equation = merge_param("einsum_str", self.einsum_str, einsum_str)
        equation = equation.replace(" ", "")
        shape = tuple(self.shape)
        bias_axes = _bias_axes(equation, len(shape), np.ndim(inputs))
        bias_shape = tuple(shape[axis] for axis in bias_axes if axis is not None)
        kernel, bias = kernel_and_bias(self, shape, bias_shape)
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        dtype = self.preferred_element_type
        y = jnp.einsum(
            equation, x, kernel, precision=self.precision, preferred_element_type=dtype
        )
        if bias is None:
            return y
        broadcast = [1 if axis is None else shape[axis] for axis in bias_axes]
        return dot.add_bias(y, lax.reshape(bias, broadcast))


class Embed(Module):
    """Look up a vector for each integer: `y[...] = embedding[x[...]]`.

    A negative integer counts from the end of the table; an integer out of range gives
    NaN. If the table has a single row, that row is returned for every integer.

    Attributes:
        num_embeddings: number of rows of the table.
        features: length of a vector.
        dtype: dtype of the vectors. Defaults to that of the table.
        param_dtype: dtype of the table.
        embedding_init: initializer of `embedding`, of shape
            (num_embeddings, features).
        promote_dtype: converts the table, or `(query, embedding)`, to a common dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Embed(num_embeddings=5, features=3)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.arange(2))
        >>> y.shape, variables["params"]["embedding"].shape
        ((2, 3), (5, 3))
        >>> layer.apply(variables, y, method="attend").shape
        (2, 5)
    """

    num_embeddings: int
    features: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    embedding_init: Initializer = default_embed_init
    promote_dtype: PromoteDtypeFn = promote_dtype

    def setup(self) -> None:
        """Create the table."""
        init, shape = self.embedding_init, (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def __call__(self, inputs: Array) -> Array:
        """Look up `inputs`, integers of any shape.

        Returns:
            Vectors, of shape (*inputs.shape, features).

        Raises:
            IntegerInputError: `inputs` are not integers.
        """
        dtype = getattr(inputs, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            found = type(inputs).__name__ if dtype is None else dtype
            raise IntegerInputError(self.num_embeddings, found)
        # Convert the table rather than the result: Flax rounds there, and so the
        # gradients are rounded in the same way.
        (table,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        if self.num_embeddings == 1:
            row = lax.reshape(table, (self.features,))
            return lax.broadcast(row, inputs.shape)
        return dot.lookup(table, jnp.asarray(inputs))

    def attend(self, query: Array) -> Array:
        """Score `query`, of shape (..., features), against every row of the table.

        Often used to compute logits with the same table that embeds the inputs.

        Returns:
            Inner products, of shape (..., num_embeddings).
        """
        query, table = self.promote_dtype(query, self.embedding, dtype=self.dtype)
        return dot.attend(query, table)


def kernel_and_bias(
    layer: Module, kernel_shape: Shape, bias_shape: Shape
) -> tuple[Array, Array | None]:
    """Return the parameters of a linear layer; the bias may be `None`."""
    dtype = layer.param_dtype
    kernel = layer.param("kernel", layer.kernel_init, kernel_shape, dtype)
    if not layer.use_bias:
        return kernel, None
    return kernel, layer.param("bias", layer.bias_init, bias_shape, dtype)


def choose_dot_general(
    dot_general: DotGeneralT | None, dot_general_cls: Callable[[], DotGeneralT] | None
) -> DotGeneralT:
    """Return the function for products: built by the class, given, or that of `lax`."""
    if dot_general_cls is not None:
        return dot_general_cls()
    return lax.dot_general if dot_general is None else dot_general


def as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    """Return one number or several as a tuple."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _axis(axis: int, shape: Sequence[int]) -> int:
    rank = len(shape)
    if not -rank <= axis < rank:
        raise AxisOutOfRangeError("DenseGeneral", axis, shape)
    return axis % rank


@lru_cache
def _bias_axes(
    equation: str, kernel_rank: int, input_rank: int
) -> tuple[int | None, ...]:
    """Find, for each axis of the output, the kernel axis that it comes from, if any."""

    def misread(problem: str) -> OptionError:
        return OptionError(
            f"`einsum_str` equation {problem}: found '{equation}'.",
            "The left operand is the input and the right one is the kernel.",
            "Write it as 'input,kernel->output', for example 'abc,cde->abde'.",
        )

    if "->" not in equation:
        raise misread('must be explicit and include "->"')
    if (commas := equation.count(",")) != 1:
        raise misread(
            "must have exactly two operands and therefore, exactly one comma "
            f"character, instead of {commas}"
        )
    operands, output = equation.split("->")
    left, right = operands.split(",")
    covered = kernel_rank - _letters(right)
    if covered < 0 or (covered and "..." not in right):
        raise misread(
            f"names {_letters(right)} axes of the kernel, which has {kernel_rank}"
        )
    kernel = _labels(right, covered)
    covered = max(covered, input_rank - _letters(left))
    labels = _labels(output, covered)
    return tuple(kernel.index(label) if label in kernel else None for label in labels)


def _letters(term: str) -> int:
    return len(term.replace("...", ""))


def _labels(term: str, covered: int) -> list[str | int]:
    """Return labels for the axes of a term; those of `...` count from the last one."""
    before, dots, after = term.partition("...")
    return [*before, *(range(-covered, 0) if dots else ()), *after]
