"""Code that normalization layers share: parameters, axes and checks."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.errors import OptionError, UnboundAxisNameError
from linsey.errors.layers import AxisOutOfRangeError, InputRankError
from linsey.linen.module import Module
from linsey.ops.axes import Names, as_names, canonical_axes

Affine = tuple[Array | None, Array | None]


def as_array(layer: Module, x: ArrayLike | None) -> Array:
    """Convert a value to a JAX array if it is not one yet.

    Raises:
        InputRankError: the input of the layer is None.
    """
    if x is None:
        raise InputRankError(type(layer).__name__, (), "channels")
    return x if isinstance(x, Array) else jnp.asarray(x)


def layer_axes(
    layer: Module, axes: int | Iterable[int], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Count axes from the front, without duplicates, in ascending order.

    Raises:
        AxisOutOfRangeError: the input of the layer has no such axis.
    """
    rank = len(shape)
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in listed:
        if not -rank <= axis < rank:
            raise AxisOutOfRangeError(type(layer).__name__, axis, shape)
    return canonical_axes(listed, rank)


def scale_and_bias(layer: Module, shape: tuple[int, ...]) -> Affine:
    """Declare the parameters of a normalization layer.

    Args:
        layer: the layer, with the fields `use_scale`, `scale_init`, `param_dtype`, and
            `use_bias` and `bias_init` if it has a bias.
        shape: shape of the parameters.

    Returns:
        Scale and bias, each `None` if the layer does not have it.
    """
    scale = bias = None
    if layer.use_scale:
        scale = layer.param("scale", layer.scale_init, shape, layer.param_dtype)
    if getattr(layer, "use_bias", False):
        bias = layer.param("bias", layer.bias_init, shape, layer.param_dtype)
    return scale, bias


def bound_names(layer: Module) -> Names:
    """List the mapped axes over which a layer computes its moments.

    Raises:
        UnboundAxisNameError: no transform around the call binds one of the names.
    """
    names = as_names(layer.axis_name)
    for name in names:
        try:
            lax.axis_size(name)
        except NameError:
            # There is no public way to list the bound names.
            from jax._src.core import get_axis_env

            bound = tuple(get_axis_env().axis_names())
            raise UnboundAxisNameError(
                name, bound=bound, scope_path=path_text(layer), module=layer
            ) from None
    return names


def check_option(option: str, value: object, known: tuple[object, ...]) -> None:
    """Check that an option has one of its possible values.

    Raises:
        OptionError: it has another value.
    """
    if value not in known:
        raise OptionError(
            f"`{option}` is {value!r}.",
            "It has no such value.",
            f"Give one of {', '.join(map(repr, known))}.",
        )


def path_text(layer: Module) -> str:
    """Return the path of a module as text, for messages."""
    return "/" + "/".join(layer.path)


def is_traced(value: object) -> bool:
    """Return whether a value is traced, and so unknown while Python runs."""
    return isinstance(value, jax.core.Tracer)
