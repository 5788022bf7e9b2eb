"""Dense, DenseGeneral and Einsum against Flax and against the formulas."""

from __future__ import annotations

import flax.linen
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.base import OptionError
from linsey.errors.layers import AxisOutOfRangeError, InputRankError
from tests.jaxprs import primitive_names
from tests.linen.differential import (
    KEYS,
    assert_close,
    assert_same_bits,
    assert_same_initial_values,
    assert_same_layer,
    assert_same_refusal,
    normal,
    quick_init,
)


def equations(layer, variables, *inputs):
    """Names of the primitives that one application traces to."""
    return [*primitive_names(jax.make_jaxpr(layer.apply)(variables, *inputs))]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Dense", (4,)),
        ("DenseGeneral", ((4, 5), (1, -1), (0,))),
        ("Einsum", ((3, 4, 5), "abc,cde->abde")),
    ],
)
def test_initial_values_are_those_of_flax(name, arguments):
    assert_same_initial_values(name, *arguments, inputs=normal(2, 4, 3))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3), (0, 3)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_maps_the_last_axis(shape, use_bias):
    assert_same_layer("Dense", 4, use_bias=use_bias, inputs=normal(*shape))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": jnp.bfloat16},
        {"dtype": "float16"},
        {"param_dtype": jnp.bfloat16},
        {"param_dtype": jnp.complex64},
        {"precision": "highest"},
        {
            "kernel_init": nn.initializers.orthogonal(),
            "bias_init": nn.initializers.ones,
        },
    ],
)
def test_dense_computes_in_the_dtype_of_flax(fields):
    assert_same_layer("Dense", 4, inputs=normal(2, 3), **fields)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.float16, jnp.bfloat16])
def test_dense_promotes_inputs_like_flax(dtype):
    assert_same_layer("Dense", 4, inputs=normal(2, 3, dtype=dtype))


def test_dense_takes_numpy_arrays():
    inputs = np.array([[1.0, 2.0]])  # float64, which JAX holds as float32
    y, variables = nn.Dense(2).init_with_output(KEYS, inputs)
    expected = nn.Dense(2).apply(variables, jnp.asarray(inputs, jnp.float32))
    assert_close(expected, y, ulps=0)


@hypothesis.given(
    rows=st.integers(1, 4), channels=st.integers(1, 4), features=st.integers(1, 4)
)
@hypothesis.settings(max_examples=10)
def test_dense_equals_the_formula_in_float64(rows, channels, features):
    x = normal(rows, channels)
    layer = nn.Dense(features, kernel_init=quick_init, bias_init=quick_init)
    y, variables = layer.init_with_output(KEYS, x)
    kernel, bias = (
        np.asarray(variables["params"][name], np.float64) for name in ("kernel", "bias")
    )
    np.testing.assert_allclose(y, np.asarray(x) @ kernel + bias, rtol=2e-6, atol=2e-6)


def test_dense_traces_to_the_equations_of_its_formula():
    x = normal(2, 3)
    layer = nn.Dense(4)
    variables = layer.init(KEYS, x)
    assert equations(layer, variables, x) == ["dot_general", "reshape", "add"]
    assert equations(layer, variables, x[0]) == ["dot_general", "add"]
    bare = nn.Dense(4, use_bias=False)
    assert equations(bare, bare.init(KEYS, x), x) == ["dot_general"]


def test_dense_calls_the_hooks_with_what_flax_passes():
    def recording(calls, function):
        def call(*args, **kwargs):
            calls.append((jax.tree.map(jnp.shape, args[:2]), args[2:], kwargs))
            return function(*args, **kwargs)

        return call

    recorded = []
    for lib in (flax.linen, nn):
        calls = []
        layer = lib.Dense(
            4,
            precision="high",
            dot_general=recording(calls, jax.lax.dot_general),
            promote_dtype=recording(calls, lib.dtypes.promote_dtype),
        )
        layer.init(KEYS, normal(2, 3))
        recorded.append([(shapes, kwargs) for shapes, _, kwargs in calls])
    assert recorded[0] == recorded[1]


