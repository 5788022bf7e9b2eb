"""Attention and masks against Flax and against the formulas."""

from __future__ import annotations

import flax.linen
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.base import OptionError, ShapeError
from tests.jaxprs import primitive_names
from tests.linen.differential import (
    KEYS,
    assert_close,
    assert_same_bits,
    assert_same_initial_values,
    assert_same_layer,
    assert_same_refusal,
    builtin_of,
    layers,
    normal,
)

LIBRARIES = (flax.linen, nn)
LAYER = "MultiHeadDotProductAttention"
X = normal(2, 3, 8)


def equations(function, *arguments):
    """Names of the primitives that one call traces to."""
    return [*primitive_names(jax.make_jaxpr(function)(*arguments))]


def heads(*shape, dtype=jnp.float32):
    """Queries, keys or values."""
    return normal(*shape, dtype=dtype)


# -- masks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.make_attention_mask(
            jnp.ones((2, 3)), jnp.arange(8).reshape(2, 4)
        ),
        lambda lib: lib.make_attention_mask(
            jnp.arange(3), jnp.arange(4), jnp.greater, extra_batch_dims=2, dtype=bool
        ),
        lambda lib: lib.make_causal_mask(jnp.ones((2, 3))),
        lambda lib: lib.make_causal_mask(jnp.ones(3), 1, jnp.int8),
        lambda lib: lib.combine_masks(jnp.array([1, 2, 0]), None, jnp.array([3, 0, 0])),
        lambda lib: lib.combine_masks(None, jnp.array([1, 2]), dtype=jnp.int16),
        lambda lib: lib.combine_masks(np.ones((2, 1)), np.ones((1, 3)), dtype=bool),
    ],
)
def test_masks_are_those_of_flax(call):
    expected, found = map(call, LIBRARIES)
    assert_same_bits(expected, found)


def test_no_masks_combine_to_none():
    assert nn.combine_masks() is None
    assert nn.combine_masks(None, None) is None


def test_masks_of_different_ranks_are_refused():
    with pytest.raises(AssertionError, match="masks must have same rank"):
        flax.linen.combine_masks(jnp.ones(3), jnp.ones((1, 3)))
    with pytest.raises(ShapeError, match=r"masks must have same rank: \(1, 2\)"):
        nn.combine_masks(jnp.ones(3), jnp.ones((1, 3)))


# -- the products ----------------------------------------------------------------------

QUERY, KEY, VALUE = heads(2, 3, 2, 4), heads(2, 5, 2, 4), heads(2, 5, 2, 6)
RNG = jax.random.key(7)


def both(name, *arguments, **options):
    """What the function of Flax gives and what ours gives."""
    return [getattr(lib, name)(*arguments, **options) for lib in LIBRARIES]


OPTIONS = {
    "plain": {},
    "bias": {"bias": normal(2, 1, 3, 5)},
    "mask": {"mask": jnp.arange(30).reshape(2, 1, 3, 5) % 3 > 0},
    "mask and bias": {"mask": jnp.zeros((3, 5)), "bias": normal(5)},
    "more batch axes": {
        "mask": jnp.ones((7, 2, 1, 3, 5)),
        "bias": normal(7, 1, 1, 1, 5),
    },
    "dropout": {"dropout_rate": 0.4, "dropout_rng": RNG},
    "own dropout": {
        "dropout_rate": 0.4,
        "dropout_rng": RNG,
        "broadcast_dropout": False,
    },
    "no dropout": {"dropout_rate": 0.4, "deterministic": True},
    "precision": {"precision": "highest"},
    "half": {"dtype": jnp.bfloat16},
    "half but for the softmax": {
        "dtype": "float16",
        "force_fp32_for_softmax": True,
        "dropout_rate": 0.4,
        "dropout_rng": RNG,
        "mask": jnp.arange(5) < 4,
    },
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_equals_flax(options):
    expected, found = both("dot_product_attention", QUERY, KEY, VALUE, **options)
    assert_close(expected, found)
    expected, found = both("dot_product_attention_weights", QUERY, KEY, **options)
    assert_close(expected, found)


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [((), jnp.float32), ((2, 3), jnp.float32), ((2,), jnp.float16), ((2,), jnp.int32)],
)
def test_attention_takes_the_ranks_and_dtypes_of_flax(batch, dtype):
    query, key = heads(*batch, 3, 2, 4, dtype=dtype), heads(*batch, 5, 2, 4)
    assert_close(*both("dot_product_attention", query, key, key))


