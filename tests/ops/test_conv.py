"""Convolutions against loops in float64."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linsey.ops.conv import (
    canonicalize_padding,
    conv,
    conv_local,
    conv_output_shape,
    conv_transpose,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def loops(x, kernel, *, strides, pads, input_dilation, dilation, groups=1):
    """The convolution as its definition says, one output entry after the other.

    `kernel` maps a position to the weights used there, (*window, channels, features).
    """
    window = kernel(None).shape[:-2]
    spread = input_dilation
    shape = [(n - 1) * h + 1 for n, h in zip(x.shape[1:-1], spread, strict=True)]
    dilated = np.zeros((x.shape[0], *shape, x.shape[-1]))
    dilated[(slice(None), *(slice(None, None, h) for h in spread))] = x
    padded = np.pad(dilated, [(0, 0), *pads, (0, 0)])
    output_shape = [
        (n - (w - 1) * d - 1) // s + 1
        for n, w, d, s in zip(
            padded.shape[1:-1], window, dilation, strides, strict=True
        )
    ]
    features = kernel(None).shape[-1]
    y = np.zeros((x.shape[0], *output_shape, features))
    split = np.split(np.arange(x.shape[-1]), groups)
    for position in itertools.product(*map(range, output_shape)):
        weights = kernel(position)
        for offset in itertools.product(*map(range, window)):
            index = tuple(
                p * s + o * d
                for p, s, o, d in zip(position, strides, offset, dilation, strict=True)
            )
            entries = padded[(slice(None), *index)]  # (batch, channels)
            outputs = [
                entries[:, channels] @ weights[offset][:, group]
                for channels, group in zip(
                    split, np.split(np.arange(features), groups), strict=True
                )
            ]
            y[(slice(None), *position)] += np.concatenate(outputs, axis=-1)
    return y


@st.composite
def configurations(draw):
    rank = draw(st.integers(1, 2))
    sizes = st.tuples(*[st.integers(1, 3)] * rank)
    pads = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * rank)
    return {
        "spatial": draw(st.tuples(*[st.integers(5, 7)] * rank)),
        "window": draw(sizes),
        "strides": draw(sizes),
        "padding": draw(pads),
        "input_dilation": draw(sizes),
        "kernel_dilation": draw(st.tuples(*[st.integers(1, 2)] * rank)),
    }


def explicit(case):
    return {
        "strides": case["strides"],
        "pads": case["padding"],
        "input_dilation": case["input_dilation"],
        "dilation": case["kernel_dilation"],
    }


@hypothesis.given(case=configurations(), groups=st.sampled_from([1, 2]))
@hypothesis.settings(max_examples=15)
def test_conv_equals_its_definition(case, groups):
    spatial, window = case.pop("spatial"), case.pop("window")
    x = normal(0, 2, *spatial, 4)
    kernel, bias = normal(1, *window, 4 // groups, 2 * groups), normal(2, 2 * groups)
    found = conv(*as_float32(x, kernel, bias), feature_group_count=groups, **case)
    expected = loops(x, lambda _: kernel, groups=groups, **explicit(case)) + bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@hypothesis.given(case=configurations())
@hypothesis.settings(max_examples=8)
def test_conv_local_equals_its_definition(case):
    spatial, window = case.pop("spatial"), case.pop("window")
    shape = conv_output_shape(spatial, window, **case)
    x = normal(0, 1, *spatial, 2)
    kernel = normal(1, *shape, 2 * int(np.prod(window)), 3)
    found = conv_local(*as_float32(x, kernel), window=window, **case)

    def weights(position):
        flat = kernel[position or (0,) * len(window)]
        return np.moveaxis(flat.reshape(2, *window, 3), 0, -2)

    expected = loops(x, weights, **explicit(case))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_copied_padding_is_that_of_numpy():
    x, kernel = normal(0, 1, 5, 2), normal(1, 4, 2, 3)
    for padding, mode in (("CIRCULAR", "wrap"), ("REFLECT", "reflect")):
        padded = np.pad(x, ((0, 0), (3, 3), (0, 0)), mode=mode)
        found = conv(*as_float32(x, kernel), padding=padding, kernel_dilation=2)
        expected = conv(*as_float32(padded, kernel), padding=0, kernel_dilation=2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_conv_transpose_spreads_entries_over_windows():
    x, kernel = normal(0, 1, 4, 2), normal(1, 3, 2, 3)
    expected = np.zeros((1, 9, 3))
    for position, offset in itertools.product(range(4), range(3)):
        # lax counts the window backwards: its kernel is that of a correlation
        expected[:, 2 * position + offset] += x[:, position] @ kernel[2 - offset]
    found = conv_transpose(*as_float32(x, kernel), strides=2, padding="VALID")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_paddings_are_written_as_pairs():
    assert canonicalize_padding("SAME", 2) == "SAME"
    assert canonicalize_padding(1, 2) == [(1, 1), (1, 1)]
    assert canonicalize_padding((1, (2, 3)), 2) == [(1, 1), (2, 3)]
    assert canonicalize_padding([], 0) == []


def test_a_convolution_that_a_library_replaced_is_called(monkeypatch):
    import linsey.linen as nn

    layer, x = nn.Conv(1, (2,), padding="VALID"), jnp.ones((1, 4, 1))
    variables = {"params": {"kernel": jnp.ones((2, 1, 1)), "bias": jnp.ones(1)}}
    assert layer.apply(variables, x).ravel().tolist() == [3, 3, 3]
    plain = lax.conv_general_dilated

    def doubled(*args, **options):
        return 2 * plain(*args, **options)

    monkeypatch.setattr(lax, "conv_general_dilated", doubled)
    assert layer.apply(variables, x).ravel().tolist() == [5, 5, 5]
    monkeypatch.undo()

    def zero(lhs, *_, **__):
        return lhs * 0

    # As libraries do that quantize: whoever holds the function calls theirs.
    monkeypatch.setattr(plain, "__code__", zero.__code__)
    assert layer.apply(variables, x).ravel().tolist() == [1, 1, 1, 1]


def test_a_precision_may_be_a_list():
    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    y = conv(x, kernel, precision=["highest", "highest"])
    np.testing.assert_array_equal(y, conv(x, kernel, precision="highest"))
