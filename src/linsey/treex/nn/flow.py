"""Modules made of others, and functions as modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.errors.treex import NoLinenTwinError
from linsey.linen.initializers import zeros
from linsey.treex.module import Module
from linsey.treex.nn.linear import Linear, default_kernel_init
from linsey.treex.treeo import compact, node, static
from linsey.typing import Dtype, Initializer, PrecisionLike


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

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f

    def __call__(self, x: Any) -> Any:
        """Calls the function."""
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
            layer if isinstance(layer, Module) else Lambda(layer) for layer in layers
        ]

    def __call__(self, x: Any) -> Any:
        """Passes `x` through all layers."""
        for layer in self.layers:
            x = layer(x)
        return x

    def to_linen(self) -> tuple[linen.Module, dict[str, Any]]:
        """The same of Linen layers, with the arrays of these.

        Raises:
            NoLinenTwinError: a layer has no equivalent there.
        """
        layers: list[Any] = []
        variables: dict[str, dict[str, Any]] = {}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Lambda):
                layers.append(layer.f)
                continue
            if not hasattr(layer, "to_linen"):
                raise NoLinenTwinError(layer)
            module, own = layer.to_linen()
            layers.append(module)
            for collection, values in own.items():
                variables.setdefault(collection, {})[f"layers_{i}"] = values
        return linen.Sequential(layers), variables


def sequence(*layers: Callable[..., Any]) -> Callable[[Any], Any]:
    """One function that calls functions one after another.

    Example:
        >>> sequence(abs, float)(-2)
        2.0
    """

    def call(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return call


class MLP(Module):
    """Linear layers with a nonlinearity between them.

    Args:
        features: numbers of output features of the layers.
        activation: the nonlinearity, applied after all layers but the last.
        use_bias: whether the layers have biases.
        dtype: dtype of the computation.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels.
        bias_init: initializer of the biases.

    Raises:
        ValueError: there are no layers.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> model = tx.MLP([8, 3]).init(42, jnp.ones((1, 2)))
        >>> model.linear.kernel.shape, model.linear2.kernel.shape
        ((2, 8), (8, 3))
    """

    def __init__(
        self,
        features: Sequence[int],
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
        use_bias: bool = True,
        dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = zeros,
    ) -> None:
        if len(features) < 1:
            raise ValueError(
                "`MLP` was given no features. It needs a layer: MLP([hidden, out])."
            )
        self.features = features
        self.activation = activation
        self.use_bias = use_bias
        self.dtype = dtype
        self.precision = precision
        self.kernel_init = kernel_init
        self.bias_init = bias_init

    @compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` of shape (..., channels) to shape (..., features[-1])."""
        for i, features in enumerate(self.features):
            layer = Linear(
                features,
                use_bias=self.use_bias,
                dtype=self.dtype,
                precision=self.precision,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
            )
            x = layer(x)
            if i < len(self.features) - 1:
                x = self.activation(x)
        return x


class Flatten(Module):
    """Joins all axes but the first.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> tx.Flatten()(jnp.ones((5, 2, 3))).shape
        (5, 6)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reshapes `x` of shape (batch, ...) to (batch, features)."""
        return x.reshape(x.shape[0], -1)
