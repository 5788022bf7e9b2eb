"""Vision Transformer: an image as a sequence of patches.

It has no batch normalization, so its only variables are `params`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from linsey import linen as nn
from linsey.errors import OptionError, ShapeError
from linsey.linen.initializers import normal, variance_scaling, xavier_uniform, zeros
from linsey.models.architecture import Architecture, LayerOptions
from linsey.typing import Dtype

EPSILON = 1e-6


class SelfAttention(nn.Module):
    """Self-attention of a sequence, with all input projections in one product.

    The columns of `in_proj` are those of queries, keys and values, as in PyTorch, each
    grouped by heads.

    Attributes:
        heads: number of heads.
        dropout: fraction of the attention weights dropped in training, in [0, 1].
        layers: how the layers are made.
    """

    heads: int
    dropout: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Mix the entries of `x`, (batch, length, features)."""
        batch, length, features = x.shape
        project = self.layers.dense(
            3 * features, "in_proj", kernel_init=xavier_uniform()
        )
        shape = (batch, length, 3, self.heads, features // self.heads)
        parts = project(x).reshape(shape)
        query, key, value = (parts[:, :, part] for part in range(3))
        rate = self.dropout if train else 0.0
        y = nn.dot_product_attention(
            query, key, value, dropout_rate=rate, deterministic=not train,
            dropout_rng=self.make_rng("dropout") if rate else None,
            dtype=self.layers.dtype,
        )  # fmt: skip
        y = y.reshape(x.shape)  # (batch, length, features)
        return self.layers.dense(features, "out_proj")(y)


class EncoderBlock(nn.Module):
    """Attention, then two linear layers, each branch added to its input.

    Attributes:
        heads: number of heads.
        hidden: number of units between the linear layers.
        dropout: fraction of units dropped in training, in [0, 1].
        attention_dropout: fraction of the attention weights dropped, in [0, 1].
        drop_path: probability of dropping a branch for an example, in [0, 1].
        layers: how the layers are made.
    """

    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    drop_path: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, length, features)."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        drop_path = nn.Dropout(
            self.drop_path, broadcast_dims=(1, 2), deterministic=not train
        )
        attend = SelfAttention(
            self.heads, self.attention_dropout, self.layers, name="self_attention"
        )
        x = x + drop_path(drop(attend(layer_norm(self.layers, "ln_1")(x), train)))
        y = layer_norm(self.layers, "ln_2")(x)
        init = {"kernel_init": xavier_uniform(), "bias_init": normal(1e-6)}
        y = self.layers.dense(self.hidden, "mlp_0", **init)(y)
        y = drop(nn.gelu(y, approximate=False))  # (batch, length, hidden)
        y = self.layers.dense(x.shape[-1], "mlp_3", **init)(y)
        return x + drop_path(drop(y))  # (batch, length, features)


