"""Augmentation against numpy, with the numbers that the key draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app import augment as module
from linsey.app.augment import KINDS, augment

flip, crop, color = (jax.jit(getattr(module, kind)) for kind in KINDS)
KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).normal(size=(6, 9, 5, 3)).astype("f4")


def test_flip_mirrors_half_of_the_images():
    found = np.asarray(flip(jnp.asarray(IMAGES), KEY))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, IMAGES)]
    same = [np.array_equal(a, b) for a, b in zip(found, IMAGES)]
    assert all(a != b for a, b in zip(mirrored, same)) and any(mirrored) and any(same)
    many = jnp.broadcast_to(jnp.arange(2.0)[:, None], (1000, 1, 2, 1))
    assert 430 < float((flip(many, KEY)[:, 0, 0, 0] == 1).sum()) < 570


def test_crop_shifts_by_up_to_an_eighth_and_fills_with_the_mean():
    found = np.asarray(crop(jnp.asarray(IMAGES), KEY))
    shifts = []
    for image, source in zip(found, IMAGES):
        padded = np.pad(source, [(2, 2), (1, 1), (0, 0)])  # of 9 and of 5
        shifts += [
            (row, column)
            for row in range(5)
            for column in range(3)
            if np.array_equal(padded[row : row + 9, column : column + 5], image)
        ]
    assert len(shifts) == len(IMAGES)
    many = np.asarray(crop(jnp.ones((400, 9, 5, 1)), KEY))[..., 0].sum((1, 2))
    assert {*np.unique(many)} == {h * w for h in (9, 8, 7) for w in (5, 4)}


def test_color_is_the_formula():
    found = color(jnp.asarray(IMAGES), KEY)
    b, c, s = np.asarray(
        jax.random.uniform(KEY, (3, 6, 1, 1, 1), "f4", -0.4, 0.4), "f8"
    )
    x = IMAGES.astype("f8") + b
    mean = x.mean((1, 2, 3), keepdims=True)
    x = mean + (1 + c) * (x - mean)
    grey = x.mean(-1, keepdims=True)
    np.testing.assert_allclose(found, grey + (1 + s) * (x - grey), atol=1e-5)
    assert (abs(b) <= 0.4).all() and len({*b.ravel()}) == 6


def test_grey_images_change_in_brightness_and_contrast_only():
    found = np.asarray(color(jnp.asarray(IMAGES[..., :1]), KEY))
    assert not np.allclose(found, IMAGES[..., :1])
    for image, source in zip(found, IMAGES[..., :1]):
        assert np.corrcoef(image.ravel(), source.ravel())[0, 1] > 0.9999


def test_what_is_drawn_depends_on_the_key_alone_and_not_on_the_other_kinds():
    x = jnp.asarray(IMAGES)
    function = jax.jit(augment, static_argnums=2)
    both = function(x, KEY, frozenset(KINDS[:2]))
    assert np.array_equal(both, function(x, KEY, frozenset(KINDS[:2])))
    assert not np.array_equal(
        both, function(x, jax.random.key(4), frozenset(KINDS[:2]))
    )
    keys = jax.random.split(KEY, len(KINDS))
    np.testing.assert_array_equal(both, crop(flip(x, keys[0]), keys[1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shape_and_dtype_stay(dtype):
    x = jnp.asarray(IMAGES, dtype)
    found = jax.eval_shape(lambda x: augment(x, KEY, KINDS), x)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