def test_gradients_of_attention_equal_those_of_flax():
    mask = jnp.arange(5) < 4

    def loss(lib):
        def of(query, key, value):
            y = lib.dot_product_attention(query, key, value, mask=mask)
            return jnp.sum(jnp.square(y))

        return jax.grad(of, argnums=(0, 1, 2))(QUERY, KEY, VALUE)

    for expected, found in zip(*map(loss, LIBRARIES), strict=True):
        assert_close(expected, found)


@hypothesis.given(
    queries=st.integers(1, 3),
    keys=st.integers(1, 3),
    count=st.integers(1, 2),
    depth=st.integers(1, 3),
)
@hypothesis.settings(max_examples=5)
def test_attention_equals_the_formula_in_float64(queries, keys, count, depth):
    query, key = heads(2, queries, count, depth), heads(2, keys, count, depth)
    y = nn.dot_product_attention(query, key, key)
    wide_query, wide_key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    scores = np.einsum("bqhd,bkhd->bhqk", wide_query, wide_key) / np.sqrt(depth)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, wide_key)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_large_scores_do_not_overflow():
    query = jnp.full((1, 1, 1, 1), 1e4)
    key = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    assert nn.dot_product_attention(query, key, key).item() == 1.0


def test_attention_traces_to_the_equations_of_its_formula():
    assert equations(nn.dot_product_attention, QUERY, KEY, VALUE) == [
        *("div", "dot_general"),  # the scores
        *("reduce_max", "stop_gradient", "broadcast_in_dim", "sub", "exp"),
        *("reduce_sum", "broadcast_in_dim", "div"),  # the softmax
        *("dot_general", "transpose"),
    ]


def test_the_products_are_computed_by_what_is_given_as_in_flax():
    def recording(calls, function):
        def call(*args, **kwargs):
            shapes = [getattr(x, "shape", x) for x in args]
            calls.append((shapes, {k: np.dtype(v) for k, v in kwargs.items()}))
            return function(*args, **kwargs)

        return call

    recorded = []
    for lib in LIBRARIES:
        calls = []
        dot_general = recording(calls, jax.lax.dot_general)
        einsum = recording(calls, jnp.einsum)
        lib.dot_product_attention(
            QUERY, KEY, VALUE, einsum_dot_general=dot_general, precision="high"
        )
        lib.dot_product_attention(
            QUERY,
            KEY,
            VALUE,
            qk_attn_weights_einsum=einsum,
            attn_weights_value_einsum=einsum,
        )
        recorded.append(calls)
    assert recorded[0] == recorded[1]


