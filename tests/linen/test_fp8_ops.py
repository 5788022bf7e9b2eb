"""Products in 8 bits against Flax."""

from __future__ import annotations

import warnings

import flax.linen
import flax.linen.fp8_ops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from tests.linen.differential import assert_same_bits, normal, quick_init

LIBRARIES = (flax.linen, nn)
KEY = jax.random.key(0)
X = normal(4, 3)
NAMES = ("Fp8DotGeneralOp", "Fp8DirectDotGeneralOp", "NANOOFp8DotGeneralOp")
STATE = "_overwrite_with_gradient"

pytestmark = pytest.mark.filterwarnings("ignore:The .*Fp8DotGeneralOp is deprecated")


def trained(lib, name):
    """Outputs, gradients and state of three steps."""

    def product():
        return getattr(lib, name)(amax_history_length=3)

    layer = lib.Dense(5, dot_general_cls=product, kernel_init=quick_init)
    variables = layer.init(KEY, X)
    seen = [variables]

    @jax.jit
    def step(variables, x):
        def loss(variables, x):
            y = layer.apply(variables, x)
            return jnp.sum(jnp.square(y)), y

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, x)

    for size in (1.0, 30.0, 0.01):
        gradients, y = step(variables, size * X)
        seen.append((gradients, y))
        variables = {**variables, STATE: gradients[0][STATE]}
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_products_and_their_state_equal_those_of_flax(name):
    expected, found = (trained(lib, name) for lib in LIBRARIES)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert b.dtype == a.dtype
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


def test_the_older_product_is_deprecated():
    for lib in LIBRARIES:
        with pytest.warns(DeprecationWarning, match="Fp8DotGeneralOp is deprecated"):
            lib.Fp8DotGeneralOp()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lib.NANOOFp8DotGeneralOp()  # one of its subclasses


def test_the_warning_names_the_line_that_makes_the_product():
    with pytest.warns(DeprecationWarning) as seen:
        nn.Fp8DotGeneralOp()
    assert seen[0].filename == __file__


def test_the_state_is_declared_in_the_order_of_flax():
    trees = [
        lib.Dense(2, dot_general_cls=lib.Fp8DotGeneralOp).init(KEY, X)[STATE]
        for lib in LIBRARIES
    ]
    assert_same_bits(*trees)


def test_einsum_equals_flax():
    found = []
    for lib in LIBRARIES:
        layer = lib.Fp8Einsum(amax_history_length=2)
        operands = "abc,cd->dab", normal(2, 3, 4), normal(4, 5)
        y, variables = layer.init_with_output(KEY, *operands)

        def loss(variables, layer=layer, operands=operands):
            return jnp.sum(jnp.square(layer.apply(variables, *operands)))

        found.append((y, jax.grad(loss)(variables)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


def test_attention_can_multiply_in_8_bits():
    trees = []
    for lib in LIBRARIES:
        layer = lib.MultiHeadDotProductAttention(
            2,
            qkv_dot_general_cls=lib.Fp8DotGeneralOp,
            qk_attn_weights_einsum_cls=lib.Fp8Einsum,
            attn_weights_value_einsum_cls=lib.Fp8Einsum,
            kernel_init=quick_init,
        )
        y, variables = layer.init_with_output(KEY, normal(1, 2, 4))
        trees.append((y, variables))
    np.testing.assert_allclose(trees[1][0], trees[0][0], rtol=1e-5, atol=1e-6)
    assert_same_bits(trees[0][1], trees[1][1])


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.get_fp8_max(jnp.float8_e5m2, jnp.bfloat16),
        lambda f: f.quantize(100 * X, jnp.float8_e4m3fn, jnp.ones(1), jnp.float32),
        lambda f: f.qdq(X, jnp.float8_e5m2, jnp.full(1, 0.3), jnp.float32),
        lambda f: f.compute_scale(jnp.float32(0.0), jnp.full(1, 3.0), 448.0),
        lambda f: f.compute_scale(jnp.float32(np.inf), jnp.full(1, 3.0), 448.0),
        lambda f: f.compute_scale(jnp.float32(2.0), jnp.full(1, 3.0), 448.0, 2),
        lambda f: f.compute_amax_history(X, jnp.arange(4.0)),
        lambda f: f.update_fp8_meta(X, jnp.float8_e4m3fn, jnp.ones(1), jnp.arange(3.0)),
    ],
    ids=range(8),
)
def test_functions_equal_those_of_flax(call):
    assert_same_bits(*(call(lib.fp8_ops) for lib in LIBRARIES))


def used_again(lib, x, scale, history):
    """Use one scale in three steps and twice in each."""
    ops, f32 = lib.fp8_ops, jnp.float32
    meta = [
        jax.lax.convert_element_type(m, ops.fp32_max_grad) for m in (scale, history)
    ]

    def step(carry, _):
        carry = ops.in_qdq(f32, jnp.float8_e4m3fn, carry, *meta)
        return ops.out_qdq(f32, jnp.float8_e5m2, carry * 2, *meta), None

    return jnp.sum(jax.lax.scan(step, x, None, length=3)[0])


def test_gradients_of_a_scale_used_again_are_maxima_as_in_flax():
    args = jnp.array([2.0]), jnp.ones(1), jnp.array([0.0, 5.0, 2.0])
    results = []
    for lib in LIBRARIES:
        gradients = jax.grad(used_again, (1, 2, 3))
        results.append(jax.jit(gradients, static_argnums=0)(lib, *args))
    assert_same_bits(*results)


def test_the_dtype_whose_sum_is_the_maximum_is_that_of_flax():
    seen = []
    for lib in LIBRARIES:
        dtype = lib.fp8_ops.fp32_max_grad
        x = jax.lax.convert_element_type(jnp.array([1.0, -4.0]), dtype)
        back = jax.lax.convert_element_type(x, jnp.float32).tolist()
        zero = jnp.zeros((), dtype)
        assert dtype == lib.fp8_ops.fm32 == x.dtype
        seen.append([repr(dtype), repr(x), back, repr(zero), dtype.name])
        with pytest.raises(ValueError, match="Cannot convert"):
            jax.lax.convert_element_type(x, jnp.int32)
    assert seen[0] == seen[1]
