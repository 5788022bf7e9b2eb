"""Conv, ConvLocal and ConvTranspose against Flax."""

from __future__ import annotations

import flax.linen
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.base import OptionError, ShapeError, UnsupportedError
from linsey.errors.layers import InputRankError, InvalidPaddingError
from tests.linen.differential import (
    KEYS,
    assert_close,
    assert_same_bits,
    assert_same_initial_values,
    assert_same_layer,
    assert_same_refusal,
    normal,
)

PADDINGS = ["SAME", "VALID", "CIRCULAR", "REFLECT", "SAME_LOWER", 1, ((1, 2),)]


@pytest.mark.parametrize("name", ["Conv", "ConvLocal", "ConvTranspose"])
def test_initial_values_are_those_of_flax(name):
    assert_same_initial_values(name, 5, (3, 2), inputs=normal(2, 4, 5, 3))


@pytest.mark.parametrize("padding", [*PADDINGS, "CAUSAL", (2,), [(0, 1)]])
@pytest.mark.parametrize(("window", "strides"), [(3, 1), (4, 2)])
def test_conv_pads_like_flax(padding, window, strides):
    assert_same_layer(
        "Conv", 5, (window,), strides, padding, inputs=normal(2, 7, 3), grad=False
    )


@pytest.mark.parametrize(
    "shape", [(6, 5, 4), (2, 6, 5, 4), (2, 3, 6, 5, 4), (0, 6, 5, 4)]
)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_bias": False, "padding": "CIRCULAR"},
        {"feature_group_count": 2, "strides": (2, 1)},
        {"padding": ((1, 2), 0), "input_dilation": 2, "kernel_dilation": (1, 2)},
    ],
)
def test_conv_takes_any_number_of_batch_axes(shape, fields):
    assert_same_layer("Conv", 6, (3, 3), inputs=normal(*shape), grad=False, **fields)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"padding": "CIRCULAR", "kernel_dilation": 2},
        {"padding": "REFLECT", "strides": 2},
        {"padding": "CAUSAL", "kernel_dilation": 2},
        {"padding": 2, "input_dilation": 3, "feature_group_count": 2},
        {"mask": np.tril(np.ones((3, 4, 6), np.float32))},
        {"dtype": jnp.bfloat16},
        {"param_dtype": jnp.float16, "precision": "highest"},
        {"strides": None, "input_dilation": None, "kernel_dilation": None},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_conv_has_the_gradients_of_flax(fields):
    assert_same_layer("Conv", 6, 3, inputs=normal(2, 8, 4), **fields)


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=12)
def test_conv_equals_flax_whatever_the_configuration(data):
    rank = data.draw(st.integers(1, 2), "rank")
    sizes = st.tuples(*[st.integers(1, 3)] * rank)
    padding = data.draw(
        st.sampled_from(["SAME", "VALID", "CIRCULAR", "REFLECT", "SAME_LOWER"])
        | st.integers(0, 3)
        | st.lists(
            st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2)),
            min_size=rank,
            max_size=rank,
        ),
        "padding",
    )
    groups = data.draw(st.sampled_from([1, 2]), "groups")
    assert_same_layer(
        "Conv",
        2 * groups,
        data.draw(sizes, "window"),
        strides=data.draw(sizes | st.integers(1, 2), "strides"),
        padding=padding,
        kernel_dilation=data.draw(sizes, "kernel dilation"),
        feature_group_count=groups,
        inputs=normal(2, *[8] * rank, 2),
        grad=False,
    )


def test_conv_traces_to_the_equations_of_its_formula():
    x = normal(2, 6, 6, 3)
    layer = nn.Conv(4, (3, 3))
    variables = layer.init(KEYS, x)
    jaxpr = jax.make_jaxpr(layer.apply)(variables, x)
    assert list(computations(jaxpr.jaxpr)) == ["conv_general_dilated", "reshape", "add"]


def computations(jaxpr):
    """The names of primitives, with those of inner programs in place of calls."""
    for equation in jaxpr.eqns:
        inner = [v.jaxpr for v in equation.params.values() if hasattr(v, "jaxpr")]
        if inner:
            yield from computations(inner[0])
        else:
            yield equation.primitive.name


def test_causal_convolution_sees_no_future():
    layer = nn.Conv(2, 3, padding="CAUSAL", kernel_dilation=2)
    x = normal(1, 8, 2)
    variables = layer.init(KEYS, x)
    jacobian = jax.jacobian(lambda x: layer.apply(variables, x)[0, :, 0])(x)[:, 0, :, 0]
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0.0)
    assert np.all(np.diag(jacobian) != 0.0)