@pytest.mark.parametrize(
    ("query", "key", "value", "match"),
    [
        ((2, 3, 2, 4), (3, 2, 4), (3, 2, 4), "same rank"),
        ((2, 3, 2, 4), (1, 3, 2, 4), (1, 3, 2, 4), "batch dims must match"),
        ((2, 3, 2, 4), (2, 3, 1, 4), (2, 3, 1, 4), "num_heads must match"),
        ((2, 3, 2, 4), (2, 3, 2, 4), (2, 5, 2, 4), "lengths must match"),
        ((2, 3, 2, 4), (2, 3, 2, 5), (2, 3, 2, 4), "depths must match"),
        ((2, 4), (2, 4), (2, 4), "must have the axes"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(query, key, value, match):
    arrays = [jnp.ones(shape) for shape in (query, key, value)]
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        flax.linen.dot_product_attention(*arrays)
    with pytest.raises(ShapeError, match=match) as ours:
        nn.dot_product_attention(*arrays)
    assert isinstance(ours.value, builtin_of(theirs.value))


@pytest.mark.parametrize("key", [(3, 2, 4), (1, 3, 2, 4), (2, 3, 1, 4)])
def test_weights_of_arrays_that_do_not_belong_together_are_refused(key):
    with pytest.raises(ShapeError):
        nn.dot_product_attention_weights(QUERY, jnp.ones(key))


def test_a_mask_that_does_not_fit_is_refused():
    options = {"mask": jnp.ones((3, 7))}
    with pytest.raises(ValueError, match="Incompatible shapes"):
        flax.linen.dot_product_attention(QUERY, KEY, VALUE, **options)
    with pytest.raises(ShapeError, match="Incompatible shapes"):
        nn.dot_product_attention(QUERY, KEY, VALUE, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"qk_attn_weights_einsum": jnp.einsum},
        {
            "qk_attn_weights_einsum": jnp.einsum,
            "attn_weights_value_einsum": jnp.einsum,
            "precision": "high",
        },
    ],
)
def test_hooks_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValueError, match="must be specified together|exclusive"):
        flax.linen.dot_product_attention(QUERY, KEY, VALUE, **options)
    with pytest.raises(OptionError, match="specified together|exclusive"):
        nn.dot_product_attention(QUERY, KEY, VALUE, **options)
    with pytest.raises(OptionError, match="exclusive"):
        nn.dot_product_attention_weights(
            QUERY, KEY, einsum=jnp.einsum, einsum_dot_general=jax.lax.dot_general
        )


# -- the layer -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LAYER, "MultiHeadAttention"])
def test_initial_values_are_those_of_flax(name):
    assert_same_initial_values(name, 2, normalize_qk=True, inputs=X)


LAYER_OPTIONS = {
    "features": ({"qkv_features": 4, "out_features": 5, "use_bias": False}, {}),
    "keys": ({}, {"inputs_k": normal(2, 5, 7)}),
    "keys and values": (
        {},
        {"inputs_k": normal(2, 5, 7), "inputs_v": normal(2, 5, 6)},
    ),
    "mask": ({}, {"mask": np.tri(3)}),
    "no dropout": ({"dropout_rate": 0.5, "deterministic": True}, {}),
    "dropout": ({"dropout_rate": 0.5}, {"deterministic": False}),
    "own dropout": (
        {"dropout_rate": 0.5, "broadcast_dropout": False},
        {"deterministic": False, "dropout_rng": RNG},
    ),
    "half": ({"dtype": jnp.bfloat16, "force_fp32_for_softmax": True}, {}),
    "half parameters": ({"param_dtype": jnp.float16, "precision": "highest"}, {}),
    "output kernel": ({"out_kernel_init": nn.initializers.ones}, {}),
    "output bias": ({"out_bias_init": nn.initializers.ones}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("option", LAYER_OPTIONS)
def test_the_layer_has_the_options_of_flax(option):
    fields, call = LAYER_OPTIONS[option]
    assert_same_layer(
        LAYER, 2, inputs=X, call=call, grad=option == "mask", ulps=256, **fields
    )


@pytest.mark.slow
def test_queries_and_keys_can_be_normalized():
    assert_same_layer(LAYER, 2, inputs=X, normalize_qk=True, ulps=256)


@pytest.mark.parametrize("shape", [(3, 8), (2, 2, 3, 8)])
def test_the_layer_takes_any_batch_axes(shape):
    assert_same_layer(LAYER, 2, inputs=normal(*shape), grad=False)


def decoded(layer, x, **call):
    """Outputs and caches of decoding one element after the other."""
    variables = layer.init(KEYS, x)
    steps = [variables["cache"]]
    for i in range(x.shape[-2]):
        y, updated = layer.apply(
            {"params": variables["params"], "cache": steps[-1]},
            x[..., i : i + 1, :],
            mutable=["cache"],
            **call,
        )
        steps += [y, updated["cache"]]
    return steps


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)])
def test_decoding_is_that_of_flax_and_equals_causal_attention(shape):
    x = normal(*shape)
    expected, found = (decoded(layer, x) for layer in layers(LAYER, 2, decode=True))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert_close(a, b)
    _, whole = layers(LAYER, 2)
    params = {"params": whole.init(KEYS, x)["params"]}
    causal = nn.make_causal_mask(jnp.ones(shape[:-1]))
    y = whole.apply(params, x, mask=causal)
    assert_close(y, jnp.concatenate(found[1::2], axis=-2))


