"""A `Deferred` is accepted wherever an array is."""

from __future__ import annotations

import inspect
import operator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linsey.linen as nn
from linsey import ops
from linsey.ops.moments import NormSpec

KEY, ONES = jax.random.key(0), jnp.ones
# The functions themselves: those of `ops` check in this folder that they get arrays.
FACE = {name: inspect.unwrap(getattr(ops, name)) for name in ops.__all__}
FP8_STATE = {
    **dict.fromkeys(("lhs_scale", "rhs_scale", "grad_scale"), ONES(1)),
    **dict.fromkeys((f"{of}_amax_history" for of in ("lhs", "rhs", "grad")), ONES(4)),
}


def deferred(*shape: int) -> ops.Deferred:
    x = jax.random.uniform(KEY, shape, minval=0.1, maxval=0.9)
    spec = NormSpec(tuple(range(x.ndim - 1)), (x.ndim - 1,))
    channels = jnp.full(shape[-1], 0.5)
    return ops.Deferred((spec, None), (x, 0 * channels, channels, channels + 1, None))


def is_deferred(value: object) -> bool:
    return isinstance(value, ops.Deferred)


def computed(tree: object) -> list[np.ndarray]:
    tree = jax.tree.map(jnp.asarray, tree, is_leaf=is_deferred)
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def assert_same(function, arguments):
    arrays = [jnp.asarray(x) for x in arguments]
    for found, expected in zip(
        computed(function(*arguments)), computed(function(*arrays)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


ROWS, STEPS, HEADS, IMAGE = (
    deferred(4, 6), deferred(2, 4, 6), deferred(2, 4, 2, 6), deferred(2, 8, 8, 4)
)  # fmt: skip
CHANNELS, KERNEL, SCORES = deferred(6), deferred(3, 3, 4, 6), deferred(2, 2, 4, 4)

FUNCTIONS = {
    "attend": [({}, ROWS, deferred(3, 6))],
    "attention_scores": [({}, HEADS, HEADS)],
    "avg_pool": [
        ({"window_shape": (2, 2), "padding": "SAME", "count_include_pad": pads}, IMAGE)
        for pads in (True, False)
    ],
    "batch_norm": [({}, ROWS, CHANNELS, CHANNELS, ROWS)],
    "combine_masks": [({}, ROWS, ROWS)],
    "conv": [
        ({}, IMAGE, KERNEL, CHANNELS),
        ({"padding": "CIRCULAR"}, IMAGE, KERNEL),
        ({}, IMAGE, deferred(1, 1, 4, 6)),
        ({}, IMAGE, deferred(3, 4, 6)),
    ],
    "conv_transpose": [({}, IMAGE, KERNEL, CHANNELS)],
    "dense": [({}, ROWS, deferred(6, 6), CHANNELS)],
    "dense_general": [({"axes": (1,)}, ROWS, deferred(6, 6), CHANNELS)],
    "dequantize": [({"dq_dtype": jnp.float32, "scale": ONES(1)}, ROWS)],
    "dropout": [
        ({"key": KEY, "rate": 0.5, "broadcast_dims": axes}, ROWS) for axes in ((), (0,))
    ],
    "ema": [({"momentum": 0.5}, ROWS, ROWS)],
    "flip_sequences": [
        ({"seq_lengths": n, "num_batch_dims": 1, "time_major": False}, STEPS)
        for n in (None, jnp.array([2, 3]))
    ],
    "fp8_scaled_dot_general": [
        (FP8_STATE | {"dimension_numbers": (((1,), (0,)), ((), ()))}, ROWS, STEPS[0].T)
    ],
    "lookup": [({"indices": jnp.array([1, 2])}, ROWS)],
    "make_attention_mask": [({}, ROWS, ROWS)],
    "make_causal_mask": [({}, ROWS)],
    "mask_scores": [({}, SCORES, SCORES), ({}, SCORES, deferred(4))],
    "max_pool": [({"window_shape": shape}, IMAGE) for shape in ((2, 2), (7, 7))],
    "merge_moments": [({}, ROWS, ROWS, ROWS)],
    "min_pool": [({"window_shape": (2, 2)}, IMAGE)],
    "moments": [({}, ROWS, None, ROWS)],
    "normalize": [({}, ROWS, CHANNELS, CHANNELS, CHANNELS, CHANNELS)],
    "pool": [
        (
            {
                "init": 0.0, "reduce_fn": lax.add, "window_shape": (2, 2),
                "strides": None, "padding": "SAME",
            },
            IMAGE,
        )
    ],
    "quantize": [
        (
            {
                "q_dtype": jnp.float8_e4m3fn, "scale": ONES(1),
                "compute_dtype": jnp.float32,
            },
            ROWS,
        )
    ],
    "softmax": [({}, ROWS)],
    "spectral_norm": [({"n_steps": 2, "epsilon": 1e-12}, ROWS, deferred(1, 6))],
    "weighted_values": [({}, SCORES, HEADS), ({}, deferred(3, 2, 2, 4, 4), HEADS)],
}  # fmt: skip
WITHOUT_ARRAYS = {"Deferred", "Moments", "renorm_schedule"}


def test_each_function_of_the_face_is_tested():
    assert FUNCTIONS.keys() | WITHOUT_ARRAYS == set(ops.__all__)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_a_deferred_value(name):
    for options, *arguments in FUNCTIONS[name]:
        given = [x for x in arguments if x is not None]
        missing = [i for i, x in enumerate(arguments) if x is None]

        def call(*arrays, options=options, missing=missing):
            arrays = list(arrays)
            for index in missing:
                arrays.insert(index, None)
            return FACE[name](*arrays, **options)

        assert_same(call, given)


LAYERS = {
    "BatchApply": (lambda: nn.BatchApply(lax.sin), STEPS),
    "BatchNorm": (lambda: nn.BatchNorm(False), ROWS),
    "BatchNorm, in evaluation": (lambda: nn.BatchNorm(True), ROWS),
    "BatchNorm, deferred again": (lambda: nn.BatchNorm(False, save_memory=True), ROWS),
    "Bidirectional": (
        lambda: nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.LSTMCell(3))), STEPS
    ),
    "Conv": (lambda: nn.Conv(3, (3, 3)), IMAGE),
    "ConvLocal": (lambda: nn.ConvLocal(3, (3, 3)), IMAGE),
    "ConvTranspose": (lambda: nn.ConvTranspose(3, (3, 3)), IMAGE),
    "Dense": (lambda: nn.Dense(3), ROWS),
    "Dense in 8 bits": (
        lambda: nn.Dense(3, dot_general_cls=nn.Fp8DirectDotGeneralOp), ROWS
    ),
    "DenseGeneral": (lambda: nn.DenseGeneral(3, axis=(-2, -1)), STEPS),
    "Dropout": (lambda: nn.Dropout(0.5, deterministic=False), ROWS),
    "Einsum": (lambda: nn.Einsum((6, 3), "ab,bc->ac"), ROWS),
    "GroupNorm": (lambda: nn.GroupNorm(2), STEPS),
    "InstanceNorm": (lambda: nn.InstanceNorm(), STEPS),
    "LayerNorm": (lambda: nn.LayerNorm(), STEPS),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(2), STEPS),
    "PReLU": (lambda: nn.PReLU(), ROWS - 0.5),
    "RMSNorm": (lambda: nn.RMSNorm(), STEPS),
    "RNN": (lambda: nn.RNN(nn.OptimizedLSTMCell(3), reverse=True), STEPS),
    "SpectralNorm": (lambda: nn.SpectralNorm(nn.Dense(3)), ROWS),
    "WeightNorm": (lambda: nn.WeightNorm(nn.Dense(3)), ROWS),
}  # fmt: skip


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_a_deferred_value(name):
    make, inputs = LAYERS[name]
    layer = make()
    if not isinstance(layer, nn.Module):
        return assert_same(layer, [inputs])
    options = {"update_stats": True} if name == "SpectralNorm" else {}
    rngs = {"params": KEY, "dropout": KEY}
    variables = layer.init(rngs, jnp.asarray(inputs), **options)
    call = partial(layer.apply, variables, rngs=rngs, mutable=True, **options)
    return assert_same(call, [inputs])