def test_dense_builds_its_product_with_the_class_in_preference():
    def double(*args, **kwargs):
        return 2 * jax.lax.dot_general(*args, **kwargs)

    def refuse(*args, **kwargs):
        raise AssertionError

    x = normal(2, 3)
    variables = nn.Dense(4).init(KEYS, x)
    layer = nn.Dense(4, dot_general=refuse, dot_general_cls=lambda: double)
    expected = 2 * nn.Dense(4).apply(variables, x)
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-6)


def test_dense_builds_a_module_that_multiplies_as_its_child():
    class Scaled:
        """Makes the same stateful product on the module class of a library."""

        def __new__(cls, lib):
            class ScaledProduct(lib.Module):
                @lib.compact
                def __call__(self, *args, **kwargs):
                    scale = self.param("scale", lib.initializers.ones, (), jnp.float32)
                    return scale * jax.lax.dot_general(*args, **kwargs)

            return ScaledProduct

    trees = [
        lib.Dense(4, dot_general_cls=Scaled(lib)).init(KEYS, normal(2, 3))
        for lib in (flax.linen, nn)
    ]
    assert_same_bits(*trees)


def test_dense_refuses_a_scalar():
    assert_same_refusal(
        "Dense", 4, inputs=jnp.ones(()), error=InputRankError, match="shape \\(\\)"
    )


@pytest.mark.thinned(3)
@pytest.mark.parametrize("features", [4, (4, 5), [2]])
@pytest.mark.parametrize(
    ("axis", "batch_dims"),
    [
        (-1, ()),
        ((1, -1), ()),
        ((3, 1), ()),
        ((), ()),
        (-1, (0,)),
        ((-1, 2), (0, 1)),
        ((2,), (1, 0)),
        ([-1], [0]),
    ],
)
def test_dense_general_contracts_any_axes(features, axis, batch_dims):
    assert_same_layer(
        "DenseGeneral",
        features,
        axis=axis,
        batch_dims=batch_dims,
        inputs=normal(2, 3, 4, 5),
        grad=features == (4, 5) and axis in [(1, -1), (-1, 2)],
    )


def test_dense_general_hands_flat_shapes_to_the_initializers():
    def recording(shapes):
        def init(key, shape, dtype):
            shapes.append(tuple(shape))
            return jnp.zeros(shape, dtype)

        return init

    recorded = []
    for lib in (flax.linen, nn):
        shapes = []
        init = recording(shapes)
        lib.DenseGeneral(
            (4, 5), axis=(-1, 2), batch_dims=(0,), kernel_init=init, bias_init=init
        ).init(KEYS, normal(2, 3, 6, 7))
        recorded.append(shapes)
    assert recorded[0] == recorded[1]


def test_dense_general_adds_a_bias_per_batch_entry_without_more_equations():
    x = normal(2, 3, 4)
    layer = nn.DenseGeneral(5, batch_dims=(0,))
    variables = layer.init(KEYS, x)
    assert equations(layer, variables, x) == ["dot_general", "reshape", "add"]


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=12)
def test_dense_general_equals_einsum(data):
    rank = data.draw(st.integers(1, 4))
    shape = data.draw(st.tuples(*[st.integers(1, 3)] * rank))
    batch = data.draw(st.integers(0, rank - 1))
    axes = data.draw(st.sets(st.integers(batch, rank - 1), min_size=1))
    layer = nn.DenseGeneral(
        (2, 3),
        axis=tuple(axes),
        batch_dims=tuple(range(batch)),
        use_bias=False,
        kernel_init=quick_init,
    )
    x = normal(*shape)
    y, variables = layer.init_with_output(KEYS, x)
    letters = "abcd"[:rank]
    kept = "".join(letters[axis] for axis in range(rank) if axis not in axes)
    kernel = letters[:batch] + "".join(letters[axis] for axis in sorted(axes)) + "yz"
    expected = np.einsum(
        f"{letters},{kernel}->{kept}yz",
        np.asarray(x, np.float64),
        np.asarray(variables["params"]["kernel"], np.float64),
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_dense_general_keeps_the_box_of_a_parameter():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "a", "b"))
    variables = nn.DenseGeneral((2, 3), kernel_init=init).init(KEYS, normal(1, 4))
    box = variables["params"]["kernel"]
    assert isinstance(box, nn.Partitioned)
    assert (box.names, box.value.shape) == (("in", "a", "b"), (4, 2, 3))