def test_circular_convolution_commutes_with_rotation():
    layer = nn.Conv(2, (3, 4), padding="CIRCULAR")
    x = normal(1, 6, 5, 2)
    variables = layer.init(KEYS, x)
    rotated = layer.apply(variables, jnp.roll(x, (2, 1), (1, 2)))
    expected = jnp.roll(layer.apply(variables, x), (2, 1), (1, 2))
    np.testing.assert_allclose(rotated, expected, rtol=1e-6, atol=1e-6)


def test_named_paddings_that_need_no_guess_work_on_a_dilated_input():
    layer = nn.Conv(2, 3, padding="CAUSAL", input_dilation=2)
    x = normal(1, 4, 2)
    y, variables = layer.init_with_output(KEYS, x)
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    plain = nn.Conv(2, 3, padding=0, input_dilation=2)
    np.testing.assert_allclose(y, plain.apply(variables, padded), rtol=1e-6)


def test_conv_gives_its_hook_explicit_paddings():
    seen = []

    def convolve(*args, **kwargs):
        seen.append((args[2:], kwargs["feature_group_count"]))
        return 2 * jax.lax.conv_general_dilated(*args, **kwargs)

    x = normal(1, 6, 2)
    variables = nn.Conv(2, 3).init(KEYS, x)
    expected = 2 * nn.Conv(2, 3).apply(variables, x)
    for fields in (
        {"conv_general_dilated": convolve},
        {"conv_general_dilated_cls": lambda: convolve},
    ):
        y = nn.Conv(2, 3, **fields).apply(variables, x)
        np.testing.assert_allclose(y - y.mean(), expected - expected.mean(), atol=1e-5)
    assert seen == [(((1,), ((1, 1),)), 1)] * 2


@pytest.mark.parametrize("padding", [*PADDINGS, "CAUSAL"])
def test_conv_local_pads_like_flax(padding):
    assert_same_layer(
        "ConvLocal", 4, (3,), 2, padding, inputs=normal(2, 7, 3), grad=False
    )


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"padding": 1, "kernel_dilation": 2, "input_dilation": 2},
        {"use_bias": False, "mask": np.ones((5, 4, 18, 3), np.float32)},
    ],
    ids=lambda fields: " ".join(fields),
)
@pytest.mark.parametrize("shape", [(5, 4, 2), (2, 3, 5, 4, 2)])
def test_conv_local_has_a_kernel_for_each_output(shape, fields):
    inputs = normal(*shape)
    assert_same_layer("ConvLocal", 3, (3, 3), inputs=inputs, grad=False, **fields)


def test_conv_local_has_the_gradients_of_flax():
    assert_same_layer("ConvLocal", 3, 3, inputs=normal(2, 5, 2))


TRANSPOSED = ["SAME", "VALID", "CIRCULAR", 1, ((1, 2),)]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("padding", TRANSPOSED)
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(("window", "strides"), [(3, None), (4, (2,)), (2, (3,))])
def test_conv_transpose_pads_like_flax(padding, transpose_kernel, window, strides):
    assert_same_layer(
        "ConvTranspose",
        5,
        (window,),
        strides,
        padding,
        transpose_kernel=transpose_kernel,
        inputs=normal(2, 6, 3),
        grad=False,
    )


@pytest.mark.thinned(5)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"padding": "CIRCULAR", "strides": (2, 3)},
        {"padding": "CIRCULAR", "strides": (2, 3), "transpose_kernel": True},
        {"kernel_dilation": (2, 1), "padding": ((1, 2), 3), "use_bias": False},
        {"mask": np.triu(np.ones((3, 4, 2, 3), np.float32)), "dtype": jnp.bfloat16},
    ],
    ids=lambda fields: " ".join(fields),
)
@pytest.mark.parametrize("shape", [(5, 6, 2), (2, 1, 5, 6, 2)])
def test_conv_transpose_takes_any_number_of_batch_axes(shape, fields):
    inputs = normal(*shape)
    assert_same_layer("ConvTranspose", 3, (3, 4), inputs=inputs, grad=False, **fields)


def test_conv_transpose_has_the_gradients_of_flax():
    assert_same_layer(
        "ConvTranspose", 3, 4, 2, "CIRCULAR", inputs=normal(2, 5, 2), use_bias=True
    )


def test_conv_transpose_wraps_windows_longer_than_the_output():
    assert_same_layer(
        "ConvTranspose", 3, (13,), 2, "CIRCULAR", inputs=normal(2, 3, 2), grad=False
    )


