"""Modules made of other modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from linsey.errors.base import OptionError
from linsey.linen.module import Module, compact


class Sequential(Module):
    """Call layers one after the other, each with the result of the previous one.

    If the result is a tuple, it becomes the positional arguments of the next layer; if
    it is a dict, the keyword arguments; anything else is the only argument. Layers may
    be modules or any other callables.

    Attributes:
        layers: the callables, in order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        >>> {name: layer["kernel"].shape for name, layer in params.items()}
        {'layers_0': (3, 4), 'layers_2': (4, 2)}
    """

    layers: Sequence[Callable[..., Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Sequence):
            found = type(self.layers).__name__
            raise _no_layers(f"'layers' must be a sequence, got '{found}'.")
        super().__post_init__()

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the first layer with the arguments; return the result of the last one.

        Raises:
            OptionError: there are no layers.
        """
        if not self.layers:
            raise _no_layers(f"Empty Sequential module {self.name}.")
        outputs = self.layers[0](*args, **kwargs)
        for layer in self.layers[1:]:
            if isinstance(outputs, tuple):
                outputs = layer(*outputs)
            elif isinstance(outputs, dict):
                outputs = layer(**outputs)
            else:
                outputs = layer(outputs)
        return outputs


def _no_layers(found: str) -> OptionError:
    return OptionError(
        found,
        "Its layers are called one after the other, the first with the input.",
        "Write `Sequential([Dense(32), relu, Dense(10)])`.",
    )
