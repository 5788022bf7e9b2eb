"""Modules made of other modules, and functions as modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.errors.base import OptionError
from linsey.linen.initializers import zeros
from linsey.treex.module import Module
from linsey.treex.nn.flax_module import layer, to_linen
from linsey.treex.nn.linear import Linear, default_kernel_init
from linsey.treex.treeo import compact, node, static
from linsey.typing import Dtype, Initializer, PrecisionLike


@layer
class Lambda(Module):
    """A function as a module.

    Args:
        f: a function of one argument.

    Example:
        >>> import linsey.treex as tx
        >>> tx.Lambda(abs)(-1)
        1
    """

    f: Callable[..., Any] = static()

    def __call__(self, x: Any) -> Any:
        """Call the function."""
        return self.f(x)


class Sequential(Module):
    """Calls layers one after another.

    Args:
        *layers: modules, and functions, which become `Lambda`s.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.ones((1, 2))
        >>> model = tx.Sequential(tx.Linear(4), jax.nn.relu, tx.Linear(3)).init(42, x)
        >>> model(x).shape
        (1, 3)
    """

    layers: list[Any] = node()

    def __init__(self, *layers: Callable[..., Any]) -> None:
        self.layers = [
            inner if isinstance(inner, Module) else Lambda(inner) for inner in layers
        ]

    def __call__(self, x: Any) -> Any:
        """Pass `x` through all layers."""
        for inner in self.layers:
            x = inner(x)
        return x

    def to_linen(self) -> tuple[linen.Module, dict[str, Any]]:
        """Return the equivalent Linen module, and variables that share arrays.

        Raises:
            ArgumentTypeError: a layer has no Linen equivalent.
        """
        layers: list[Any] = []
        variables: dict[str, dict[str, Any]] = {}
        for i, inner in enumerate(self.layers):
            if isinstance(inner, Lambda):
                layers.append(inner.f)
                continue
            module, own = to_linen(inner)
            layers.append(module)
            for collection, values in own.items():
                variables.setdefault(collection, {})[f"layers_{i}"] = values
        return linen.Sequential(layers), variables


def sequence(*layers: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a function that calls the given functions one after another.

    Example:
        >>> sequence(abs, float)(-2)
        2.0
    """

    def call(x: Any) -> Any:
        for f in layers:
            x = f(x)
        return x

    return call


@layer
class MLP(Module):
    """Linear layers with a nonlinearity between them.

    Args:
        features: number of output features of each layer.
        activation: the nonlinearity, applied after every layer except the last.
        use_bias: whether the layers have biases.
        dtype: dtype of the computation.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels.
        bias_init: initializer of the biases.

    Raises:
        OptionError: there are no layers.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> model = tx.MLP([8, 3]).init(42, jnp.ones((1, 2)))
        >>> model.linear.kernel.shape, model.linear2.kernel.shape
        ((2, 8), (8, 3))
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        if len(self.features) == 0:
            raise OptionError(
                "`MLP` was given no features.",
                "It has a layer for each number of features.",
                "Give it at least one: MLP([hidden, out]).",
            )

    @compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `x` of shape (..., channels) to shape (..., features[-1])."""
        for i, features in enumerate(self.features):
            linear = Linear(
                features,
                use_bias=self.use_bias,
                dtype=self.dtype,
                precision=self.precision,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
            )
            x = linear(x)
            if i < len(self.features) - 1:
                x = self.activation(x)
        return x


class Flatten(Module):
    """Merges all axes except the first.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> tx.Flatten()(jnp.ones((5, 2, 3))).shape
        (5, 6)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reshape `x` of shape (batch, ...) to (batch, features)."""
        return x.reshape(x.shape[0], -1)
