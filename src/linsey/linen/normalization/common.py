"""What normalization layers share: their parameters, axes and checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from linsey.errors import UnboundAxisNameError
from linsey.errors.layers import AxisOutOfRangeError
from linsey.ops.broadcast import canonical_axes
from linsey.ops.named_axes import Names, as_names

Affine = tuple[Array | None, Array | None]


def as_array(x: Any) -> Array:
    """Converts what is no JAX array yet."""
    return x if isinstance(x, Array) else jnp.asarray(x)


def layer_axes(
    module: Any, axes: int | Iterable[int], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Counts axes from the front, each once, in ascending order.

    Raises:
        AxisOutOfRangeError: the input of the layer has no such axis.
    """
    rank = len(shape)
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in listed:
        if not -rank <= axis < rank:
            raise AxisOutOfRangeError(type(module).__name__, axis, shape)
    return canonical_axes(listed, rank)


def scale_and_bias(module: Any, shape: tuple[int, ...]) -> Affine:
    """Declares the parameters of a normalization layer.

    Args:
        module: the layer, with the fields `use_scale`, `scale_init`, `param_dtype`, and
            `use_bias` and `bias_init` if it knows a bias.
        shape: shape of the parameters.

    Returns:
        Scale and bias, none where there is none.
    """
    scale = bias = None
    if module.use_scale:
        scale = module.param("scale", module.scale_init, shape, module.param_dtype)
    if getattr(module, "use_bias", False):
        bias = module.param("bias", module.bias_init, shape, module.param_dtype)
    return scale, bias


def bound_names(module: Any) -> Names:
    """Lists the mapped axes that a layer takes its moments over.

    Raises:
        UnboundAxisNameError: a name is bound by no transform around the call.
    """
    names = as_names(module.axis_name)
    for name in names:
        try:
            lax.axis_size(name)
        except NameError:
            # There is no public way to list them.
            from jax._src.core import get_axis_env

            bound = tuple(get_axis_env().axis_names())
            raise UnboundAxisNameError(
                name, bound=bound, scope_path=path_text(module), module=module
            ) from None
    return names


def path_text(module: Any) -> str:
    """Writes where a module stands, for messages."""
    return "/" + "/".join(module.path)


def is_traced(value: object) -> bool:
    """Says whether a value is unknown while Python runs."""
    return isinstance(value, jax.core.Tracer)
