"""Layers as functions of scopes, against Flax."""

from __future__ import annotations

import importlib

import flax.core
import flax.core.nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.core
import linsey.core.nn
from tests.linen.differential import assert_close, normal, quick_init

LIBRARIES = (flax.core, linsey.core)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X = normal(2, 3, 4)


def quick(key, shape, dtype=jnp.float32):
    return quick_init(key, shape, dtype)


QUICK = {"kernel_init": quick, "bias_init": quick}

CASES = {
    "dense": ("dense", (X, 5), QUICK),
    "dense in half": ("dense", (X, 5), QUICK | {"dtype": jnp.bfloat16, "bias": False}),
    "general": ("dense_general", (X, (2, 5)), QUICK | {"axis": (1, -1)}),
    "general batch": (
        "dense_general",
        (X, (2, 5)),
        QUICK | {"axis": (1, -1), "batch_dims": (0,)},
    ),
    "conv": ("conv", (X, 5, (3,)), QUICK),
    "conv options": (
        "conv",
        (normal(1, 5, 5, 4), 6, (3, 3)),
        QUICK | {"strides": (2, 2), "padding": "VALID", "feature_group_count": 2},
    ),
    "conv transpose": ("conv_transpose", (X, 5, (3,)), QUICK | {"strides": (2,)}),
    "layer norm": ("layer_norm", (X,), {"scale_init": quick, "bias_init": quick}),
    "layer norm bare": ("layer_norm", (X,), {"scale": False, "bias": False}),
    "group norm": ("group_norm", (normal(2, 3, 64),), {"scale_init": quick}),
    "group size": ("group_norm", (X,), {"num_groups": None, "group_size": 2}),
    "batch norm": ("batch_norm", (X,), {"scale_init": quick, "bias_init": quick}),
    "dropout": ("dropout", (X, 0.5), {}),
    "no dropout": ("dropout", (X, 0.5), {"deterministic": True}),
    "own dropout": ("dropout", (X, 0.5), {"rng": jax.random.key(3)}),
    "heads": ("multi_head_dot_product_attention", (X, X, 2), QUICK),
    "heads options": (
        "multi_head_dot_product_attention",
        (X, normal(2, 5, 4), 2),
        QUICK | {"qkv_features": 8, "out_features": 3, "bias": False},
    ),
    "causal": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        QUICK | {"causal_mask": True},
    ),
    "padded": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        QUICK
        | {"padding_mask": jnp.ones((2, 3, 1), bool)}
        | {"key_padding_mask": jnp.array([[1, 1, 0], [1, 0, 0]], bool)[..., None]},
    ),
    "segments": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        QUICK
        | {"segmentation": jnp.array([[1, 1, 2], [1, 2, 2]])[..., None]}
        | {"causal_mask": True},
    ),
    "dropped": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        QUICK | {"dropout_rate": 0.5},
    ),
    "chosen axis": (
        "multi_head_dot_product_attention",
        (normal(2, 2, 3, 4), normal(2, 2, 3, 4), 2),
        QUICK | {"attention_axis": (2,), "causal_mask": True},
    ),
    "two axes": (
        "multi_head_dot_product_attention",
        (normal(2, 2, 3, 4), normal(2, 2, 3, 4), 2),
        QUICK | {"causal_mask": True},
    ),
}


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", CASES)
def test_layers_equal_those_of_flax(name):
    function, args, options = CASES[name]
    results = [
        lib.init(lambda scope, f=getattr(lib.nn, function): f(scope, *args, **options))(
            KEYS
        )
        for lib in LIBRARIES
    ]
    assert jax.tree.structure(results[1]) == jax.tree.structure(results[0])
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert_close(a, b, ulps=256)


@pytest.mark.parametrize("name", ["dense", "general batch", "conv"])
def test_initial_values_are_those_of_flax(name):
    function, args, options = CASES[name]
    options = {key: value for key, value in options.items() if key not in QUICK}
    trees = [
        lib.init(lambda scope, f=getattr(lib.nn, function): f(scope, *args, **options))(
            KEYS
        )[1]
        for lib in LIBRARIES
    ]
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("method", ["lookup", "attend"])
def test_embeddings_equal_those_of_flax(method):
    argument = jnp.array([[1, 2]]) if method == "lookup" else normal(2, 4)

    def run(lib):
        def f(scope):
            table = lib.nn.embedding(scope, 5, 4, init_fn=quick)
            return getattr(table, method)(argument)

        return lib.init(f)(KEYS)

    expected, found = map(run, LIBRARIES)
    assert_close(expected[0], found[0])
    np.testing.assert_array_equal(
        found[1]["params"]["table"], expected[1]["params"]["table"]
    )


