"""The kernels for a CPU: the same results as their definitions, wherever they run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linsey import linen as nn
from linsey.errors.layers import OperandShapeError
from linsey.ops import channel_sums, compiled
from linsey.ops import conv_cpu_compiled as convs
from linsey.ops.batch_norm import UpdateRule, batch_norm, train_batch_norm
from linsey.ops.conv import conv
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import standardize_channels

pytestmark = pytest.mark.skipif(not compiled.usable(), reason="needs numba and Linux")


def normal(seed, *shape, loc=0.0):
    drawn = np.random.default_rng(seed).standard_normal(shape) + loc
    return jnp.asarray(drawn, jnp.float32)


def kernels_in(function, *arguments):
    """The kernels that a compiled function calls."""
    text = jax.jit(function).lower(*arguments).as_text()
    return set(re.findall(r"custom_call @(linsey_\w+)", text))


def assert_near(found, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(float(np.max(np.abs(b), initial=0)), 1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.fixture
def small(monkeypatch):
    """Lets kernels compute arrays of any size."""
    monkeypatch.setattr(convs, "LARGE_WORK", 0)
    monkeypatch.setattr(compiled, "LARGE_SUMS", 0)
    monkeypatch.setattr(channel_sums, "LARGE_OUTPUT", 0)
    jax.clear_caches()
    yield
    jax.clear_caches()


# --- convolutions -----------------------------------------------------------------


def definition(x, kernel, window):
    return convs._definition(x, kernel, window=window)[0]


SAME = convs.Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)


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
        margins=(pair(-1, 3), pair(-1, 3)),
        holes=pair(1, 3),
        dilation=pair(1, 2),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
    )
    image = pair(3, 17)
    hypothesis.assume(min(window.positions(image)) > 0)
    channels = draw(st.integers(1, 5))
    features = draw(st.sampled_from([16, 32, 48])) * window.groups
    x = (draw(st.integers(1, 3)), *image, channels * window.groups)
    return x, (*window.size, channels, features), window


@hypothesis.given(problems())
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_convolutions_of_all_windows(small, problem):
    x_shape, kernel_shape, window = problem
    x, kernel = normal(0, *x_shape), normal(1, *kernel_shape)
    assert convs.takes(x_shape, kernel_shape, x.dtype, window)

    def both(function):
        def run(x, kernel):
            y, pull = jax.vjp(partial(function, window=window), x, kernel)
            return y, pull(jnp.cos(y))

        return jax.jit(run)(x, kernel)

    assert_near(both(convs.convolve), both(definition))


@pytest.mark.parametrize("columns", range(1, 31))
def test_every_number_of_columns_has_its_tiles(small, columns):
    x, kernel = normal(0, 2, 3, columns, 5), normal(1, 3, 3, 5, 32)
    found = jax.jit(partial(convs.convolve, window=SAME))(x, kernel)
    assert_near(found, definition(x, kernel, SAME))


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


@pytest.mark.parametrize(
    "case", ["half precision", "ten features", "no positions", "small work"]
)
def test_what_kernels_leave_to_xla(case):
    x, kernel, window = (64, 32, 32, 32), (3, 3, 32, 32), SAME
    dtype = jnp.bfloat16 if case == "half precision" else jnp.float32
    if case == "ten features":
        kernel = (3, 3, 32, 10)
    if case == "no positions":
        window = SAME._replace(margins=((-40, 0), (0, 0)))
    if case == "small work":
        x = (1, 4, 4, 32)
    assert not convs.takes(x, kernel, dtype, window)
    assert convs.takes((64, 32, 32, 32), (3, 3, 32, 32), jnp.float32, SAME)


def test_kernels_that_do_not_fit_are_refused(small):
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 15, 32))
    with pytest.raises(OperandShapeError, match=re.escape("(3, 3, 16, 'features')")):
        convs.convolve(x, kernel, SAME)
    with pytest.raises(OperandShapeError, match=re.escape("(2, 8, 8, 'features')")):
        convs._bind_gradient(x, jnp.ones((2, 8, 7, 32)), window=SAME)
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
    assert not convs.takes(x.shape, kernel.shape, x.dtype, groups)
    with pytest.raises(OperandShapeError):
        convs.convolve(x, kernel, groups)
    with pytest.raises((TypeError, ValueError), match="equal division"):
        conv(x, kernel, feature_group_count=3)


def test_values_of_other_channels_are_refused():
    x = jnp.ones((200, 64))
    for call in (
        lambda: channel_sums.channel_moments(x, jnp.ones(32)),
        lambda: channel_sums.channel_products(x[1:], x, x[0]),
        lambda: channel_sums.channel_spread(x[0], x[0, :1], x, x[0]),
        lambda: channel_sums.standardized_tangent(x[1:], *[x[0]] * 2, x, *[x[0]] * 3),
    ):
        with pytest.raises(OperandShapeError, match="of its last axis"):
            call()


# --- sums per channel -------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("channels", [16, 48, 64, 96, 320])
def test_sums_against_float64(rows, channels):
    x = normal(0, rows, channels, loc=1000.0)
    a, origin = normal(1, rows, channels), x[0]
    moments = jax.jit(channel_sums.channel_moments)(x, origin)
    products = jax.jit(channel_sums.channel_products)(a, x, origin)
    wide, shifted = np.float64(a), np.float64(x) - np.float64(origin)
    exact = [shifted.sum(0), (shifted**2).sum(0), wide.sum(0), (wide * shifted).sum(0)]
    sizes = [abs(shifted), shifted**2, abs(wide), abs(wide * shifted)]
    for found, right, size in zip((*moments, *products), exact, sizes, strict=True):
        # 64 rows are added up in float32.
        assert np.all(np.abs(np.float64(found) - right) <= 1e-6 * size.sum(0))


def test_a_channel_that_is_not_finite_spoils_no_other():
    x = normal(0, 200, 64).at[7, 3].set(jnp.nan).at[9, 5].set(jnp.inf)
    for sums in channel_sums.channel_moments(x, jnp.zeros(64)):
        bad = np.flatnonzero(~np.isfinite(sums))
        assert bad.tolist() == [3, 5]


def in_training(switched_on, function, *arguments):
    """Results with kernels, or without."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        if not switched_on:
            patch.setattr(compiled, "usable", lambda: False)
        results = jax.jit(function)(*arguments)
    jax.clear_caches()
    return results


