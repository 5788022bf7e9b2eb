"""EfficientNet: inverted residual blocks, scaled in width and depth together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
from linsey.linen.initializers import variance_scaling
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


class Stage(NamedTuple):
    """Blocks of one kind: a row of the table in the paper.

    Attributes:
        expansion: number of channels inside a block for each channel of its input.
        size: size of the window.
        strides: strides of the first block.
        features: number of features of the results, for a width of 1.
        blocks: number of blocks, for a depth of 1.
    """

    expansion: int
    size: int
    strides: int
    features: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM = 32


class EfficientNet(NormalizedArchitecture):
    """A stem, seven stages of inverted residual blocks, and a linear classifier.

    Block `i` of stage `s` is called `features_{s}_{i}`.

    Attributes:
        width: factor that scales the numbers of features.
        depth: factor that scales the numbers of blocks.
        dropout: fraction of the last features dropped in training, in [0, 1].
        drop_path: probability of dropping the last block for an example, in [0, 1];
            over the previous blocks it grows linearly from 0 (stochastic depth).

    References:
        Tan, Le 2019, https://arxiv.org/abs/1905.11946
    """

    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2

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
        x = layers.conv(divisible(STEM * self.width), 3, "features_0_0", strides=2)(x)
        x = layers.normalize(x, train, "features_0_1", nn.silu)
        blocks = list(self._blocks())
        for count, (name, stage, strides) in enumerate(blocks):
            channels = x.shape[-1]
            block = InvertedResidual(
                channels * stage.expansion, divisible(stage.features * self.width),
                stage.size, strides, nn.silu, max(1, channels // 4), nn.silu,
                nn.sigmoid, self.drop_path * count / len(blocks), layers, name=name,
            )  # fmt: skip
            x = block(x, train)
        last = f"features_{len(STAGES) + 1}"
        x = layers.conv(4 * x.shape[-1], 1, f"{last}_0")(x)
        x = average(layers.normalize(x, train, f"{last}_1", nn.silu))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)  # (batch, features)
        # Uniform up to 1 / sqrt(classes).
        init = variance_scaling(1 / 3, "fan_out", "uniform")
        return layers.dense(self.num_classes, "classifier_1", kernel_init=init)(x)

    @nn.nowrap
    def _blocks(self) -> Iterator[tuple[str, Stage, int]]:
        """Yield the name, the stage and the strides of each block."""
        for number, stage in enumerate(STAGES):
            for index in range(math.ceil(stage.blocks * self.depth)):
                strides = stage.strides if index == 0 else 1
                yield f"features_{number + 1}_{index}", stage, strides

    @nn.nowrap
    def _timm_names(self) -> dict[str, str]:
        names = {"features_0_0": "conv_stem", "features_0_1": "bn1"}
        for name, stage, _ in self._blocks():
            _, number, index = name.split("_")
            theirs = f"blocks.{int(number) - 1}.{index}"
            names |= timm_block(name, theirs, stage.expansion != 1, True)
        last = f"features_{len(STAGES) + 1}"
        names |= {f"{last}_0": "conv_head", f"{last}_1": "bn2"}
        return names | {"classifier_1": "classifier"}


def _efficientnet(
    width: float,
    depth: float,
    num_classes: int,
    dropout: float,
    drop_path: float,
    batch_norm: GivenBatchNorm,
    dtype: Dtype | None,
    param_dtype: Dtype,
) -> EfficientNet:
    options = batch_norm_options(batch_norm, BatchNormOptions())
    return EfficientNet(
        num_classes, dtype, param_dtype, options, width, depth, dropout, drop_path
    )


def efficientnet_b0(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    drop_path: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> EfficientNet:
    """Make an EfficientNet-B0; with 1000 classes it has 5,288,548 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last features dropped in training, in [0, 1].
        drop_path: probability of dropping the last block for an example, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _efficientnet(
        1.0, 1.0, num_classes, dropout, drop_path, batch_norm, dtype, param_dtype
    )


def efficientnet_b1(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    drop_path: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> EfficientNet:
    """Make an EfficientNet-B1; with 1000 classes it has 7,794,184 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last features dropped in training, in [0, 1].
        drop_path: probability of dropping the last block for an example, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _efficientnet(
        1.0, 1.1, num_classes, dropout, drop_path, batch_norm, dtype, param_dtype
    )


def efficientnet_b2(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    drop_path: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> EfficientNet:
    """Make an EfficientNet-B2; with 1000 classes it has 9,109,994 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last features dropped in training, in [0, 1].
        drop_path: probability of dropping the last block for an example, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _efficientnet(
        1.1, 1.2, num_classes, dropout, drop_path, batch_norm, dtype, param_dtype
    )


def efficientnet_b3(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    drop_path: float = 0.2,
    batch_norm: GivenBatchNorm = None,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> EfficientNet:
    """Make an EfficientNet-B3; with 1000 classes it has 12,233,232 parameters.

    Args:
        num_classes: number of logits.
        dropout: fraction of the last features dropped in training, in [0, 1].
        drop_path: probability of dropping the last block for an example, in [0, 1].
        batch_norm: options of batch normalization, all or some by name.
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return _efficientnet(
        1.2, 1.4, num_classes, dropout, drop_path, batch_norm, dtype, param_dtype
    )
