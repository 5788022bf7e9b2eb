"""Compares a layer of linsey with the same layer of Flax.

Laws: same tree, names, order, dtypes and bits of the variables from the same key; equal
outputs and gradients up to the rounding of the dtype; the same error where one fails.
"""

from __future__ import annotations

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen

KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def normal(*shape, dtype=jnp.float32):
    """Fixed random numbers of a shape."""
    numbers = np.random.default_rng(len(shape)).standard_normal(shape)
    return jnp.asarray(numbers.astype(jnp.dtype(dtype)))


def quick_init(key, shape, dtype):
    """An initializer with nothing to compile, whose bits follow from key and shape."""
    if isinstance(key, jax.core.Tracer):
        return jnp.zeros(shape, dtype)
    seed = np.asarray(jax.random.key_data(key))
    numbers = np.random.default_rng(seed).standard_normal(tuple(shape))
    return jnp.asarray(numbers.astype(jnp.dtype(dtype)))


def layers(name, *args, **fields):
    """The layer of Flax and the layer of linsey, built with the same arguments.

    Initializers that are not given are replaced by `quick_init`.
    """
    for field in dataclasses.fields(getattr(flax.linen, name)):
        if field.name in ("kernel_init", "bias_init", "embedding_init"):
            fields.setdefault(field.name, quick_init)
    return [getattr(nn, name)(*args, **fields) for nn in (flax.linen, linsey.linen)]


def assert_same_initial_values(name, *args, inputs, **fields):
    """The default initializers give the bits of Flax; nothing else is compared."""
    variables = [
        getattr(nn, name)(*args, **fields).init(KEYS, inputs)
        for nn in (flax.linen, linsey.linen)
    ]
    assert_same_bits(*variables)


def assert_same_bits(expected, found):
    """Trees are equal: structure, order of keys, dtypes and every bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert ordered(found) == ordered(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert b.dtype == a.dtype
        np.testing.assert_array_equal(b, a)


def ordered(tree):
    """Keys of nested dictionaries in the order they were made."""
    if isinstance(tree, dict):
        return [(key, ordered(value)) for key, value in tree.items()]
    return None


def assert_close(expected, found, ulps=64):
    """Arrays are equal up to some units in the last place of the largest value."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    wide = jnp.complex64 if jnp.iscomplexobj(expected) else jnp.float32
    a, b = np.asarray(expected.astype(wide)), np.asarray(found.astype(wide))
    inexact = jnp.issubdtype(expected.dtype, jnp.inexact)
    eps = float(jnp.finfo(expected.dtype).eps) if inexact else 0.0
    scale = np.nanmax(np.abs(a), initial=0.0)
    np.testing.assert_allclose(b, a, rtol=0, atol=ulps * eps * scale)


def assert_same_layer(name, *args, inputs, call=None, grad=True, ulps=64, **fields):
    """A layer of linsey does what the layer of Flax does with the same arguments."""
    call = call or {}
    reference, layer = layers(name, *args, **fields)
    expected, variables = reference.init_with_output(KEYS, inputs, **call)
    found, ours = layer.init_with_output(KEYS, inputs, **call)
    assert_same_bits(variables, ours)
    assert_close(expected, found, ulps)
    assert_close(expected, layer.apply(variables, inputs, rngs=KEYS, **call), ulps)
    if grad and jnp.issubdtype(inputs.dtype, jnp.inexact):
        for a, b in zip(
            gradients(reference, variables, inputs, call),
            gradients(layer, variables, inputs, call),
            strict=True,
        ):
            assert_close(a, b, ulps)


def gradients(layer, variables, inputs, call):
    """Derivatives of the squared outputs, for all variables and the inputs."""

    def loss(variables, inputs):
        y = layer.apply(variables, inputs, rngs=KEYS, **call)
        return jnp.sum(jnp.square(jnp.abs(y.astype(jnp.promote_types(y.dtype, "f4")))))

    inexact = all(
        jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(variables)
    )
    return jax.tree.leaves(
        jax.grad(loss, argnums=(0, 1) if inexact else 1)(variables, inputs)
    )


def assert_same_refusal(name, *args, inputs, error, match, call=None, **fields):
    """Both libraries refuse; linsey with a class that catches what Flax raises."""
    call = call or {}
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(flax.linen, name)(*args, **fields).init(KEYS, inputs, **call)
    with pytest.raises(error, match=match) as ours:
        getattr(linsey.linen, name)(*args, **fields).init(KEYS, inputs, **call)
    assert isinstance(ours.value, builtin_of(theirs.value))


def builtin_of(error):
    """The built-in class of an error, which programs written for Flax catch."""
    return next(cls for cls in type(error).__mro__ if cls.__module__ == "builtins")