def test_embeddings_attend_to_a_deferred_value():
    layer = nn.Embed(10, 6)
    variables = layer.init(KEY, jnp.array([1]))
    assert_same(lambda x: layer.apply(variables, x, method="attend"), [ROWS])


def test_attention_takes_deferred_values():
    def attend(query, bias):
        return nn.dot_product_attention(query, query, query, bias=bias, mask=bias)

    assert_same(attend, [HEADS, SCORES])


ACTIVATIONS = (
    "celu elu gelu glu hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid "
    "log_softmax logsumexp normalize relu relu6 selu sigmoid silu soft_sign softmax "
    "softplus standardize swish tanh"
)


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations_take_a_deferred_value(name):
    assert_same(getattr(nn, name), [ROWS])


@jax.custom_jvp
def twice(x):
    return 2 * x


twice.defjvp(lambda primals, tangents: (twice(*primals), 3 * tangents[0]))
DERIVED = {name: getattr(nn, name) for name in ACTIVATIONS.split()} | {"own": twice}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_of_a_function_are_those_on_an_array(name):
    """Whatever rule the function has: it is handed the array, and its tangent."""
    x, shift = jnp.asarray(ROWS), jnp.full(6, 0.5)
    spec, one = NormSpec((0,), (1,)), ONES(6)

    def loss(x, make):
        return (DERIVED[name](make(x)) ** 2).sum()

    def defer(x):
        return ops.Deferred((spec, None), (x, shift, one, None, None))

    for transform in (jax.grad, jax.jacfwd):
        found = transform(loss)(x, defer)
        expected = transform(loss)(x, lambda x: x - shift)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_transform_sees_an_array():
    assert [leaf.shape for leaf in jax.tree.leaves(STEPS)] == [STEPS.shape]
    assert_same(jax.jit(lambda x: x), [STEPS])
    assert_same(jax.vmap(lambda x: x.sum(0), in_axes=1, out_axes=1), [STEPS])
    assert_same(jax.checkpoint(lambda x: x + 1), [STEPS])


@pytest.mark.parametrize(
    "name",
    "add sub mul truediv floordiv mod pow lt le gt ge eq ne".split(),  # noqa: SIM905
)
def test_operators_are_those_of_the_array(name):
    function = getattr(operator, name)
    assert_same(lambda x: function(x, 0.5), [ROWS])
    assert_same(lambda x: function(0.5, x), [ROWS])
    assert_same(lambda x: function(x, x), [ROWS])


@pytest.mark.slow
@pytest.mark.parametrize("pool", [nn.max_pool, nn.min_pool, nn.avg_pool])
def test_what_saves_memory_can_be_pooled(pool):
    """Values and gradients are those of a layer that keeps both arrays."""
    x = jax.random.normal(KEY, (2, 8, 8, 4))

    def loss(x, save_memory):
        layer = nn.BatchNorm(False, save_memory=save_memory)
        y, _ = layer.apply(layer.init(KEY, x), x, mutable=["batch_stats"])
        return (pool(y, (3, 3), (2, 2), "SAME") ** 3).sum()

    for function in (loss, jax.grad(loss)):
        found, expected = function(x, True), function(x, False)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
