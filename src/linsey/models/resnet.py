"""ResNet: blocks of convolutions that are added to their input.

The variant is that of torchvision, "v1.5": if a bottleneck block halves the image, its
3 x 3 convolution has the stride, not the 1 x 1 convolution before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
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

EXPANSION = 4
"""Output features of a bottleneck block for each feature inside it."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, added to the input.

    Attributes:
        features: number of features inside, and of the result.
        strides: factor by which the image gets smaller.
        is_projected: whether a 1 x 1 convolution brings the input to the shape of the
            result.
        layers: how the layers are made.
    """

    features: int
    strides: int
    is_projected: bool
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height, width, features)."""
        layers, features = self.layers, self.features
        y = layers.conv(features, 3, "conv1", strides=self.strides)(x)
        y = layers.normalize(y, train, "bn1", nn.relu)
        y = layers.normalize(layers.conv(features, 3, "conv2")(y), train, "bn2")
        if self.is_projected:
            x = layers.conv(features, 1, "downsample_0", strides=self.strides)(x)
            x = layers.normalize(x, train, "downsample_1")
        return nn.relu(y + x)  # (batch, height, width, features)


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, added to the input.

    Attributes:
        features: number of features inside; the result has four times as many.
        strides: factor by which the image gets smaller.
        is_projected: whether a 1 x 1 convolution brings the input to the shape of the
            result.
        layers: how the layers are made.
    """

    features: int
    strides: int
    is_projected: bool
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height, width, 4 * features)."""
        layers, features = self.layers, self.features
        y = layers.normalize(
            layers.conv(features, 1, "conv1")(x), train, "bn1", nn.relu
        )
        y = layers.conv(features, 3, "conv2", strides=self.strides)(y)
        y = layers.normalize(y, train, "bn2", nn.relu)
        features *= EXPANSION
        y = layers.normalize(layers.conv(features, 1, "conv3")(y), train, "bn3")
        if self.is_projected:
            x = layers.conv(features, 1, "downsample_0", strides=self.strides)(x)
            x = layers.normalize(x, train, "downsample_1")
        return nn.relu(y + x)  # (batch, height, width, features)


class ResNet(NormalizedArchitecture):
    """Residual network: a stem, four stages of blocks, and a linear classifier.

    Block `i` of stage `s` is called `layer{s}_{i}`. torchvision and timm have the same
    names, with dots.

    Attributes:
        stage_sizes: number of blocks in each stage; from the second one on, the first
            block halves the image and doubles the features.
        is_bottleneck: whether blocks are `Bottleneck` rather than `BasicBlock`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from linsey import models
        >>> model = models.resnet18(num_classes=10)
        >>> images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        >>> logits, variables = jax.eval_shape(
        ...     model.init_with_output, jax.random.key(0), images
        ... )
        >>> logits.shape, sorted(variables)
        ((2, 10), ['batch_stats', 'params'])

    References:
        He et al. 2016, https://arxiv.org/abs/1512.03385
    """

    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    is_bottleneck: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Compute logits.

        Args:
            x: images (batch, height, width, channels).
            train: whether batch statistics are used and updated.

        Returns:
            Logits (batch, num_classes).
        """
        self.check_images(x.shape)
        layers = self.layer_options
        x = layers.conv(64, 7, "conv1", strides=2)(x)
        x = max_pool(layers.normalize(x, train, "bn1", nn.relu))
        make = Bottleneck if self.is_bottleneck else BasicBlock
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                strides = 2 if stage and not index else 1
                # The first block of a ResNet-50 has more features, but no stride.
                is_projected = not index and (stage > 0 or self.is_bottleneck)
                name = f"layer{stage + 1}_{index}"
                block = make(64 * 2**stage, strides, is_projected, layers, name=name)
                x = block(x, train)
        return layers.dense(self.num_classes, "fc")(average(x))  # (batch, classes)


def _resnet(
    sizes: Sequence[int],
    is_bottleneck: bool,
    num_classes: int,
    batch_norm: GivenBatchNorm,
    dtype: Dtype | None,
    param_dtype: Dtype,
) -> ResNet:
    options = batch_norm_options(batch_norm, BatchNormOptions())
    return ResNet(num_classes, dtype, param_dtype, options, sizes, is_bottleneck)


def resnet18(
    num_classes: int = 1000,
    *,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> ResNet:
    """Make a ResNet-18; with 1000 classes it has 11,689,512 parameters.

    Args:
        num_classes: number of logits.
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _resnet((2, 2, 2, 2), False, num_classes, batch_norm, dtype, param_dtype)


def resnet34(
    num_classes: int = 1000,
    *,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> ResNet:
    """Make a ResNet-34; with 1000 classes it has 21,797,672 parameters.

    Args:
        num_classes: number of logits.
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _resnet((3, 4, 6, 3), False, num_classes, batch_norm, dtype, param_dtype)


def resnet50(
    num_classes: int = 1000,
    *,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> ResNet:
    """Make a ResNet-50; with 1000 classes it has 25,557,032 parameters.

    Args:
        num_classes: number of logits.
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _resnet((3, 4, 6, 3), True, num_classes, batch_norm, dtype, param_dtype)


def resnet101(
    num_classes: int = 1000,
    *,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> ResNet:
    """Make a ResNet-101; with 1000 classes it has 44,549,160 parameters.

    Args:
        num_classes: number of logits.
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _resnet((3, 4, 23, 3), True, num_classes, batch_norm, dtype, param_dtype)


def resnet152(
    num_classes: int = 1000,
    *,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> ResNet:
    """Make a ResNet-152; with 1000 classes it has 60,192,808 parameters.

    Args:
        num_classes: number of logits.
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _resnet((3, 8, 36, 3), True, num_classes, batch_norm, dtype, param_dtype)
