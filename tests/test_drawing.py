"""Values drawn in chunks are those that an initializer draws by itself."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import _drawing
from linsey._drawing import PROGRAMS, Chunked, draw

initializers = nn.initializers
KEYS = {"typed": jax.random.key(3), "raw": jax.random.PRNGKey(5)}
# One chunk and less, several with a rest, several large ones.
SHAPES = (3, 3, 4, 8), (5, 2000), (2**14 + 1, 5)
INITIALIZERS = {
    "delta_orthogonal": initializers.delta_orthogonal(),
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
    "kaiming_normal": initializers.kaiming_normal(in_axis=0, out_axis=1),
    "lecun_normal": initializers.lecun_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "normal": initializers.normal(0.3),
    "ones": initializers.ones,
    "orthogonal": initializers.orthogonal(),
    "truncated_normal": initializers.truncated_normal(0.2, lower=-1.0, upper=3.0),
    "uniform": initializers.uniform(0.7),
    "variance_scaling": initializers.variance_scaling(2.0, "fan_avg", "normal"),
    "zeros": initializers.zeros,
}


REFUSED = {
    *itertools.product(["orthogonal", "delta_orthogonal"], ["bfloat16", "float16"]),
    *itertools.product(["truncated_normal", "uniform"], ["complex64"]),
}


def assert_same_bits(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found.weak_type == expected.weak_type
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def is_drawn_in_chunks(init_fn, *args) -> bool:
    key = KEYS["typed"]
    given = (key.shape, key.dtype), args, (), False
    return _drawing._recipe(init_fn, *given) is not None


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_bits_are_those_of_the_initializer(name, dtype):
    init_fn, dtype = INITIALIZERS[name], jnp.dtype(dtype)
    if (name, str(dtype)) in REFUSED:
        with pytest.raises((NotImplementedError, ValueError)):
            draw(init_fn, KEYS["typed"], (SHAPES[0], dtype), {})
        return
    for shape in SHAPES[: 1 if "orthogonal" in name else 3]:
        key = KEYS["raw" if shape == SHAPES[1] else "typed"]
        found = draw(init_fn, key, (shape, dtype), {})
        assert_same_bits(found, init_fn(key, shape, dtype))
        is_drawn = is_drawn_in_chunks(init_fn, shape, dtype)
        assert is_drawn == ("orthogonal" not in name)


@pytest.mark.parametrize("name", ["lecun_normal", "normal", "uniform"])
def test_in_double_precision_too(name):
    with jax.enable_x64(True):
        dtypes = (jnp.float64, jnp.complex128, jnp.float32)
        for dtype in dtypes[:: 2 if name == "uniform" else 1]:
            args = (5, 2000), dtype
            found = draw(INITIALIZERS[name], KEYS["typed"], args, {})
            assert_same_bits(found, INITIALIZERS[name](KEYS["typed"], *args))


def test_programs_serve_every_shape():
    init_fn = initializers.he_normal()
    draw(init_fn, KEYS["typed"], ((3, 50), jnp.float32), {})
    before = set(PROGRAMS)
    for shape in ((7, 11), (3, 5, 60), (2, 2, 9, 9), (4000,)):
        other = initializers.normal() if len(shape) == 1 else initializers.he_normal()
        assert is_drawn_in_chunks(other, shape, jnp.float32)
        found = draw(other, KEYS["typed"], (shape, jnp.float32), {})
        assert_same_bits(found, other(KEYS["typed"], shape, jnp.float32))
    added = set(PROGRAMS) - before
    assert len(added) <= 1  # that of `normal`


@pytest.mark.parametrize("boxed", [nn.with_partitioning, nn.with_logical_partitioning])
def test_a_box_is_put_around_the_values(boxed):
    init_fn = boxed(initializers.lecun_normal(), ("in", "out"))
    assert is_drawn_in_chunks(init_fn, (9, 8), jnp.float32)
    found = draw(init_fn, KEYS["typed"], ((9, 8), jnp.float32), {})
    expected = init_fn(KEYS["typed"], (9, 8), jnp.float32)
    assert type(found) is type(expected) and found.names == ("in", "out")
    assert_same_bits(found.value, expected.value)


def test_functions_of_the_user_are_called_once_and_as_they_are():
    calls = []

    def init_fn(key, shape):
        calls.append(key)
        return jax.random.normal(key, shape)

    found = draw(init_fn, KEYS["typed"], ((9, 8),), {})
    assert len(calls) == 1 and calls[0] is KEYS["typed"]
    assert_same_bits(found, jax.random.normal(KEYS["typed"], (9, 8)))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_draw_as_they_do(impl):
    key = jax.random.key(0, impl=impl)
    args = (9, 8), jnp.float32
    init_fn = initializers.normal()
    assert_same_bits(draw(init_fn, key, args, {}), init_fn(key, *args))


@pytest.mark.parametrize("wrap", [jax.jit, functools.partial(jax.vmap, axis_size=2)])
def test_inside_of_a_transform_the_initializer_runs(wrap):
    keys, args = jax.random.split(KEYS["typed"], 2), ((9, 8), jnp.float32)
    init_fn = initializers.lecun_normal()
    key = KEYS["typed"] if wrap is jax.jit else keys
    found = wrap(lambda key: draw(init_fn, key, args, {}))(key)
    assert_same_bits(found, wrap(lambda key: init_fn(key, *args))(key))


def test_a_constant_key_in_a_trace_is_traced():
    args, init_fn = ((9, 8), jnp.float32), initializers.lecun_normal()
    found = jax.jit(lambda: draw(init_fn, KEYS["typed"], args, {}))()
    assert_same_bits(found, jax.jit(lambda: init_fn(KEYS["typed"], *args))())


def test_errors_are_those_of_the_initializer():
    init_fn = initializers.lecun_normal()
    with pytest.raises(ValueError, match="1-dimensional"):
        draw(init_fn, KEYS["typed"], ((50,), jnp.float32), {})
    with pytest.raises(TypeError):
        draw(init_fn, KEYS["typed"], ((50, 2), jnp.float32, 1, 2), {})


def test_what_mixes_entries_is_not_drawn_in_chunks():
    def mixed(key):
        x = jax.random.normal(key, (9, 8))
        return x - x.mean()

    def flipped(key):
        return jax.random.normal(key, (9, 8))[::-1]

    for function in (mixed, flipped):
        program = jax.make_jaxpr(function)(KEYS["typed"]).jaxpr
        with pytest.raises(_drawing.NotInChunks):
            Chunked((9, 8), 16).divide(program)


def test_variables_of_a_model_are_those_of_its_initializers():
    model = nn.Sequential([nn.Dense(40), nn.BatchNorm(True), nn.Dense(50)])
    x = jnp.ones((2, 30))
    params = model.init(KEYS["typed"], x)["params"]
    expected = jax.jit(model.init)(KEYS["typed"], x)["params"]
    jax.tree.map(assert_same_bits, params, expected)
    assert_same_bits(jax.jit(lambda p: p)(params)["layers_0"]["kernel"],
                     params["layers_0"]["kernel"])  # fmt: skip
