"""MobileNet v3: inverted residual blocks, found by a search for small processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
from linsey.linen.initializers import normal
from linsey.models.architecture import (
    NormalizedArchitecture,
    average,
    divisible,
)
from linsey.models.batch_norm import (
    BatchNormOptions,
    GivenBatchNorm,
    batch_norm_options,
)
from linsey.models.inverted import InvertedResidual, timm_block
from linsey.typing import Dtype

BATCH_NORM = BatchNormOptions(momentum=0.99, epsilon=1e-3)
"""The options that the weights of torchvision were trained with."""


class Row(NamedTuple):
    """A block: a row of the tables in the paper.

    Attributes:
        size: size of the window.
        expanded: number of channels inside.
        features: number of features of the result.
        is_squeezed: whether it has `SqueezeExcite`.
        is_hard_swish: whether its activation is `hard_swish` rather than `relu`.
        strides: factor by which the image gets smaller.
    """

    size: int
    expanded: int
    features: int
    is_squeezed: bool
    is_hard_swish: bool
    strides: int


SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
STEM = 16


class MobileNetV3(NormalizedArchitecture):
    """A stem, inverted residual blocks, a 1 x 1 convolution, and two linear layers.

    Block `i` is called `features_{i}`, counted from 1.

    Attributes:
        rows: the blocks.
        hidden: number of units in the linear layer before the classifier.
        dropout: fraction of these dropped in training, in [0, 1].

    References:
        Howard et al. 2019, https://arxiv.org/abs/1905.02244
    """

    rows: Sequence[Row] = SMALL
    hidden: int = 1024
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Compute logits.

        Args:
            x: images (batch, height, width, channels).
            train: whether batch statistics are used and updated, and units dropped.

        Returns:
            Logits (batch, num_classes).
        """
        self.check_images(x.shape)
        layers = self.layer_options
        x = layers.conv(STEM, 3, "features_0_0", strides=2)(x)
        x = layers.normalize(x, train, "features_0_1", nn.hard_swish)
        for index, row in enumerate(self.rows):
            block = InvertedResidual(
                row.expanded, row.features, row.size, row.strides,
                nn.hard_swish if row.is_hard_swish else nn.relu,
                divisible(row.expanded / 4) if row.is_squeezed else 0,
                nn.relu, nn.hard_sigmoid, 0.0, layers, name=f"features_{index + 1}",
            )  # fmt: skip
            x = block(x, train)
        last = f"features_{len(self.rows) + 1}"
        x = layers.conv(6 * x.shape[-1], 1, f"{last}_0")(x)
        x = average(layers.normalize(x, train, f"{last}_1", nn.hard_swish))
        x = layers.dense(self.hidden, "classifier_0", kernel_init=normal(0.01))(x)
        x = nn.hard_swish(x)  # (batch, hidden)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head = layers.dense(self.num_classes, "classifier_3", kernel_init=normal(0.01))
        return head(x)  # (batch, classes)

    @nn.nowrap
    def _timm_names(self) -> dict[str, str]:
        # timm implements `classifier_0` as a 1 x 1 convolution.
        names = {"features_0_0": "conv_stem", "features_0_1": "bn1"}
        channels, stage, block = STEM, -1, 0
        for index, row in enumerate(self.rows):
            # A stage begins where the number of features changes.
            is_next = not index or row.features != channels
            stage, block = (stage + 1, 0) if is_next else (stage, block + 1)
            names |= timm_block(
                f"features_{index + 1}", f"blocks.{stage}.{block}",
                row.expanded != channels, row.is_squeezed,
            )  # fmt: skip
            channels = row.features
        last = f"features_{len(self.rows) + 1}"
        names |= {
            f"{last}_0": f"blocks.{stage + 1}.0.conv",
            f"{last}_1": f"blocks.{stage + 1}.0.bn1",
        }
        return names | {"classifier_0": "conv_head", "classifier_3": "classifier"}


def mobilenet_v3_small(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> MobileNetV3:
    """Make a small MobileNet v3; with 1000 classes it has 2,542,856 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last hidden units dropped in training, in [0, 1].
        batch_norm: options of batch normalization, all or some by name. The usual ones
            are a momentum of 0.99 and an epsilon of 1e-3; weights of timm need 1e-5.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    options = batch_norm_options(batch_norm, BATCH_NORM)
    return MobileNetV3(num_classes, dtype, param_dtype, options, SMALL, 1024, dropout)


def mobilenet_v3_large(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> MobileNetV3:
    """Make a large MobileNet v3; with 1000 classes it has 5,483,032 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last hidden units dropped in training, in [0, 1].
        batch_norm: options of batch normalization, all or some by name. The usual ones
            are a momentum of 0.99 and an epsilon of 1e-3; weights of timm need 1e-5.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    options = batch_norm_options(batch_norm, BATCH_NORM)
    return MobileNetV3(num_classes, dtype, param_dtype, options, LARGE, 1280, dropout)