def test_conv_transpose_returns_the_preferred_dtype():
    fields = {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}
    dtypes = [
        jax.eval_shape(
            lib.ConvTranspose(3, 4, **fields).init_with_output,
            KEYS["params"],
            normal(2, 5, 2),
        )[0].dtype
        for lib in (flax.linen, nn)
    ]
    assert dtypes == [jnp.float32, jnp.float32]


def test_conv_transpose_is_the_gradient_of_conv():
    conv = nn.Conv(2, (3,), strides=2, padding="VALID", use_bias=False)
    x, y = normal(1, 7, 3), normal(1, 3, 2)
    variables = conv.init(KEYS, x)
    (expected,) = jax.vjp(lambda x: conv.apply(variables, x), x)[1](y)
    layer = nn.ConvTranspose(
        3, (3,), strides=2, padding="VALID", use_bias=False, transpose_kernel=True
    )
    assert_close(expected, layer.apply(variables, y))


@pytest.mark.parametrize("name", ["Conv", "ConvLocal", "ConvTranspose"])
class TestRefusals:
    def test_padding_of_unknown_name(self, name):
        assert_same_refusal(
            name,
            *(4, (3,)),
            padding="FOO",
            inputs=normal(1, 6, 2),
            error=InvalidPaddingError,
            match="got 'FOO'",
        )

    @pytest.mark.parametrize("padding", [(1,), ((1, 2, 3), 1), 1.5])
    def test_padding_of_another_form(self, name, padding):
        assert_same_refusal(
            name,
            *(4, (3, 3)),
            padding=padding,
            inputs=normal(1, 6, 6, 2),
            error=InvalidPaddingError,
            match="sequence of len 2",
        )

    def test_mask_of_another_shape(self, name):
        assert_same_refusal(
            name,
            *(4, (3,)),
            mask=np.ones((3, 2)),
            inputs=normal(1, 6, 2),
            error=ShapeError,
            match="same shape as weights",
        )
        for lib in (flax.linen, nn):  # before parameters are looked for
            with pytest.raises(ValueError, match="same shape as weights"):
                getattr(lib, name)(4, 3, mask=np.ones((3, 2))).apply({}, normal(6, 2))

    def test_input_with_too_few_axes(self, name):
        with pytest.raises(InputRankError, match="spatial, spatial, channels"):
            getattr(nn, name)(4, (3, 3)).init(KEYS, normal(6, 2))

    def test_strides_for_another_number_of_axes(self, name):
        layer = getattr(nn, name)(4, (3, 3), strides=(2,))
        with pytest.raises(OptionError, match="2 spatial axes"):
            layer.init(KEYS, normal(1, 6, 6, 2))


def test_conv_refuses_groups_that_do_not_divide_the_features():
    for features, channels in ((4, 3), (5, 4)):
        assert_same_refusal(
            "Conv",
            *(features, (3,)),
            feature_group_count=2,
            inputs=normal(1, 6, channels),
            error=OptionError,
            match="not a multiple of 2",
        )


def test_conv_refuses_causal_padding_of_images():
    assert_same_refusal(
        "Conv",
        *(4, (3, 3)),
        padding="CAUSAL",
        inputs=normal(1, 6, 6, 2),
        error=OptionError,
        match="only implemented for 1D",
    )


def test_conv_refuses_to_guess_the_padding_of_a_dilated_input():
    assert_same_refusal(
        "Conv",
        *(4, (3,)),
        input_dilation=2,
        inputs=normal(1, 6, 2),
        error=OptionError,
        match="before or after dilation",
    )


def test_conv_local_refuses_groups():
    assert_same_refusal(
        "ConvLocal",
        *(4, (3,)),
        feature_group_count=2,
        inputs=normal(1, 6, 2),
        error=UnsupportedError,
        match="feature_group_count",
    )


@pytest.mark.slow
def test_conv_kernels_are_shared_with_flax_in_one_tree():
    def model(lib):
        class Net(lib.Module):
            @lib.compact
            def __call__(self, x):
                x = lib.Conv(3, (3, 3))(x)
                x = lib.ConvTranspose(3, (2, 2), strides=(2, 2))(x)
                return lib.ConvLocal(2, (2, 2))(x)

        return Net()

    x = normal(1, 4, 4, 2)
    expected, found = (model(lib).init(KEYS, x) for lib in (flax.linen, nn))
    assert_same_bits(expected, found)
