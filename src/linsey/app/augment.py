"""Random augmentation of training images: mirroring, shifts and changes of color.

Images are augmented on the device, inside the training step, after standardization: a
value is the distance from the channel's mean in the training part, in standard
deviations. The random changes depend only on the key of the step, so a resumed run
draws the same ones. Each kind of change has its own key, so that it does not depend on
which other kinds are used.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import jax
from jax import numpy as jnp

KINDS = ("flip", "crop", "color")
_PART = 8
"""Crops are shifted by up to the height or width divided by this."""
_STRENGTH = 0.4
"""The largest change of colors; 0 leaves them as they are."""


def augment(x: jax.Array, key: jax.Array, kinds: Collection[str]) -> jax.Array:
    """Augment the images of a batch at random.

    Args:
        x: (batch, height, width, channels), standardized.
        key: a random key.
        kinds: some of `flip`, `crop` and `color`; the order does not matter.

    Returns:
        Other images of the same shape.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
        >>> bool((augment(x, jax.random.key(1), ()) == x).all())
        True
    """
    changes = {"flip": flip, "crop": crop, "color": color}
    for kind, own in zip(KINDS, jax.random.split(key, len(KINDS)), strict=True):
        if kind in kinds:
            x = changes[kind](x, own)
    return x


def flip(x: jax.Array, key: jax.Array) -> jax.Array:
    """Mirror each image, left to right, with probability 1/2."""
    is_mirrored = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(is_mirrored, x[:, :, ::-1], x)


def crop(x: jax.Array, key: jax.Array) -> jax.Array:
    """Shift each image by up to an eighth of its height and width (pad and crop).

    The padding is the mean of the training part, which is 0 after standardization.

    References:
        Krizhevsky 2010, https://www.cs.toronto.edu/~kriz/conv-cifar10-aug2010.pdf; He
        et al. 2015, https://arxiv.org/abs/1512.03385 (4 pixels of 32)
    """
    batch, height, width, channels = x.shape
    rows, columns = (-(-size // _PART) for size in (height, width))
    padded = jnp.pad(x, [(0, 0), (rows, rows), (columns, columns), (0, 0)])
    ends = jnp.array([2 * rows + 1, 2 * columns + 1])
    starts = jax.random.randint(key, (batch, 2), 0, ends)  # (batch, 2)

    def cut(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (start[0], start[1], 0), (height, width, channels)
        )

    return jax.vmap(cut)(padded, starts)


def color(x: jax.Array, key: jax.Array) -> jax.Array:
    """Change brightness, contrast and saturation of each image.

        brightness: x + b              b in [-0.4, 0.4], in standard deviations
        contrast:   m + c (x - m)      c in [0.6, 1.4], m the mean of the image
        saturation: g + s (x - g)      s in [0.6, 1.4], g the mean over the channels

    Grey images have no saturation. The three changes are combined into one linear map,
    and the grey of a pixel is computed as a sum of channels instead of a mean over an
    axis: on a CPU this is ten times as fast.
    """
    b, c, s = jax.random.uniform(
        key, (3, len(x), 1, 1, 1), x.dtype, -_STRENGTH, _STRENGTH
    )  # each (batch, 1, 1, 1)
    c, s = 1 + c, 1 + s
    mean = x.reshape(len(x), -1).mean(-1).reshape(b.shape) + b
    channels = jnp.split(x, x.shape[-1], -1)
    grey = functools.reduce(jnp.add, channels) / len(channels)  # (batch, h, w, 1)
    return c * (s * x + (1 - s) * grey) + c * b + (1 - c) * mean