def test_embeddings_take_integers():
    table = linsey.core.nn.Embedding(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="must be an integer"):
        table.lookup(jnp.ones(2))


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_averages_of_batches_follow_those_of_flax(axis):
    def run(lib):
        def f(scope, x, evaluate=False):
            return lib.nn.batch_norm(scope, x, evaluate, axis=axis, momentum=0.5)

        variables = lib.init(f)(KEYS, X)[1]
        y, updated = lib.apply(f, mutable=["batch_stats"])(variables, 3 * X + 1)
        z = lib.apply(f)({**variables, **updated}, X, True)
        return y, updated, z

    results = [run(lib) for lib in LIBRARIES]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert_close(a, b, ulps=256)


def test_averages_are_taken_over_mapped_axes():
    x = normal(4, 2, 3)

    def f(scope, x):
        return linsey.core.nn.batch_norm(scope, x, momentum=0.0, axis_name="i")

    variables = linsey.core.init(f)(KEYS, x[0])[1]
    run = linsey.core.apply(f, mutable=["batch_stats"])
    _, split = jax.vmap(lambda x: run(variables, x), axis_name="i")(x)
    whole = np.asarray(x).reshape(-1, 3)
    for name, statistic in (("mean", np.mean), ("var", np.var)):
        for part in split["batch_stats"][name]:
            np.testing.assert_allclose(part, statistic(whole, 0), rtol=1e-5, atol=1e-6)


def test_attention_over_given_axes_with_a_bias_equals_flax():
    query, bias = normal(2, 3, 2, 4), normal(3, 3)

    def run(lib):
        return lib.apply(
            lambda scope: lib.nn.dot_product_attention(
                scope, query, query, query, bias=bias, axis=(1,)
            )
        )({})

    assert_close(*map(run, LIBRARIES))


@pytest.mark.parametrize("is_segments", [False, True])
def test_padding_masks_equal_those_of_flax(is_segments):
    known = [jnp.asarray(3 * np.abs(normal(2, n, 1))).astype(int) for n in (4, 5)]
    shapes = [(2, n, 2, 8) for n in (4, 5)]
    expected, found = (
        lib.nn.attention.make_padding_mask(*known, *shapes, None, is_segments)
        for lib in LIBRARIES
    )
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_padding_masks_over_any_axes():
    """Flax mixes up the keys where there are several axes."""
    valid = jnp.asarray(np.abs(normal(2, 3, 4)) > 0.5)
    shape = (2, 3, 4, 2, 8)
    for axes, equation in (
        ((1, 2), "bij,bkl->bijkl"),
        ((2, 1), "bij,bkl->bjilk"),
        (2, "bij,bil->bijl"),
    ):
        make = linsey.core.nn.attention.make_padding_mask
        found = make(valid, valid, shape, shape, axes)
        heads = 1 if isinstance(axes, tuple) else 2
        expected = np.einsum(equation, valid, valid)
        np.testing.assert_array_equal(found, np.expand_dims(expected, heads))


def test_a_query_that_sees_no_key_gets_the_mean_of_all():
    query = normal(1, 3, 1, 4)
    y = linsey.core.apply(
        lambda scope: linsey.core.nn.dot_product_attention(
            scope, query, query, query, bias=jnp.full((3, 3), -1e10)
        )
    )({})
    for row in y[0]:
        assert_close(query[0].mean(0), row)


@pytest.mark.parametrize(
    "family", ["attention", "linear", "normalization", "stochastic"]
)
def test_the_files_of_flax_are_import_paths_here_too(family):
    theirs = importlib.import_module(f"flax.core.nn.{family}")
    ours = importlib.import_module(f"linsey.core.nn.{family}")
    assert getattr(linsey.core.nn, family) is ours
    for name, value in vars(theirs).items():
        if getattr(value, "__module__", None) == theirs.__name__ and name[0] != "_":
            assert hasattr(ours, name) or name == "CacheEntry", name


def test_what_cannot_be_is_refused():
    nn, init = linsey.core.nn, linsey.core.init
    attend = nn.multi_head_dot_product_attention
    with pytest.raises(AssertionError, match="divisible by number of heads"):
        init(lambda scope: attend(scope, X, X, 3))(KEYS)
    with pytest.raises(ValueError, match="between the batch axis"):
        init(lambda scope: attend(scope, X, X, 2, attention_axis=0))(KEYS)
    with pytest.raises(NotImplementedError, match="few options, and no cache"):
        init(lambda scope: attend(scope, X, X, 2, causal_mask=True, cache=True))(KEYS)
    with pytest.raises(ValueError, match="equal groups"):
        init(lambda scope: nn.group_norm(scope, X, num_groups=3))(KEYS)
    with pytest.raises(ValueError, match="Give one of"):
        init(lambda scope: nn.group_norm(scope, X, None))(KEYS)
