"""What a CPU computes in another way than XLA: the same results as XLA's own."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linsey.ops.conv import conv
from linsey.ops.cpu import conv as cpu_conv
from linsey.ops.cpu import conv_xla


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


CPU_CASES = [
    # shape, window, features, groups, strides, padding, dilation
    ((2, 7, 6, 4), (1, 1), 4, 4, (2, 1), ((1, 0), (0, 2)), 1),
    ((2, 7, 6, 4), (3, 2), 4, 4, (2, 1), "SAME", (1, 2)),
    ((2, 7, 6, 4), (3, 3), 8, 4, 1, "CIRCULAR", 1),
    ((2, 9, 4), (3,), 8, 2, 2, ((2, 1),), 2),
    ((2, 5, 5, 24), (2, 2), 24, 12, 1, "VALID", 1),
    ((2, 3, 4), (5,), 4, 4, 1, "VALID", 1),
    ((2, 4, 4, 3, 6), (2, 2, 2), 6, 3, (1, 2, 1), "SAME", 1),
]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("case", CPU_CASES)
def test_what_is_faster_on_a_cpu_is_the_same(case):
    compare_with_xla(case)


FEW_POSITIONS = [
    # shape, window, features, groups, strides, padding, dilation
    ((2, 3, 2, 4), (3, 3), 16, 1, 1, "SAME", 1),
    ((1, 5, 4, 3), (3, 2), 8, 1, (2, 1), ((0, 1), (2, 0)), (1, 2)),
    ((2, 6, 3), (4,), 12, 1, 1, "CIRCULAR", 1),
    ((1, 2, 3, 2, 2), (2, 2, 2), 12, 1, 1, "SAME", 1),
    ((2, 2, 2, 4), (1, 1), 40, 1, 1, ((1, 0), (0, 1)), 1),
]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("case", FEW_POSITIONS)
def test_products_of_patches_are_the_same(case, monkeypatch):
    monkeypatch.setattr(cpu_conv, "PATCHED_WORK", 0)
    jax.clear_caches()
    shape, window, features, _, strides, padding, dilation = case
    x, kernel = jnp.ones(shape), jnp.ones((*window, shape[-1], features))
    run = partial(conv, strides=strides, padding=padding, kernel_dilation=dilation)
    assert "convolution" not in jax.jit(run).lower(x, kernel).as_text()
    compare_with_xla(case)
    jax.clear_caches()


@pytest.mark.parametrize(
    "shape, features, groups, dtype, is_product",
    [
        ((8, 2, 2, 256), 256, 1, "float32", True),
        ((8, 2, 2, 16), 256, 1, "float32", False),  # too little work
        ((8, 6, 6, 256), 256, 1, "float32", False),  # 288 positions
        ((8, 2, 2, 256), 256, 2, "float32", False),
        ((8, 2, 2, 256), 256, 1, "bfloat16", False),
    ],
)
def test_patches_are_for_few_positions_and_much_work(
    shape, features, groups, dtype, is_product
):
    x = jax.ShapeDtypeStruct(shape, dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1] // groups, features), dtype)
    run = jax.jit(partial(conv, feature_group_count=groups))
    assert ("dot_general" in run.lower(x, kernel).as_text()) == is_product


@pytest.fixture(params=[(1, 1), (2, 1), (2, 8)], ids=str)
def eager_lowerings(request, monkeypatch):
    """Lowerings as for much work: with so many threads, on so many devices."""
    threads, devices = request.param
    monkeypatch.setattr(conv_xla, "LARGE_WORK", 0)
    monkeypatch.setattr(conv_xla, "threads", lambda: threads)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    conv_xla._choose.cache_clear()
    yield request.param
    conv_xla._choose.cache_clear()


PLAIN_CASES = [
    # shape, window, features, groups, strides, padding, dilation
    ((4, 8, 7, 3), (3, 3), 5, 1, 1, "SAME", 1),
    ((4, 16, 7, 3), (3, 2), 3, 1, 1, "VALID", 1),
    ((6, 12, 9, 4), (2, 3), 2, 1, 1, ((0, 1), (2, 0)), 1),
    ((3, 8, 8, 2), (3, 3), 4, 1, 1, "CIRCULAR", 1),
    ((2, 8, 8, 3), (3, 3), 4, 1, (2, 1), "SAME", (1, 2)),
    ((2, 9, 3), (4,), 2, 1, 1, "SAME", 1),
    ((2, 4, 5, 4, 2), (2, 2, 2), 3, 1, 1, "VALID", 1),
    ((2, 5, 4, 6), (1, 1), 3, 1, (2, 3), "VALID", 1),
]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("case", PLAIN_CASES)
def test_every_lowering_computes_the_same(case, eager_lowerings):
    compare_with_xla(case)


def test_lowerings_follow_threads_devices_and_padding(eager_lowerings):
    threads, devices = eager_lowerings

    def choose(padding, *kernel):
        lowering = conv_xla.Lowering((1, 1), padding, (1, 1), None)
        shape, dtype = (16, 32, 32, kernel[-2]), jnp.dtype("float32")
        return conv_xla._choose(lowering, shape, kernel, dtype, devices == 1)

    same, bare = ((1, 1), (1, 1)), ((0, 0), (0, 0))
    assert choose(same, 3, 3, 32, 32).rows == (1 if threads > 1 else 0)
    assert choose(bare, 3, 3, 32, 32).rows == (3 if threads > 1 else 1)
    assert choose(bare, 3, 3, 512, 512).rows == 1  # large kernels use all threads
    assert choose(same, 3, 3, 512, 512).rows == 0
    assert choose(same, 3, 3, 32, 32).parts == (8 if devices == 1 else 1)


def test_small_convolutions_are_as_they_were():
    lowering = conv_xla.Lowering((1, 1), ((1, 1), (1, 1)), (1, 1), None)
    dtype = jnp.dtype("float32")
    chosen = conv_xla._choose(lowering, (1, 4, 4, 8), (3, 3, 8, 8), dtype, True)
    assert chosen == lowering


def test_second_derivatives_and_batches_of_lowerings_are_those_of_xla(eager_lowerings):
    generator = np.random.default_rng(1)
    x = jnp.asarray(generator.standard_normal((3, 2, 9, 6, 3)), jnp.float32)
    kernel = jnp.asarray(generator.standard_normal((3, 3, 3, 4)), jnp.float32)

    def observe(function):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel, conv_general_dilated=function)))

        def product(x):
            gradient = jax.grad(loss, (0, 1))
            return jax.jvp(gradient, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1]

        return jax.vmap(product)(x)

    expected, found = (
        jax.jit(partial(observe, function))()
        for function in (partial(lax.conv_general_dilated), lax.conv_general_dilated)
    )
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


def test_only_the_input_and_the_kernel_are_kept_for_the_gradients(eager_lowerings):
    x, kernel = jnp.ones((4, 16, 8, 4)), jnp.ones((3, 3, 4, 4))
    _, pull = jax.vjp(conv, x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
    assert kept <= x.size + kernel.size


def test_gradients_in_the_body_of_a_loop_have_the_order_that_kernels_want():
    x, kernels = jnp.ones((2, 6, 6, 3)), jnp.ones((2, 3, 3, 3, 3))

    def loss(x, kernels):
        return jnp.sum(lax.scan(lambda x, k: (conv(x, k), None), x, kernels)[0])

    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernels).as_text()
    orders = set(re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))
    assert orders == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_lowerings_hold_inside_shard_map(padding, eager_lowerings):
    x, kernel = normal(0, 4, 16, 6, 3), normal(1, 3, 3, 3, 4)
    x, kernel = as_float32(x, kernel)
    mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:1],
    )  # fmt: skip

    def loss(x, kernel):
        return jnp.sum(jnp.sin(conv(x, kernel, padding=padding)))

    def total(x, kernel):
        return lax.psum(loss(x, kernel), "data")

    specs = (jax.P("data"), jax.P())
    spread = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=jax.P())
    found = jax.jit(jax.grad(spread, (0, 1)))(x, kernel)
    for a, b in zip(found, jax.grad(loss, (0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [(3, 3), (1, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_batches_of_symbolic_size_can_be_exported(window, groups):
    kernel, x = as_float32(normal(0, *window, 4 // groups, 4), normal(1, 2, 6, 6, 4))
    function = jax.jit(lambda x: conv(x, kernel, feature_group_count=groups))
    shape = jax.export.symbolic_shape("batch, 6, 6, 4")
    exported = jax.export.export(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
    np.testing.assert_allclose(exported.call(x), function(x), rtol=1e-5, atol=1e-5)


def compare_with_xla(case):
    shape, window, features, groups, strides, padding, dilation = case
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal(shape), jnp.float32)
    kernel = generator.standard_normal((*window, shape[-1] // groups, features))
    kernel = jnp.asarray(kernel, jnp.float32)

    def observe(function):
        def apply(x, kernel):
            return conv(
                x, kernel, strides=strides, padding=padding, kernel_dilation=dilation,
                feature_group_count=groups, conv_general_dilated=function,
            )  # fmt: skip

        y, pull = jax.vjp(apply, x, kernel)
        tangent = jax.jvp(apply, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1]
        return y, tangent, *pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape))

    with_xla = partial(lax.conv_general_dilated)
    expected, found = (
        jax.jit(partial(observe, function))()
        for function in (with_xla, lax.conv_general_dilated)
    )
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def test_half_precision_sums_of_a_cpu_are_in_float32():
    x, kernel = jnp.full((1, 600, 1, 2), 1.0), jnp.full((8, 1, 1, 2), 1.001)
    x, kernel = x.astype("bfloat16"), kernel.astype("bfloat16")
    y = conv(x + 0.0039, kernel * 1.01, padding="VALID", feature_group_count=2)
    wide = conv(
        (x + 0.0039).astype("float32"), (kernel * 1.01).astype("float32"),
        padding="VALID", feature_group_count=2,
    )  # fmt: skip
    np.testing.assert_array_equal(y, wide.astype("bfloat16"))


def test_the_residual_of_a_window_for_each_channel_is_the_input():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    _, pull = jax.vjp(lambda x, k: conv(x, k, feature_group_count=4), x, kernel)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull) if leaf.size >= x.size]
    assert kept == [x.shape]
