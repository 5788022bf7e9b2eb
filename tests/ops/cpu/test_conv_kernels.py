"""Convolutions by kernels: the same results as their definition."""

from __future__ import annotations

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax import lax

from linsey import linen as nn
from linsey.errors import ShapeError
from linsey.ops.conv import conv
from linsey.ops.cpu import conv_kernels as convs
from linsey.ops.cpu import dispatch
from tests.ops.cpu.kernels import (
    SAME,
    assert_near,
    kernels_in,
    need_kernels,
    normal,
)

pytestmark = need_kernels
counts_work = pytest.mark.skipif(
    dispatch.LARGE_CONVOLUTION == 0, reason="LINSEY_KERNELS=all: nothing is too small"
)


def takes(x, kernel, dtype, window):
    """Whether a kernel computes a convolution of operands of these shapes."""
    y = window.output_shape(x[1:3])
    return dispatch.takes_convolution(dtype, x, kernel, y, window.groups)


def definition(x, kernel, window):
    return convs._definition(x, kernel, window=window)[0]


@st.composite
def problems(draw):
    """Shapes of inputs and of the kernel, and a window with some positions."""

    def pair(low, high):
        return (
            draw(st.integers(low, high)),
            draw(st.integers(low, high)),
        )

    window = convs.Window(
        size=pair(1, 4),
        strides=pair(1, 3),
        padding=(pair(-1, 3), pair(-1, 3)),
        lhs_dilation=pair(1, 3),
        rhs_dilation=pair(1, 2),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
    )
    image = pair(3, 17)
    hypothesis.assume(min(window.output_shape(image)) > 0)
    channels = draw(st.integers(1, 5))
    features = draw(st.sampled_from([16, 32, 48])) * window.groups
    x = (draw(st.integers(1, 3)), *image, channels * window.groups)
    return x, (*window.size, channels, features), window