class Encoder(nn.Module):
    """Position embeddings, blocks, and a normalization.

    Attributes:
        depth: number of blocks.
        heads: number of heads.
        hidden: number of units between the linear layers of a block.
        dropout: fraction of units dropped in training, in [0, 1].
        attention_dropout: fraction of the attention weights dropped, in [0, 1].
        drop_path: probability of dropping a branch of the last block for an example, in
            [0, 1]; over the previous blocks it grows linearly from 0.
        layers: how the layers are made.
    """

    depth: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    drop_path: float
    layers: LayerOptions

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Compute (batch, length, features)."""
        shape = (1, *x.shape[1:])
        positions = self.param(
            "pos_embedding", normal(0.02), shape, self.layers.param_dtype
        )
        x = x + positions.astype(x.dtype)  # (batch, length, features)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for index in range(self.depth):
            block = EncoderBlock(
                self.heads, self.hidden, self.dropout, self.attention_dropout,
                self.drop_path * index / max(1, self.depth - 1), self.layers,
                name=f"layers_encoder_layer_{index}",
            )  # fmt: skip
            x = block(x, train)
        return layer_norm(self.layers, "ln")(x)


class VisionTransformer(Architecture):
    """Patches preceded by a class token, an encoder, and a linear classifier.

    The sides of images must be multiples of the patch size. There is a learned vector
    for each patch of the images that `init` sees, so the variables fit images of one
    size only.

    Attributes:
        patch_size: side of a patch.
        features: number of features of a patch.
        depth: number of blocks.
        heads: number of heads.
        hidden: number of units between the linear layers of a block.
        dropout: fraction of units dropped in training, in [0, 1].
        attention_dropout: fraction of the attention weights dropped, in [0, 1].
        drop_path: probability of dropping a branch of the last block for an example, in
            [0, 1].

    References:
        Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929
    """

    patch_size: int = 16
    features: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Compute logits.

        Args:
            x: images (batch, height, width, channels).
            train: whether units are dropped.

        Returns:
            Logits (batch, num_classes).

        Raises:
            ShapeError: images cannot be divided into patches.
            OptionError: the features cannot be divided among the heads.
        """
        self.check_images(x.shape)
        if self.features % self.heads:
            raise OptionError(
                f"There are {self.features} features and {self.heads} heads.",
                "Each head has as many features as the others.",
                "Choose a number of heads that divides the features.",
            )
        size, batch = self.patch_size, x.shape[0]
        layers = LayerOptions(dtype=self.dtype, param_dtype=self.param_dtype)
        project = nn.Conv(
            self.features, (size, size), (size, size), "VALID", dtype=self.dtype,
            param_dtype=self.param_dtype, name="conv_proj",
            kernel_init=variance_scaling(1.0, "fan_in", "truncated_normal"),
        )  # fmt: skip
        x = project(x).reshape(batch, -1, self.features)  # (batch, patches, features)
        token = self.param(
            "class_token", zeros, (1, 1, self.features), self.param_dtype
        )
        token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, self.features))
        x = jnp.concatenate([token, x], axis=1)  # (batch, 1 + patches, features)
        encode = Encoder(
            self.depth, self.heads, self.hidden, self.dropout, self.attention_dropout,
            self.drop_path, layers, name="encoder",
        )  # fmt: skip
        x = encode(x, train)[:, 0]  # (batch, features)
        return layers.dense(self.num_classes, "heads_head", kernel_init=zeros)(x)

    @nn.nowrap
    def check_images(self, shape: tuple[int, ...]) -> None:
        """Check that images can be divided into patches."""
        super().check_images(shape)
        height, width = shape[-3:-1]
        size = self.patch_size
        if height % size or width % size or not height * width:
            raise ShapeError(
                f"Images of {height} x {width} pixels were passed.",
                f"They do not divide into patches of {size} x {size}.",
                f"Resize them to multiples of {size}, or make the model with a "
                "`patch_size` that divides both sides.",
            )

    @nn.nowrap
    def _torchvision_names(self) -> dict[str, str]:
        names = {"heads_head": "heads.head"}
        for index in range(self.depth):
            block = f"encoder/layers_encoder_layer_{index}"
            theirs = f"encoder.layers.encoder_layer_{index}"
            names |= {
                block: theirs,
                f"{block}/ln_1": f"{theirs}.ln_1",
                f"{block}/ln_2": f"{theirs}.ln_2",
            }
            for ours, leaf in (("kernel", "weight"), ("bias", "bias")):
                path = f"{block}/self_attention/in_proj/{ours}"
                names[path] = f"{theirs}.self_attention.in_proj_{leaf}"
        return names

    @nn.nowrap
    def _timm_names(self) -> dict[str, str]:
        names = {
            "class_token": "cls_token",
            "conv_proj": "patch_embed.proj",
            "encoder/pos_embedding": "pos_embed",
            "encoder/ln": "norm",
            "heads_head": "head",
        }
        inside = {
            "ln_1": "norm1",
            "self_attention/in_proj": "attn.qkv",
            "self_attention/out_proj": "attn.proj",
            "ln_2": "norm2",
            "mlp_0": "mlp.fc1",
            "mlp_3": "mlp.fc2",
        }
        for index in range(self.depth):
            block = f"encoder/layers_encoder_layer_{index}"
            for path, name in inside.items():
                names[f"{block}/{path}"] = f"blocks.{index}.{name}"
        return names


def layer_norm(layers: LayerOptions, name: str) -> nn.LayerNorm:
    """Make a layer normalization."""
    return nn.LayerNorm(
        EPSILON, dtype=layers.dtype, param_dtype=layers.param_dtype, name=name
    )


def vit_b_16(
    num_classes: int = 1000,
    *,
    patch_size: int = 16,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> VisionTransformer:
    """Make a base Vision Transformer with patches of 16 x 16 (ViT-B/16).

    With 1000 classes and images of 224 x 224 it has 86,567,656 parameters.

    Args:
        num_classes: number of logits.
        patch_size: side of a patch; smaller ones for small images.
        dropout: fraction of units dropped in training, in [0, 1].
        attention_dropout: fraction of the attention weights dropped, in [0, 1].
        drop_path: probability of dropping a branch of the last block for an example, in
            [0, 1].
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return VisionTransformer(
        num_classes, dtype, param_dtype, patch_size, 768, 12, 12,
        3072, dropout, attention_dropout, drop_path,
    )  # fmt: skip


def vit_s_16(
    num_classes: int = 1000,
    *,
    patch_size: int = 16,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
) -> VisionTransformer:
    """Make a small Vision Transformer with patches of 16 x 16 (ViT-S/16).

    With 1000 classes and images of 224 x 224 it has 22,050,664 parameters.

    Args:
        num_classes: number of logits.
        patch_size: side of a patch; smaller ones for small images.
        dropout: fraction of units dropped in training, in [0, 1].
        attention_dropout: fraction of the attention weights dropped, in [0, 1].
        drop_path: probability of dropping a branch of the last block for an example, in
            [0, 1].
        dtype: dtype of the computation. If `None`, it is inferred from the inputs and
            the parameters.
        param_dtype: dtype of the parameters.
    """
    return VisionTransformer(
        num_classes, dtype, param_dtype, patch_size, 384, 12, 6,
        1536, dropout, attention_dropout, drop_path,
    )  # fmt: skip