@pytest.mark.parametrize("batch_dims", [(1,), (0, 2), (-3,)])
def test_dense_general_refuses_batch_axes_that_do_not_lead(batch_dims):
    assert_same_refusal(
        "DenseGeneral",
        4,
        batch_dims=batch_dims,
        inputs=normal(2, 3, 4),
        error=OptionError,
        match="consecutive leading",
    )


def test_dense_general_refuses_an_axis_that_is_not_there():
    assert_same_refusal(
        "DenseGeneral",
        4,
        axis=3,
        inputs=normal(2, 3, 4),
        error=AxisOutOfRangeError,
        match="axes -3 to 2",
    )


EINSUMS = [
    ((5, 6, 7), "abc,cde->abde", (3, 4, 5)),
    ((5, 6, 7), "abc,dce->abed", (3, 4, 6)),
    ((4, 5, 6), "abc,bcd->dba", (3, 4, 5)),
    ((5, 6), "abc , cd -> dab", (3, 4, 5)),
    ((5, 6), "abc,cd->ab", (3, 4, 5)),
    ((5, 6), "...c,cd->...d", (3, 4, 5)),
    ((7, 5, 2), "...c,...cd->...d", (3, 7, 5)),
    ((8, 3, 5, 6), "ac,...cd->...ad", (4, 5)),
    ((3, 5, 6), "...ac,...cd->...ad", (9, 3, 4, 5)),
    ((1, 5, 2), "bc,bcd->bd", (3, 5)),
]


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("shape", "equation", "inputs"), EINSUMS)
def test_einsum_follows_its_equation(shape, equation, inputs):
    grad = equation in ("abc,bcd->dba", "...ac,...cd->...ad")
    assert_same_layer("Einsum", shape, equation, inputs=normal(*inputs), grad=grad)


@pytest.mark.parametrize("fields", [{"use_bias": False}, {"dtype": jnp.bfloat16}])
def test_einsum_has_the_options_of_flax(fields):
    x = normal(3, 4, 5)
    call = {"einsum_str": "abc,cd->abd"}
    assert_same_layer("Einsum", (5, 6), inputs=x, call=call, **fields)


def test_einsum_sums_in_the_preferred_dtype():
    layers = [
        lib.Einsum(
            (5, 6), "ab,bc->ac", dtype=jnp.bfloat16, preferred_element_type=jnp.float32
        )
        for lib in (flax.linen, nn)
    ]
    dtypes = [
        jax.eval_shape(layer.init_with_output, KEYS["params"], normal(4, 5))[0].dtype
        for layer in layers
    ]
    assert dtypes == [jnp.float32, jnp.float32]


@pytest.mark.parametrize(
    ("equation", "match"),
    [
        ("abc,cd", "must be explicit"),
        ("abc->ab", "instead of 0"),
        ("abc,cd,d->ab", "instead of 2"),
    ],
)
def test_einsum_refuses_equations_it_cannot_read(equation, match):
    assert_same_refusal(
        "Einsum",
        (5, 6),
        equation,
        inputs=normal(3, 4, 5),
        error=OptionError,
        match=match,
    )


def test_einsum_refuses_a_kernel_of_another_rank():
    with pytest.raises(OptionError, match="names 3 axes of the kernel"):
        nn.Einsum((5, 6), "abc,cde->abde").init(KEYS, normal(3, 4, 5))


@pytest.mark.parametrize(
    ("constructor", "call"), [(None, None), ("ab,bc->ac", "ab,bc->ac")]
)
def test_einsum_wants_its_equation_exactly_once(constructor, call):
    assert_same_refusal(
        "Einsum",
        (5, 6),
        constructor,
        inputs=normal(4, 5),
        call={"einsum_str": call},
        error=ValueError,
        match="einsum_str",
    )
