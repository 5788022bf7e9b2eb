"""The block of MobileNet and EfficientNet, and its names in other libraries."""

from __future__ import annotations

from collections.abc import Iterator

from jax import Array

from linsey import linen as nn
from linsey.models.architecture import (
    Activation,
    LayerOptions,
    SqueezeExcite,
    drop_path,
)


class InvertedResidual(nn.Module):
    """Expand the channels, filter each of them, gate them, and project them back.

    The result is added to the input if both have the same shape. Numbers in the names
    of the layers count the steps that exist: a block without expansion begins with the
    filter.

    Attributes:
        expanded: number of channels inside.
        features: number of features of the result.
        size: size of the window of the filter.
        strides: factor by which the image gets smaller.
        activation: activation after the first two convolutions.
        squeezed: number of units in `SqueezeExcite`; 0 leaves it out.
        squeeze_activation: activation inside `SqueezeExcite`.
        gate: activation at the end of `SqueezeExcite`.
        drop_rate: probability of dropping the branch for an example, in [0, 1].
        layers: how the layers are made.

    References:
        Sandler et al. 2018, https://arxiv.org/abs/1801.04381
    """

    expanded: int
    features: int
    size: int
    strides: int
    activation: Activation
    squeezed: int
    squeeze_activation: Activation
    gate: Activation
    drop_rate: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, height, width, features)."""
        layers, channels, step = self.layers, x.shape[-1], 0
        y = x
        if self.expanded != channels:
            y = layers.conv(self.expanded, 1, "block_0_0")(y)
            y = layers.normalize(y, train, "block_0_1", self.activation)
            step += 1
        depthwise = layers.conv(
            self.expanded, self.size, f"block_{step}_0", strides=self.strides,
            groups=self.expanded,
        )  # fmt: skip
        y = layers.normalize(depthwise(y), train, f"block_{step}_1", self.activation)
        step += 1
        if self.squeezed:
            squeeze = self.squeezed, self.squeeze_activation, self.gate, layers
            y = SqueezeExcite(*squeeze, name=f"block_{step}")(y)
            step += 1
        y = layers.conv(self.features, 1, f"block_{step}_0")(y)
        y = layers.normalize(y, train, f"block_{step}_1")
        if self.strides != 1 or channels != self.features:
            return y  # (batch, height, width, features)
        return drop_path(self.drop_rate, train)(y) + x


def timm_block(
    path: str, theirs: str, is_expanded: bool, is_squeezed: bool
) -> Iterator[tuple[str, str]]:
    """Return the names of the layers of a block in timm.

    Args:
        path: path of the block.
        theirs: name of the block in timm.
        is_expanded: whether it begins with an expansion.
        is_squeezed: whether it has `SqueezeExcite`.

    Returns:
        Pairs of a path and a name.

    Example:
        >>> for pair in timm_block("features_1", "blocks.0.0", False, False):
        ...     print(*pair)
        features_1/block_0_0 blocks.0.0.conv_dw
        features_1/block_0_1 blocks.0.0.bn1
        features_1/block_1_0 blocks.0.0.conv_pw
        features_1/block_1_1 blocks.0.0.bn2
    """
    convolutions = ["conv_pw", "conv_dw", "conv_pwl"]
    if not is_expanded:
        convolutions = ["conv_dw", "conv_pw"]
    for index, name in enumerate(convolutions):
        is_last = index == len(convolutions) - 1
        step = index + (is_last and is_squeezed)
        yield f"{path}/block_{step}_0", f"{theirs}.{name}"
        yield f"{path}/block_{step}_1", f"{theirs}.bn{index + 1}"
    if is_squeezed:
        step = len(convolutions) - 1
        yield f"{path}/block_{step}/fc1", f"{theirs}.se.conv_reduce"
        yield f"{path}/block_{step}/fc2", f"{theirs}.se.conv_expand"
