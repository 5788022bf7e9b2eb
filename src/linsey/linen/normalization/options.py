"""What `BatchNorm` can do beyond the paper: its options, checked and carried out.

Each option is a field whose default means "as Flax does".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from linsey.errors import norms
from linsey.linen.normalization.common import Affine, is_traced, path_text
from linsey.ops.batch_norm import Rule
from linsey.ops.normalize import result_dtype

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu")
FROZEN = (False, True, "statistics", "affine")
NONFINITE = ("skip", "propagate", "error")


def update_rule(layer: Any, channels: tuple[int, ...]) -> Rule:
    """Says how the running averages of a layer follow the batches.

    Raises:
        NormOptionError: an option has no such value, or excludes another.
    """
    size = layer.group_size
    _check("nonfinite", layer.nonfinite, NONFINITE)
    if size is not None:
        _check_group_size(layer, size, channels)
    return Rule(size, layer.unbiased_variance, layer.nonfinite != "skip")


def is_frozen(layer: Any, part: str) -> bool:
    """Says whether a part of a layer is frozen, `statistics` or `affine`.

    Raises:
        NormOptionError: the option has no such value.
    """
    if layer.frozen is False:
        return False
    _check("frozen", layer.frozen, FROZEN)
    return layer.frozen in (True, part)


def _check(option: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise norms.NormOptionError(
            f"`{option}` is {value!r}.",
            "It has no such value.",
            f"Give one of {', '.join(map(repr, known))}.",
        )


def _check_group_size(layer: Any, size: int, channels: tuple[int, ...]) -> None:
    if size < 1:
        raise norms.NormOptionError(
            f"`group_size` is {size}.",
            "It is the number of examples that are normalized together.",
            "Give a number of examples, for example 32.",
        )
    if 0 in channels:
        raise norms.NormOptionError(
            "`group_size` is set, and the first axis is one of the channels.",
            "Groups are made of examples, which the first axis has to count.",
            "Move the examples to the first axis, or leave `group_size` out.",
        )
    if layer.axis_index_groups is not None:
        raise norms.NormOptionError(
            "Both `group_size` and `axis_index_groups` are set.",
            "Each says which examples are normalized together.",
            "Give one of them.",
        )


def join_affine(
    layer: Any, own: Affine, given: tuple[Any, Any], shape: tuple[int, ...]
) -> tuple[Affine, Affine | None]:
    """Puts a scale and bias given to a call in the place of parameters.

    Args:
        layer: the layer.
        own: its parameters.
        given: the arguments of the call.
        shape: shape of the channels.

    Returns:
        Scale and bias per channel; and a pair to apply afterwards instead, if one of
        them has another shape, which broadcasts to that of the inputs.

    Raises:
        ExternalAffineError: one of them is given, and a parameter too.
    """
    joined: list[Any] = []
    for name, mine, theirs in zip(("scale", "bias"), own, given, strict=True):
        if mine is not None and theirs is not None:
            raise norms.ExternalAffineError(name, path_text(layer), module=layer)
        joined.append(mine if theirs is None else jnp.asarray(theirs))
    scale, bias = joined
    if all(value is None or value.shape == shape for value in joined):
        return (scale, bias), None
    return (None, None), (scale, bias)


def apply_affine(
    y: Array, affine: Affine, channels: tuple[int, ...], dtype: Any
) -> Array:
    """Scales and shifts by values per channel, or of a shape that broadcasts to `y`."""
    dtype = result_dtype(y, *affine, dtype)
    shape = tuple(y.shape[axis] for axis in channels)
    aligned = [size if axis in channels else 1 for axis, size in enumerate(y.shape)]
    scale, bias = (
        value.reshape(aligned) if value is not None and value.shape == shape else value
        for value in affine
    )
    if scale is not None:
        y = y * scale
    if bias is not None:
        y = y + bias
    return y.astype(dtype)


def find_activation(layer: Any) -> Callable[[Array], Array] | None:
    """Finds the activation of a layer by its name.

    Raises:
        NormOptionError: there is none of that name.
    """
    if layer.activation is None or callable(layer.activation):
        return layer.activation
    _check("activation", layer.activation, ACTIVATIONS)
    return getattr(jax.nn, layer.activation)


def check_recomputable(layer: Any, masked: bool, late: bool) -> None:
    """Refuses to defer what one multiplication and addition does not give again.

    Raises:
        NormOptionError: it does not.
    """
    reasons = {
        "a `mask`": masked,
        "`group_size`": layer.group_size is not None,
        "a scale or bias that differs between examples": late,
    }
    for what, present in reasons.items():
        if present:
            raise norms.NormOptionError(
                f"`save_memory` is set together with {what}.",
                "The backward pass computes the output again from the input and four "
                "values per channel, which do not determine it then.",
                "Leave one of them out, or put `nn.remat` around the block.",
            )


def check_finite(layer: Any, averages: tuple[Array, ...]) -> None:
    """Raises at once, or, where values are traced, when the program runs.

    Raises:
        NonFiniteBatchError: an average is not finite.
    """
    path, name = path_text(layer), type(layer).__name__

    def check(*averages: Any) -> None:
        finite = np.all([np.isfinite(value) for value in averages], axis=0)
        if not finite.all():
            raise norms.NonFiniteBatchError(path, int((~finite).sum()), module=name)

    if any(map(is_traced, averages)):
        jax.debug.callback(check, *averages)
    else:
        check(*averages)