X = normal(3, 4, 5, 6, 32, loc=3.0)
SCALE, BIAS = normal(4, 32), normal(5, 32)
RUNNING = (jnp.zeros(32), jnp.ones(32))
SPEC = NormSpec((0, 1, 2), (3,))


def train(x, scale, bias, epsilon=1e-5):
    return train_batch_norm(
        SPEC, UpdateRule(), x, None, scale, bias, epsilon, RUNNING, (0.9, 0.1)
    )


def loss(x, scale, bias, epsilon=1e-5):
    y, (mean, var) = train(x, scale, bias, epsilon)
    return jnp.sum(jnp.sin(y)) + jnp.sum(mean * var)


def hessian_product(x, scale, bias):
    gradient = jax.grad(loss, (0, 1, 2))
    return jax.jvp(gradient, (x, scale, bias), (jnp.cos(x), bias, scale))


def gradient_of_gradient(x, scale, bias):
    def total(*v):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1, 2))(*v))

    return jax.grad(total, (0, 1, 2))(x, scale, bias)


@pytest.mark.parametrize(
    "function",
    [
        train,
        lambda *v: train(v[0], None, None),
        lambda *v: jax.value_and_grad(loss, (0, 1, 2))(*v),
        lambda *v: jax.grad(loss)(v[0], None, None),
        lambda *v: jax.grad(loss, (1, 2))(*v),
        lambda *v: jax.grad(loss, 3)(*v, 1e-2),
        lambda *v: jax.jvp(loss, v, v),
        lambda *v: jax.linearize(loss, *v)[1](*v),
        hessian_product,
        gradient_of_gradient,
        lambda *v: jax.vmap(jax.grad(loss), (0, None, None))(
            jnp.stack([v[0], v[0] * 2]), *v[1:]
        ),
        lambda *v: jax.grad(jax.checkpoint(loss), (0, 1))(*v),
        lambda *v: jax.grad(lambda *v: jnp.sum(jnp.sin(batch_norm(*v)[0])), (0, 1, 2))(
            *v
        ),
        lambda *v: jax.jvp(lambda x: batch_norm(x)[1][:2], v[:1], v[:1]),
    ],
)
def test_training_is_the_same_with_kernels(small, function):
    found = in_training(True, function, X, SCALE, BIAS)
    assert_near(found, in_training(False, function, X, SCALE, BIAS), 1e-4)


def test_training_reads_for_two_sums_at_once(small):
    assert kernels_in(jax.grad(loss), X, SCALE, BIAS) == {
        "linsey_channel_moments",
        "linsey_channel_products",
        "linsey_channel_combine",
    }


def test_half_precision_is_left_to_xla(small):
    def total(x, dtype):
        y, (mean, var) = train_batch_norm(
            SPEC._replace(dtype=dtype),
            UpdateRule(),
            x,
            None,
            None,
            None,
            0,
            RUNNING,
            (0, 1),
        )
        return jnp.sum(y.astype(jnp.float32) ** 3) + jnp.sum(mean * var)

    for dtype in None, jnp.float32, jnp.bfloat16:
        half = jax.grad(partial(total, dtype=dtype))
        assert not kernels_in(half, X.astype(jnp.bfloat16))


