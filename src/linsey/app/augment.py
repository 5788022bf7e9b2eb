"""Images changed at random while a model learns: mirrored, shifted, in other colors.

It happens on the device, inside of the step, on images that are standardized already:
a value counts standard deviations of its channel from its mean in the training part.
What is drawn depends on the key alone, which is that of the step: a run that is resumed
draws the same. Each kind has a key of its own, so that it draws the same with others
and without them.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import jax
from jax import numpy as jnp

KINDS = ("flip", "crop", "color")
_PART = 8
"""Crops are shifted by up to this part of height and width."""
_STRENGTH = 0.4
"""How much colors are changed at most; 0 does not change them."""


def augment(x: jax.Array, key: jax.Array, kinds: Collection[str]) -> jax.Array:
    """Change the images of a batch at random.

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

    The padding has the mean of the training part, which is 0 here.

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

    Grey images have no saturation. The three are one linear map here, and the grey of
    a pixel a sum of channels, not a mean over an axis: on a CPU that is ten times as
    fast.
    """
    b, c, s = jax.random.uniform(
        key, (3, len(x), 1, 1, 1), x.dtype, -_STRENGTH, _STRENGTH
    )  # each (batch, 1, 1, 1)
    c, s = 1 + c, 1 + s
    mean = x.reshape(len(x), -1).mean(-1).reshape(b.shape) + b
    channels = jnp.split(x, x.shape[-1], -1)
    grey = functools.reduce(jnp.add, channels) / len(channels)  # (batch, h, w, 1)
    return c * (s * x + (1 - s) * grey) + c * b + (1 - c) * mean
