"""The common fields of all architectures, and the layers they are made of.

Convolutions and pools pad both ends equally, as in PyTorch: `"SAME"` would put the odd
row of a strided layer at the other end, and pretrained weights would see images shifted
by a pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
from linsey.errors import OptionError, ShapeError
from linsey.linen.initializers import variance_scaling, zeros
from linsey.models.batch_norm import BatchNormOptions
from linsey.typing import Dtype, Initializer

Activation = Callable[[Array], Array]

fan_out_normal: Initializer = variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, with the variance that preserves the magnitude of gradients."""
fan_in_uniform: Initializer = variance_scaling(1 / 3, "fan_in", "uniform")
"""The initializer of kernels in `torch.nn.Linear`."""


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """How the layers of a network are made.

    Attributes:
        batch_norm: options of batch normalization.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
        conv_init: initializer of the kernels of convolutions.
    """

    batch_norm: BatchNormOptions = BatchNormOptions()
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    conv_init: Initializer = fan_out_normal

    def conv(
        self,
        features: int,
        size: int,
        name: str,
        *,
        strides: int = 1,
        groups: int = 1,
        use_bias: bool = False,
    ) -> nn.Conv:
        """Make a convolution with a square window and the same padding at both ends."""
        ends = ((size - 1) // 2, (size - 1) // 2)
        return nn.Conv(
            features, (size, size), (strides, strides), (ends, ends),
            feature_group_count=groups, use_bias=use_bias, kernel_init=self.conv_init,
            dtype=self.dtype, param_dtype=self.param_dtype, name=name,
        )  # fmt: skip

    def dense(
        self,
        features: int,
        name: str,
        *,
        kernel_init: Initializer = fan_in_uniform,
        bias_init: Initializer = zeros,
    ) -> nn.Dense:
        """Make a linear layer."""
        return nn.Dense(
            features, kernel_init=kernel_init, bias_init=bias_init, name=name,
            dtype=self.dtype, param_dtype=self.param_dtype,
        )  # fmt: skip

    def normalize(
        self, x: Array, train: bool, name: str, activation: Activation | None = None
    ) -> Array:
        """Normalize by the batch, then apply an activation."""
        # A layer that saves memory has to know the activation after it. Otherwise its
        # output is that of the PyTorch layer of the same name.
        inside = activation if self.batch_norm.save_memory else None
        options = {
            field.name: getattr(self.batch_norm, field.name)
            for field in dataclasses.fields(self.batch_norm)
        }
        layer = nn.BatchNorm(
            not train, activation=inside, dtype=self.dtype,
            param_dtype=self.param_dtype, name=name, **options,
        )  # fmt: skip
        y = layer(x)
        return y if activation is None or inside is not None else activation(y)


class Architecture(nn.Module):
    """A classifier of images for which pretrained weights exist.

    It is called with images (batch, height, width, channels) and `train`, and returns
    logits (batch, num_classes).

    Attributes:
        num_classes: number of logits.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """

    num_classes: int = 1000
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def __call__(self, x: Array, train: bool = False) -> Array:
        """Compute logits.

        Args:
            x: images (batch, height, width, channels).
            train: whether batch statistics are used and updated, and units dropped.

        Returns:
            Logits (batch, num_classes).
        """
        raise NotImplementedError

    @nn.nowrap
    def check_images(self, shape: tuple[int, ...]) -> None:
        """Check that the network can take images of this shape.

        Args:
            shape: (batch, height, width, channels), with or without the batch.

        Raises:
            ShapeError: the network cannot take such images.
        """
        if len(shape) not in (3, 4):
            raise ShapeError(
                f"Inputs of shape {tuple(shape)} were passed.",
                "Images are of shape (batch, height, width, channels).",
                "For a single image write `model(x[None])`.",
            )

    @nn.nowrap
    def torch_names(self, library: str = "torchvision") -> dict[str, str]:
        """Return a library's names for the parts that it calls differently.

        Args:
            library: `torchvision` or `timm`.

        Returns:
            Names in a state dict, by the path of a module or an array without the
            collection. Everything that is not below one of these paths is named by the
            rule in `linsey.models.torch_name`.

        Raises:
            OptionError: the library is another one.
        """
        tables: Mapping[str, Callable[[], dict[str, str]]] = {
            "torchvision": self._torchvision_names,
            "timm": self._timm_names,
        }
        if library not in tables:
            raise OptionError(
                f"Names of the library {library!r} were asked for.",
                "The tables are those of `torchvision` and of `timm`.",
                'Write `model.torch_names("timm")`.',
            )
        return tables[library]()

    @nn.nowrap
    def _torchvision_names(self) -> dict[str, str]:
        return {}

    @nn.nowrap
    def _timm_names(self) -> dict[str, str]:
        return self._torchvision_names()


class NormalizedArchitecture(Architecture):
    """An architecture of convolutions with batch normalization.

    Attributes:
        batch_norm: options of batch normalization.
    """

    batch_norm: BatchNormOptions = BatchNormOptions()

    @property
    def layer_options(self) -> LayerOptions:
        """The options of the layers."""
        return LayerOptions(self.batch_norm, self.dtype, self.param_dtype)


def average(x: Array) -> Array:
    """Average over the image: (batch, height, width, channels) to (batch, channels)."""
    return jnp.mean(x, axis=(1, 2))


def max_pool(x: Array) -> Array:
    """Take the largest value of 3 x 3 windows, with a stride of two."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def drop_path(rate: float, train: bool) -> nn.Dropout:
    """Make a layer that drops the whole branch of an example (stochastic depth).

    References:
        Huang et al. 2016, https://arxiv.org/abs/1603.09382
    """
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)


class SqueezeExcite(nn.Module):
    """Scale channels by a gate that sees the whole image.

        y = x * gate(fc2(activation(fc1(mean(x)))))

    Attributes:
        squeezed: number of units between the two layers.
        activation: activation after the first layer.
        gate: activation after the second layer, with values in [0, 1].
        layers: how the layers are made.

    References:
        Hu et al. 2018, https://arxiv.org/abs/1709.01507
    """

    squeezed: int
    activation: Activation
    gate: Activation
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Scale the channels of `x`, (batch, height, width, channels)."""
        make = self.layers.conv
        y = jnp.mean(x, axis=(1, 2), keepdims=True)  # (batch, 1, 1, channels)
        y = self.activation(make(self.squeezed, 1, "fc1", use_bias=True)(y))
        y = make(x.shape[-1], 1, "fc2", use_bias=True)(y)
        return x * self.gate(y)  # (batch, height, width, channels)


def divisible(size: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of `divisor`, down by a tenth at most.

    Example:
        >>> divisible(18), divisible(60), divisible(4)
        (24, 64, 8)
    """
    rounded = max(divisor, int(size + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * size else rounded
