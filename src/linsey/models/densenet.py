"""DenseNet: every layer of a block sees the features of all layers before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
from linsey.errors import ShapeError
from linsey.linen.initializers import variance_scaling
from linsey.models.architecture import (
    LayerOptions,
    NormalizedArchitecture,
    average,
    max_pool,
)
from linsey.models.batch_norm import (
    BatchNormOptions,
    GivenBatchNorm,
    batch_norm_options,
)
from linsey.typing import Dtype

INSIDE = 4
"""Number of features inside a layer for each feature that it adds."""
LEAST = 29
"""Side of the smallest image, in pixels, of which something is left at the end."""


class DenseLayer(nn.Module):
    """Compute a few new features from all previous ones.

    Attributes:
        features: number of new features.
        dropout: fraction of these dropped in training, in [0, 1].
        layers: how the layers are made.
    """

    features: int
    dropout: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height, width, features)."""
        layers = self.layers
        y = layers.normalize(x, train, "norm1", nn.relu)
        y = layers.conv(INSIDE * self.features, 1, "conv1")(y)
        y = layers.normalize(y, train, "norm2", nn.relu)
        y = layers.conv(self.features, 3, "conv2")(y)
        return nn.Dropout(self.dropout, deterministic=not train)(y)


class DenseBlock(nn.Module):
    """Layers whose results are appended to the input.

    Attributes:
        size: number of layers.
        growth: number of features that each layer adds.
        dropout: fraction of these dropped in training, in [0, 1].
        layers: how the layers are made.
    """

    size: int
    growth: int
    dropout: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height, width, channels + size * growth)."""
        for index in range(self.size):
            options = self.growth, self.dropout, self.layers
            y = DenseLayer(*options, name=f"denselayer{index + 1}")(x, train)
            x = jnp.concatenate([x, y], axis=-1)
        return x


class Transition(nn.Module):
    """Halve the features and the image.

    Attributes:
        layers: how the layers are made.
    """

    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height / 2, width / 2, channels / 2)."""
        y = self.layers.normalize(x, train, "norm", nn.relu)
        y = self.layers.conv(x.shape[-1] // 2, 1, "conv")(y)
        return nn.avg_pool(y, (2, 2), (2, 2))


class Features(nn.Module):
    """The whole network except the classifier.

    Attributes:
        block_sizes: number of layers in each block.
        growth: number of features that each layer adds.
        dropout: fraction of these dropped in training, in [0, 1].
        layers: how the layers are made.
    """

    block_sizes: Sequence[int]
    growth: int
    dropout: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height / 32, width / 32, features)."""
        layers = self.layers
        x = layers.conv(2 * self.growth, 7, "conv0", strides=2)(x)
        x = max_pool(layers.normalize(x, train, "norm0", nn.relu))
        for index, size in enumerate(self.block_sizes, 1):
            options = size, self.growth, self.dropout, layers
            x = DenseBlock(*options, name=f"denseblock{index}")(x, train)
            if index < len(self.block_sizes):
                x = Transition(layers, name=f"transition{index}")(x, train)
        return layers.normalize(x, train, "norm5")


class DenseNet(NormalizedArchitecture):
    """A stem, four dense blocks with transitions between them, and a classifier.

    Layer `i` of block `b` is called `features/denseblock{b}/denselayer{i}`, counted
    from 1. Images must have at least 29 x 29 pixels.

    Attributes:
        block_sizes: number of layers in each block.
        growth: number of features that each layer adds.
        dropout: fraction of these dropped in training, in [0, 1].

    References:
        Huang et al. 2017, https://arxiv.org/abs/1608.06993
    """

    block_sizes: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    dropout: float = 0.0

    @nn.nowrap
    def check_images(self, shape: tuple[int, ...]) -> None:
        """Check that images are large enough to be halved five times."""
        super().check_images(shape)
        height, width = shape[-3:-1]
        if min(height, width) < LEAST:
            raise ShapeError(
                f"Images of {height} x {width} pixels were passed.",
                "A DenseNet halves an image five times, and nothing would be left.",
                f"Pass images of at least {LEAST} x {LEAST} pixels.",
            )

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Compute logits.

        Args:
            x: images (batch, height, width, channels).
            train: whether batch statistics are used and updated, and units dropped.

        Returns:
            Logits (batch, num_classes).

        Raises:
            ShapeError: the images are too small.
        """
        self.check_images(x.shape)
        init = variance_scaling(2.0, "fan_in", "normal")
        layers = dataclasses.replace(self.layer_options, conv_init=init)
        options = self.block_sizes, self.growth, self.dropout, layers
        x = nn.relu(Features(*options, name="features")(x, train))
        return layers.dense(self.num_classes, "classifier")(average(x))


def densenet121(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> DenseNet:
    """Make a DenseNet-121; with 1000 classes it has 7,978,856 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the features of each layer dropped in training, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    options = batch_norm_options(batch_norm, BatchNormOptions())
    sizes = (6, 12, 24, 16)
    return DenseNet(num_classes, dtype, param_dtype, options, sizes, 32, dropout)


def densenet169(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> DenseNet:
    """Make a DenseNet-169; with 1000 classes it has 14,149,480 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the features of each layer dropped in training, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    options = batch_norm_options(batch_norm, BatchNormOptions())
    sizes = (6, 12, 32, 32)
    return DenseNet(num_classes, dtype, param_dtype, options, sizes, 32, dropout)