def test_decoding_with_a_mask_is_that_of_flax():
    mask = jnp.array([1, 0, 1]).reshape(1, 1, 1, 3)
    expected, found = (
        decoded(layer, X, mask=mask)
        for layer in layers(LAYER, 2, decode=True, normalize_qk=True)
    )
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert_close(a, b, ulps=256)


def test_inputs_that_do_not_fit_the_cache_are_refused():
    _, layer = layers(LAYER, 2, decode=True)
    variables = layer.init(KEYS, X)
    with pytest.raises(ShapeError, match=r"expected query shape \(2, 1, 2, 4\)"):
        layer.apply(variables, X, mutable=["cache"])


def test_weights_are_stored_when_asked():
    trees = []
    for layer in layers(LAYER, 2):
        variables = layer.init(KEYS, X)
        _, stored = layer.apply(
            variables, X, mutable=["intermediates"], sow_weights=True
        )
        trees.append(stored)
    assert jax.tree.structure(trees[1]) == jax.tree.structure(trees[0])
    assert_close(*(jax.tree.leaves(tree)[0] for tree in trees))


def test_a_function_of_the_user_gets_what_it_has_names_for():
    recorded = []

    def attend(query, key, value, mask=None, dropout_rate=None, deterministic=None):
        recorded.append((query.shape, mask.dtype, dropout_rate, deterministic))
        return value

    def attend_with_all(query, key, value, module=None, **options):
        recorded.append((module is not None, sorted(options)))
        return value

    for layer in layers(LAYER, 2, attention_fn=attend):
        layer.init(KEYS, X, mask=jnp.ones((2, 1, 3, 3)))
    for layer in layers(LAYER, 2, attention_fn=attend_with_all):
        layer.init(KEYS, X, sow_weights=True)
    assert recorded[0] == recorded[1]
    assert recorded[2] == recorded[3]


def test_modules_that_multiply_are_children_as_in_flax():
    def classes(lib):
        class Product(lib.Module):
            @lib.compact
            def __call__(self, *args, **kwargs):
                scale = self.param("scale", lib.initializers.ones, (), jnp.float32)
                return scale * jax.lax.dot_general(*args, **kwargs)

        class Contraction(lib.Module):
            @lib.compact
            def __call__(self, *args, **kwargs):
                scale = self.param("scale", lib.initializers.ones, (), jnp.float32)
                return scale * jnp.einsum(*args, **kwargs)

        return {
            "qkv_dot_general_cls": Product,
            "out_dot_general_cls": Product,
            "qk_attn_weights_einsum_cls": Contraction,
            "attn_weights_value_einsum_cls": Contraction,
        }

    trees = [getattr(lib, LAYER)(2, **classes(lib)).init(KEYS, X) for lib in LIBRARIES]
    assert_same_bits(*trees)


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
def test_self_attention_equals_flax():
    assert_same_layer(
        "SelfAttention", 2, inputs=X, call={"mask": jnp.ones((2, 1, 3, 3))}, grad=False
    )