@pytest.mark.parametrize("size", [2**20, 2**22])
def test_gradients_of_large_arrays(size):
    x = normal(0, size // 64, 64, loc=2.0)
    dy = normal(1, *x.shape)
    pull = jax.vjp(lambda x: standardize_channels(x, None, None, 0.0)[0], x)[1]
    wide = np.float64(x)
    deviation = wide.std(0)
    z = (wide - wide.mean(0)) / deviation
    exact = (dy - np.mean(dy, 0) - z * np.mean(dy * z, 0)) / deviation
    assert_near(pull(dy), [np.float32(exact)])


# --- where they run ---------------------------------------------------------------


def test_exported_programs_have_no_kernels(small):
    x, kernel = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 4, 32)

    def model(x, kernel):
        y = conv(x, kernel)
        return train_batch_norm(
            SPEC,
            UpdateRule(),
            y,
            None,
            None,
            None,
            1e-5,
            RUNNING,
            (0.9, 0.1),
        )[0]

    assert kernels_in(model, x, kernel)
    exported = jax.export.export(jax.jit(model))(x, kernel)
    assert "custom_call @linsey" not in exported.mlir_module()
    assert_near(exported.call(x, kernel), jax.jit(model)(x, kernel))


def test_operations_are_counted_where_kernels_are_used(small):
    layer, x = nn.Conv(32, (3, 3)), normal(0, 2, 8, 8, 16)
    variables = layer.init(jax.random.key(0), x)
    assert kernels_in(layer.apply, variables, x)
    table = nn.tabulate(layer, jax.random.key(0), compute_flops=True)(x)
    with compiled.by_definition():
        cost = jax.jit(layer.apply).lower(variables, x).cost_analysis()
        assert not kernels_in(layer.apply, variables, x)
    assert f"{int(cost['flops'])}" in table.replace(",", "")
    assert cost["flops"] > 2 * 2 * 6 * 6 * 9 * 16 * 32


def test_many_calls_at_once(small):
    x, kernel = normal(0, 8, 12, 12, 16), normal(1, 3, 3, 16, 32)

    @jax.jit
    def run(x, kernel):
        y = [convs.convolve(x * i, kernel, SAME) for i in range(4)]
        sums = [channel_sums.channel_moments(v, v[0, 0, 0]) for v in y]
        return sum(y), sums

    expected = jax.block_until_ready(run(x, kernel))
    wrong = []

    def repeat():
        for _ in range(30):
            found = jax.block_until_ready(run(x, kernel))
            if not jax.tree.all(jax.tree.map(np.array_equal, found, expected)):
                wrong.append(found)

    workers = [threading.Thread(target=repeat) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from linsey import linen as nn
from linsey.errors.layers import OperandShapeError
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16, 16, 32)), jnp.float32)
model = nn.Sequential([nn.Conv(32, (3, 3)), nn.BatchNorm(False)])
variables = model.init(jax.random.key(0), x)
run = jax.jit(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))
print(run.lower(variables, x).as_text().count("custom_call @linsey"))
y, updated = run(variables, x)
mean, var = jax.tree.leaves(updated)
print(np.asarray(y).tobytes().hex()[:64], np.asarray(var).tobytes().hex()[:64])
"""


def in_new_process(program=PROGRAM, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_any_number_of_threads_gives_the_same_bits():
    one, two = in_new_process(NPROC="1"), in_new_process(NPROC="2")
    assert one == two and one[0] == "2"


@pytest.mark.parametrize(
    "environment",
    [
        {"LINSEY_KERNELS": "0"},
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ],
)
def test_where_kernels_are_not_used(environment):
    assert in_new_process(**environment)[0] == "0"


OTHER_PROCESSOR = """
from llvmlite import binding
features = binding.get_host_cpu_features()
less = type(features)({n: on and "avx512" not in n for n, on in features.items()})
binding.get_host_cpu_features = lambda: less
import jax, jax.numpy as jnp, numpy as np
from linsey.ops import channel_sums, conv_cpu_compiled as convs
from linsey.ops.compiled import vectors
random = lambda *s: jax.random.normal(jax.random.key(0), s)
x, kernel = random(2, 9, 13, 5), random(3, 3, 5, 24)
window = convs.Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
y = convs._definition(x, kernel, window=window)[0]
print(vectors.ROWS, jnp.abs(convs.convolve(x, kernel, window) - y).max() < 1e-5)
dk, = convs._gradient_definition(x, y, window=window)
print(jnp.abs(convs._bind_gradient(x, y, window=window)[0] - dk).max() < 1e-3)
for found, exact in zip(
    channel_sums.channel_products(y, 2 * y, y[0, 0, 0]),
    channel_sums._products(y, 2 * y, y[0, 0, 0]),
):
    print(jnp.abs(found - exact).max() < 1e-2)
"""


def test_processors_with_shorter_vectors():
    assert " ".join(in_new_process(OTHER_PROCESSOR)) == "6 True True True True"


def test_without_numba():
    hidden = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "numba" else find(name)
"""
    assert in_new_process(hidden + PROGRAM)[0] == "0"


def test_kernels_that_do_not_compile_leave_the_work_to_xla(small, monkeypatch):
    def fail(name):
        raise RuntimeError("no compiler here")

    compiled.load.cache_clear()
    monkeypatch.setattr(compiled.importlib, "import_module", fail)
    x = normal(0, 64, 64)
    with pytest.warns(compiled.KernelsUnavailableWarning, match="no compiler here"):
        found = jax.jit(channel_sums.channel_moments)(x, x[0])
    compiled.load.cache_clear()
    assert_near(found, channel_sums._moments(x, x[0]))
