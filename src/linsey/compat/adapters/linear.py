"""Private names of `flax.linen.linear`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from jax import Array, lax

from linsey.linen.linear.conv import Conv as _ConvLayer
from linsey.linen.linear.conv import ConvLocal as _ConvLocal
from linsey.linen.linear.conv import _Conv as _Fields
from linsey.linen.module import compact
from linsey.ops.axes import canonical_axes


def conv_dimension_numbers(input_shape: Sequence[int]) -> lax.ConvDimensionNumbers:
    """Return the dimension numbers of a convolution whose channels come last."""
    rank = len(input_shape)
    inputs = (0, rank - 1, *range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return lax.ConvDimensionNumbers(inputs, kernel, inputs)


def canonicalize_tuple(x: Sequence[int] | int) -> tuple[int, ...]:
    """Return a number as a tuple of length one."""
    return (x,) if isinstance(x, int) else tuple(x)


def normalize_axes(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Count axes from the front, in ascending order."""
    return canonical_axes(axes, ndim)


class _AnyConv(type(_Fields)):
    """Metaclass that counts linsey's layers as instances and subclasses of `_Conv`."""

    def __instancecheck__(cls, instance: object) -> bool:
        return cls.__subclasscheck__(type(instance))

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls.__dict__.get("is_base", False):
            return issubclass(subclass, _Fields)
        return super().__subclasscheck__(subclass)


class Conv(_Fields, metaclass=_AnyConv):
    """The base of `Conv` and `ConvLocal`; `shared_weights` tells them apart."""

    is_base = True
    _convolve = _ConvLayer._convolve

    @property
    def shared_weights(self) -> bool:
        """Whether one kernel is used for the whole output."""
        return True

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Convolve `inputs` of shape (*batch, *spatial, channels)."""
        layer = _ConvLayer if self.shared_weights else _ConvLocal
        return inspect.unwrap(layer.__call__)(self, inputs)


Conv.__name__ = Conv.__qualname__ = "_Conv"