@pytest.mark.parametrize("lib", LIBRARIES, ids=["flax", "linsey"])
def test_older_forms_are_warned_about(lib):
    layer = getattr(lib, LAYER)(2)
    with pytest.warns(DeprecationWarning, match="SelfAttention will be deprecated"):
        lib.SelfAttention(2).init(KEYS, X)
    with pytest.warns(DeprecationWarning, match="inputs_kv"):
        layer.init(KEYS, X, inputs_kv=X)
    square = jnp.ones((2, 3, 3))
    with pytest.warns(DeprecationWarning, match="mask"):
        layer.init(KEYS, X, X, square)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ({"inputs_v": X}, OptionError, "inputs_k` cannot be None"),
        ({"inputs_k": X, "inputs_kv": X}, OptionError, "must be None"),
        ({"inputs_k": jnp.ones((1, 3, 8))}, ShapeError, "batch dims"),
    ],
)
def test_inputs_that_are_unclear_are_refused(call, error, match):
    assert_same_refusal(LAYER, 2, inputs=X, call=call, error=error, match=match)


def test_features_that_cannot_be_divided_are_refused():
    assert_same_refusal(LAYER, 3, inputs=X, error=OptionError, match="qkv_features=9")


def test_the_flag_is_needed_where_there_is_dropout():
    with pytest.raises(ValueError, match="deterministic"):
        nn.MultiHeadDotProductAttention(2, dropout_rate=0.1).init(KEYS, X)


@pytest.mark.parametrize("wide", [False, True])
def test_decoding_works_with_indices_of_any_width(wide):
    layer = nn.MultiHeadDotProductAttention(num_heads=2, decode=True)
    with jax.enable_x64(True):
        x = jnp.ones((1, 3, 4))
        variables = dict(jax.eval_shape(layer.init, KEYS, x))
        variables = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), variables)
        if wide:
            cache = variables["cache"]
            cache["cache_index"] = cache["cache_index"].astype(jnp.int64)
        for i in range(2):
            _, changed = layer.apply(variables, x[:, i : i + 1], mutable=["cache"])
            variables |= changed
        index = variables["cache"]["cache_index"]
        assert (int(index), str(index.dtype)) == (2, "int64" if wide else "int32")


def test_a_full_cache_replaces_its_last_element_inside_of_jit_as_in_flax():
    x, results = normal(1, 3, 4), []
    for lib in LIBRARIES:
        layer = lib.MultiHeadDotProductAttention(num_heads=2, decode=True)
        variables = layer.init(KEYS, x[:, :2])
        step = jax.jit(lambda v, x, layer=layer: layer.apply(v, x, mutable=["cache"]))
        for i in range(3):
            y, changed = step(variables, x[:, i : i + 1])
            variables = {**variables, **changed}
        results.append(y)
    np.testing.assert_allclose(*results, atol=1e-6)


@pytest.mark.parametrize("rate", [-0.5, 1.5, float("nan")])
def test_a_rate_of_dropout_that_is_no_probability_is_refused(rate):
    layer = nn.MultiHeadAttention(2, dropout_rate=rate, deterministic=False)
    with pytest.raises(OptionError, match="rate of dropout"):
        jax.eval_shape(layer.init, KEYS, X)


def test_a_rate_of_one_drops_all_weights():
    # Flax divides by zero.
    options = {"dropout_rate": 1.0, "dropout_rng": KEYS["params"]}
    query = normal(1, 2, 1, 4)
    y = nn.dot_product_attention(query, query, query, **options)
    np.testing.assert_array_equal(y, np.zeros_like(y))


def test_warnings_begin_as_those_of_flax():
    found = []
    for lib in LIBRARIES:
        layer = lib.MultiHeadDotProductAttention(num_heads=2)
        with pytest.warns(DeprecationWarning) as caught:
            jax.eval_shape(layer.init, KEYS, *[jnp.ones((1, 4, 4))] * 3)
        found.append(str(caught[0].message))
    assert found[0].startswith(found[1])