@hypothesis.given(problems())
@hypothesis.settings(
    max_examples=16,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_convolutions_of_all_windows(small, problem):
    x_shape, kernel_shape, window = problem
    x, kernel = normal(0, *x_shape), normal(1, *kernel_shape)
    assert takes(x_shape, kernel_shape, x.dtype, window)

    def both(function):
        def run(x, kernel):
            y, pull = jax.vjp(partial(function, window=window), x, kernel)
            return y, pull(jnp.cos(y))

        return jax.jit(run)(x, kernel)

    assert_near(both(convs.convolve), both(definition))


@hypothesis.given(problems())
@hypothesis.settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_convolutions_with_a_bias(small, problem):
    x_shape, kernel_shape, window = problem
    x, kernel = normal(0, *x_shape), normal(1, *kernel_shape)
    operands = x, kernel, normal(2, kernel_shape[-1])

    def values(function):
        def run(*operands):
            y, pull = jax.vjp(partial(function, window=window), *operands)
            tangents = jax.jvp(partial(function, window=window), operands, operands)
            return y, pull(jnp.cos(y)), tangents

        return jax.jit(run)(*operands)

    def reference(x, kernel, bias, window):
        return definition(x, kernel, window) + bias

    assert_near(values(convs.convolve_with_bias), values(reference), 5e-5)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("columns", range(1, 31))
def test_every_number_of_columns_has_its_tiles(small, columns):
    x, kernel = normal(0, 2, 3, columns, 5), normal(1, 3, 3, 5, 32)
    bias, expected = normal(2, 32), definition(x, kernel, SAME)

    @jax.jit
    def both(x, kernel, bias):
        biased = convs.convolve_with_bias(x, kernel, bias, SAME)
        return convs.convolve(x, kernel, SAME), biased

    assert_near(both(x, kernel, bias), (expected, expected + bias))


def test_a_bias_of_another_shape_is_refused():
    x, kernel = normal(0, 2, 3, 5, 5), normal(1, 3, 3, 5, 32)
    for shape in (1,), (5,), (2, 32):
        with pytest.raises(ShapeError, match=r"It has to be \(32,\)"):
            convs.convolve_with_bias(x, kernel, jnp.ones(shape), SAME)


@pytest.mark.parametrize("rank", [1, 2])
def test_layers_add_their_bias_inside_of_the_kernel(small, rank):
    layer, x = nn.Conv(32, (3,) * rank), normal(0, 2, *[9] * rank, 5)
    variables = layer.init(jax.random.key(0), x)
    variables["params"]["bias"] += normal(1, 32)
    y = jax.jit(layer.apply)(variables, x)
    assert kernels_in(layer.apply, variables, x) == {"linsey_biased_convolution"}
    with dispatch.plain_convolutions(True):
        assert_near(y, layer.apply(variables, x))
    # What the kernel does not take is added afterwards.
    variables["params"]["bias"] = variables["params"]["bias"][:1]
    layer = layer.clone(bias_init=lambda key, *_: jnp.zeros(1))
    assert kernels_in(layer.apply, variables, x) == {"linsey_convolution"}


@counts_work
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_bias_costs_no_memory(use_bias):
    class Blocks(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(4):
                x = nn.Conv(32, (3, 3), use_bias=use_bias)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            return x

    x = jnp.ones((16, 16, 16, 32))
    variables = jax.eval_shape(Blocks().init, jax.random.key(0), x)

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        y, updated = Blocks().apply(variables, x, mutable=["batch_stats"])
        return jnp.mean(y * y), updated

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    program = gradient.lower(variables["params"], variables["batch_stats"]).compile()
    # Inputs and outputs of three norms, input of the last, and two gradients.
    arrays = program.memory_analysis().temp_size_in_bytes / x.nbytes
    assert arrays < 10


def test_bands_cover_large_images(small, monkeypatch):
    monkeypatch.setattr(convs, "BAND", 1024)
    x, kernel = normal(0, 2, 37, 20, 8), normal(1, 3, 3, 8, 16)
    dy = normal(2, 2, 37, 20, 16)
    assert_near(
        jax.jit(partial(convs.convolve, window=SAME))(x, kernel),
        definition(x, kernel, SAME),
    )
    gradient = jax.jit(partial(convs._bind_gradient, window=SAME))(x, dy)
    assert_near(gradient, convs._gradient_definition(x, dy, window=SAME))


def test_all_derivatives_of_a_convolution_are_kernels(small):
    x, kernel, dx = (
        normal(0, 2, 6, 6, 16),
        normal(1, 3, 3, 16, 16),
        normal(2, 2, 6, 6, 16),
    )

    def loss(function, x, kernel):
        return jnp.sum(jnp.sin(function(x, kernel, window=SAME)))

    def second(function):
        gradient = jax.grad(partial(loss, function), (0, 1))
        return lambda x, kernel: jax.jvp(lambda x: gradient(x, kernel), (x,), (dx,))

    def third(function):
        return jax.grad(
            lambda x, kernel: jnp.sum(second(function)(x, kernel)[1][1] ** 2)
        )

    for order in second, third:
        ours, reference = order(convs.convolve), order(definition)
        assert "stablehlo.convolution" not in jax.jit(ours).lower(x, kernel).as_text()
        assert_near(jax.jit(ours)(x, kernel), jax.jit(reference)(x, kernel), 1e-4)


def test_convolutions_of_mapped_arrays(small):
    x, kernels = normal(0, 3, 2, 5, 5, 4), normal(1, 3, 3, 3, 4, 16)

    def outputs(function):
        return jax.vmap(partial(function, window=SAME))(x, kernels)

    def gradients(function):
        gradient = jax.grad(lambda k, x: jnp.sum(function(x, k, SAME) ** 2))
        return jax.vmap(gradient, (None, 0))(kernels[0], x)

    assert_near(outputs(convs.convolve), outputs(definition))
    assert_near(gradients(convs.convolve), gradients(definition), 1e-4)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_layers_use_the_kernels(small, rank, padding):
    layer = nn.Conv(32, (3,) * rank, strides=2, padding=padding)
    x = normal(0, 2, *[7] * rank, 4)
    variables = layer.init(jax.random.key(0), x)
    assert bool(kernels_in(layer.apply, variables, x)) == (rank < 3)
    found = jax.jit(layer.apply)(variables, x)
    spatial = "DHW"[3 - rank :]
    exact = lax.conv_general_dilated(
        x,
        variables["params"]["kernel"],
        (2,) * rank,
        padding,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )
    assert_near(found, exact)


@counts_work
@pytest.mark.parametrize(
    "case", ["half precision", "ten features", "no positions", "small work"]
)
def test_what_kernels_leave_to_xla(case):
    x, kernel, window = (64, 32, 32, 32), (3, 3, 32, 32), SAME
    dtype = jnp.bfloat16 if case == "half precision" else jnp.float32
    if case == "ten features":
        kernel = (3, 3, 32, 10)
    if case == "no positions":
        window = SAME._replace(padding=((-40, 0), (0, 0)))
    if case == "small work":
        x = (1, 4, 4, 32)
    assert not takes(x, kernel, dtype, window)
    assert takes((64, 32, 32, 32), (3, 3, 32, 32), jnp.float32, SAME)


def test_kernels_that_do_not_fit_are_refused(small):
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 15, 32))
    with pytest.raises(ShapeError) as caught:
        convs.convolve(x, kernel, SAME)
    assert str(caught.value).splitlines() == [
        "`convolve` got arrays of the shapes (2, 8, 8, 16), (3, 3, 15, 32).",
        "They have to be (batch, rows, columns, channels) and "
        "(3, 3, 16, 'features'): a kernel reads memory by these shapes.",
        "Reshape or broadcast the arrays before the call.",
    ]
    with pytest.raises(ShapeError) as caught:
        convs._bind_gradient(x, jnp.ones((2, 8, 7, 32)), window=SAME)
    assert str(caught.value).splitlines() == [
        "`gradient of a kernel` got arrays of the shapes (2, 8, 8, 16), (2, 8, 7, 32).",
        "They have to be (batch, rows, columns, channels) and "
        "(2, 8, 8, 'features'): a kernel reads memory by these shapes.",
        "Reshape or broadcast the arrays before the call.",
    ]
    reference = jax.eval_shape(lambda k: conv(x, k), jnp.ones((3, 3, 16, 32)))
    assert reference.shape == (2, 8, 8, 32)
    with pytest.raises((TypeError, ValueError), match="feature"):
        conv(x, kernel)


def test_features_that_do_not_fill_vectors(small):
    x, kernel = normal(0, 2, 8, 8, 6), normal(1, 3, 3, 6, 10)
    found = jax.jit(partial(convs.convolve, window=SAME))(x, kernel)
    assert_near(found, definition(x, kernel, SAME))
    gradient = jax.jit(partial(convs._bind_gradient, window=SAME))(x, found)
    assert_near(gradient, convs._gradient_definition(x, found, window=SAME))
    # 50 features in 3 groups: none is whole, though 50 // 3 is 16.
    groups = SAME._replace(groups=3)
    kernel = normal(1, 3, 3, 2, 50)
    assert not takes(x.shape, kernel.shape, x.dtype, groups)
    with pytest.raises(ShapeError):
        convs.convolve(x, kernel, groups)
    with pytest.raises((TypeError, ValueError), match="equal division"):
        conv(x, kernel, feature_group_count=3)
