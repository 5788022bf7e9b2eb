"""SpectralNorm and WeightNorm against Flax and against the formulas."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.layers import AxisOutOfRangeError, NotAMatrixError
from linsey.ops.spectral import spectral_norm
from tests.linen.differential import (
    assert_close,
    assert_same_bits,
    normal,
    quick_init,
)

LIBRARIES = (flax.linen, nn)
KEY = jax.random.key(0)
X = normal(2, 3)


def dense(lib, features=4, **fields):
    fields = {"kernel_init": quick_init, "bias_init": quick_init} | fields
    return lib.Dense(features, **fields)


def network(lib):
    """Two layers with weights and one without matrices."""

    class Network(lib.Module):
        @lib.compact
        def __call__(self, x, double=False):
            x = lib.LayerNorm()(dense(lib)(x))
            return dense(lib, 2, name="last")(x) * (2 if double else 1)

    return Network()


def assert_trees_close(expected, found, ulps=64):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert_close(a, b, ulps)


def assert_same(wrap, x=X, **call):
    """The wrapped layer of Flax and ours: variables, outputs, updates, gradients."""
    theirs, ours = map(wrap, LIBRARIES)
    expected, variables = theirs.init_with_output(KEY, x, **call)
    found, own = ours.init_with_output(KEY, x, **call)
    assert_trees_close(variables, own)
    assert_close(expected, found)
    assert list(jax.tree.map(jnp.shape, own)) == list(variables)

    def results(layer):
        def loss(params, x):
            y, updated = layer.apply(
                {**variables, "params": params}, x, mutable=["batch_stats"], **call
            )
            return jnp.sum(jnp.square(y)), (y, updated)

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(variables["params"], x)

    assert_trees_close(results(theirs), results(ours), ulps=512)
    return variables


# -- spectral --------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_spectral_norm_equals_flax(update, steps):
    assert_same(lambda lib: lib.SpectralNorm(dense(lib), steps), update_stats=update)


@pytest.mark.slow
def test_spectral_norm_of_a_network_equals_flax():
    assert_same(
        lambda lib: lib.SpectralNorm(
            network(lib), collection_name="batch_stats", epsilon=1e-3
        ),
        update_stats=True,
        double=True,
    )


@pytest.mark.slow
def test_spectral_norm_takes_kernels_with_more_axes_as_matrices():
    x = normal(1, 5, 2)
    assert_same(
        lambda lib: lib.SpectralNorm(lib.Conv(2, (3,), kernel_init=quick_init)),
        x,
        update_stats=True,
    )


def test_spectral_norm_keeps_its_estimates_where_it_is_told():
    theirs, ours = (
        lib.SpectralNorm(dense(lib), collection_name="spectral").init(
            KEY, X, update_stats=False
        )
        for lib in LIBRARIES
    )
    assert_trees_close(theirs, ours)
    assert "layer_instance/kernel/u" in ours["spectral"]


def test_spectral_norm_computes_in_the_dtype_of_flax():
    both = [
        lib.SpectralNorm(dense(lib), dtype=jnp.bfloat16).init_with_output(
            KEY, X, update_stats=False
        )
        for lib in LIBRARIES
    ]
    assert_trees_close(*both)


def test_spectral_norm_makes_the_largest_singular_value_one():
    layer = nn.SpectralNorm(dense(nn, use_bias=False), n_steps=30)
    variables = layer.init(KEY, X, update_stats=False)
    kernel = 5 * normal(3, 4)
    variables["params"]["layer_instance"]["kernel"] = kernel
    y = layer.apply(variables, jnp.eye(3), update_stats=False)
    expected = np.asarray(kernel) / np.linalg.norm(kernel, 2)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_spectral_norm_of_zeros_is_zeros():
    layer = nn.SpectralNorm(dense(nn, kernel_init=nn.initializers.zeros))
    y, variables = layer.init_with_output(KEY, X, update_stats=True)
    assert jnp.isfinite(y).all()
    assert variables["batch_stats"]["layer_instance/kernel/sigma"] == 0.0


def test_spectral_norm_can_refuse_what_is_no_matrix():
    for lib in LIBRARIES:
        layer = lib.SpectralNorm(lib.Conv(2, (3,)), error_on_non_matrix=True)
        with pytest.raises(ValueError, match="Input is 3D but error_on_non_matrix"):
            layer.init(KEY, normal(1, 5, 2), update_stats=False)
    assert issubclass(NotAMatrixError, ValueError)


# -- weight ----------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_scale": False},
        {"feature_axes": None},
        {"feature_axes": 0, "epsilon": 1e-3},
        {"feature_axes": (0, -1)},
        {"variable_filter": None, "scale_init": quick_init},
        {"variable_filter": ["bias", "ern"]},
        {"variable_filter": {"nothing"}},
    ],
)
def test_weight_norm_equals_flax(fields):
    assert_same(lambda lib: lib.WeightNorm(dense(lib), **fields))


@pytest.mark.slow
def test_weight_norm_of_a_network_equals_flax():
    variables = assert_same(lambda lib: lib.WeightNorm(network(lib)), double=True)
    assert "layer_instance/last/kernel/scale" in variables["params"]


def test_weight_norm_computes_in_the_dtype_of_flax():
    fields = {"dtype": jnp.bfloat16, "param_dtype": jnp.float16}
    both = [
        lib.WeightNorm(dense(lib), **fields).init_with_output(KEY, X)
        for lib in LIBRARIES
    ]
    assert_trees_close(*both)


def test_weight_norm_makes_columns_of_the_length_of_the_scale():
    layer = nn.WeightNorm(dense(nn, use_bias=False), scale_init=quick_init)
    variables = layer.init(KEY, X)
    lengths = jnp.linalg.norm(layer.apply(variables, jnp.eye(3)), axis=0)
    scale = variables["params"]["layer_instance/kernel/scale"]
    np.testing.assert_allclose(lengths, jnp.abs(scale), rtol=1e-5)


def test_one_text_chooses_the_parameters_that_contain_it():
    params = nn.WeightNorm(dense(nn), variable_filter="bias").init(KEY, X)["params"]
    assert set(params) == {"layer_instance", "layer_instance/bias/scale"}


def test_a_layer_with_weight_norm_may_have_state():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(dense(nn)(x))

    layer = nn.WeightNorm(Network())
    variables = layer.init(KEY, X)
    _, updated = layer.apply(variables, X, mutable=["batch_stats"])
    mean = updated["batch_stats"]["layer_instance"]["BatchNorm_0"]["mean"]
    assert jnp.any(mean != 0)


def test_weight_norm_refuses_an_axis_that_is_not_there():
    with pytest.raises(IndexError):
        flax.linen.WeightNorm(dense(flax.linen), feature_axes=5).init(KEY, X)
    with pytest.raises(AxisOutOfRangeError, match="axis 5"):
        nn.WeightNorm(dense(nn), feature_axes=5).init(KEY, X)


# -- both ------------------------------------------------------------------------------


def test_names_inside_other_modules_are_those_of_flax():
    trees = []
    for lib in LIBRARIES:

        class Network(lib.Module):
            @lib.compact
            def __call__(self, x, lib=lib):
                x = lib.SpectralNorm(dense(lib))(x, update_stats=True)
                x = lib.SpectralNorm(dense(lib, name="mine"))(x, update_stats=False)
                return lib.WeightNorm(dense(lib), name="last")(x)

        trees.append(Network().init(KEY, X))
    assert_trees_close(*trees)


@pytest.mark.parametrize("name", ["SpectralNorm", "WeightNorm"])
def test_initial_values_are_those_of_flax(name):
    call = {"update_stats": False} if name == "SpectralNorm" else {}
    trees = [getattr(lib, name)(lib.Dense(4)).init(KEY, X, **call) for lib in LIBRARIES]
    if name == "SpectralNorm":
        key = "layer_instance/kernel/u"
        assert_same_bits(*(tree["batch_stats"][key] for tree in trees))
    assert_trees_close(*trees)


def test_layers_with_boxed_parameters():
    def boxed(lib):
        return dense(lib, kernel_init=lib.with_partitioning(quick_init, ("in", "out")))

    theirs, ours = (lib.WeightNorm(boxed(lib)) for lib in LIBRARIES)
    expected, found = theirs.init(KEY, X)["params"], ours.init(KEY, X)["params"]
    scale, layer = found
    assert list(expected) == [scale, layer]
    assert found[layer]["kernel"].names == ("in", "out")
    assert_close(expected[layer]["kernel"].value, found[layer]["kernel"].value)
    y = theirs.apply({"params": expected}, X), ours.apply({"params": found}, X)
    assert_close(*y)
    # Flax fails.
    models = nn.SpectralNorm(boxed(nn)), nn.SpectralNorm(dense(nn))
    with_box, plain = (m.init_with_output(KEY, X, update_stats=True) for m in models)
    assert_close(with_box[0], plain[0])


@pytest.mark.parametrize("kernel", ["float32", "float64", "complex64", "bfloat16"])
@pytest.mark.parametrize("own", ["float32", "bfloat16"])
def test_estimates_keep_the_dtype_they_were_made_with(kernel, own):
    with jax.enable_x64(True):
        inner = nn.Dense(4, param_dtype=kernel, kernel_init=nn.initializers.ones)
        layer = nn.SpectralNorm(inner, param_dtype=own)
        made = jax.eval_shape(lambda: layer.init(KEY, X, update_stats=False))

        def update(variables):
            return layer.apply(variables, X, update_stats=True, mutable=["batch_stats"])

        _, updated = jax.eval_shape(update, made)
    before, after = made["batch_stats"], updated["batch_stats"]
    assert [v.dtype for v in before.values()] == [v.dtype for v in after.values()]


def test_the_largest_singular_value_of_a_complex_matrix_is_found():
    matrix = normal(5, 4) + 1j * normal(5, 4)[::-1]
    sigma, u = spectral_norm(matrix, normal(1, 4).astype(matrix.dtype), 200, 1e-12)
    np.testing.assert_allclose(sigma, np.linalg.norm(matrix, 2), rtol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(u), 1, rtol=1e-5)
