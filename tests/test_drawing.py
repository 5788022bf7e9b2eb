"""Values drawn in chunks are those that an initializer draws by itself."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import textwrap
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.interpreters.partial_eval import dce_jaxpr

import linsey.linen as nn
from linsey import _drawing
from linsey._drawing import eager, traced
from linsey._drawing.recipes import PROGRAMS, Chunked, NotInChunks, numbers_of
from linsey.core import rng
from linsey.core.rng import LazyRng
from linsey.ops.cpu import dispatch

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


def draw(init_fn, key, args, kwargs):
    return _drawing.draw(init_fn, LazyRng(key), args, kwargs)


def assert_same_bits(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found.weak_type == expected.weak_type
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def is_drawn_in_chunks(init_fn, *args) -> bool:
    recipe = _drawing._recipe(init_fn, KEYS["typed"], args, {})
    return recipe is not None and recipe.parts(eager.CHUNKS[0]) is not None


@pytest.mark.thinned(25)
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
        assert is_drawn == ("orthogonal" not in name and dtype != jnp.complex64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lecun_normal", "normal", "uniform"])
def test_in_double_precision_too(name):
    with jax.enable_x64(True):
        dtypes = (jnp.float64, jnp.complex128, jnp.float32)
        for dtype in dtypes[:: 2 if name == "uniform" else 1]:
            args = (5, 2000), dtype
            found = draw(INITIALIZERS[name], KEYS["typed"], args, {})
            assert_same_bits(found, INITIALIZERS[name](KEYS["typed"], *args))


def test_programs_serve_every_shape():
    for init_fn in initializers.he_normal(), initializers.normal():
        draw(init_fn, KEYS["typed"], ((3, 50), jnp.float32), {})
    before = set(PROGRAMS)
    for shape in ((7, 11), (3, 5, 60), (2, 2, 9, 9), (4000,)):
        other = initializers.normal() if len(shape) == 1 else initializers.he_normal()
        assert is_drawn_in_chunks(other, shape, jnp.float32)
        found = draw(other, KEYS["typed"], (shape, jnp.float32), {})
        assert_same_bits(found, other(KEYS["typed"], shape, jnp.float32))
    assert not set(PROGRAMS) - before


@pytest.mark.parametrize("boxed", [nn.with_partitioning, nn.with_logical_partitioning])
def test_a_box_is_put_around_the_values(boxed):
    init_fn = boxed(initializers.lecun_normal(), ("in", "out"))
    assert is_drawn_in_chunks(init_fn, (9, 8), jnp.float32)
    found = draw(init_fn, KEYS["typed"], ((9, 8), jnp.float32), {})
    expected = init_fn(KEYS["typed"], (9, 8), jnp.float32)
    assert type(found) is type(expected) and found.names == ("in", "out")
    assert_same_bits(found.value, expected.value)


@pytest.mark.parametrize("wrap", [lambda f: f, functools.wraps(initializers.zeros)])
def test_functions_of_the_user_are_called_once_and_as_they_are(wrap):
    calls = []

    @wrap
    def init_fn(key, shape):
        calls.append(key)
        return jax.random.normal(key, shape)

    found = draw(init_fn, KEYS["typed"], ((9, 8),), {})
    assert len(calls) == 1 and calls[0] is KEYS["typed"]
    assert_same_bits(found, jax.random.normal(KEYS["typed"], (9, 8)))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_kernels_that_are_reshaped_are_drawn_too(wrap):
    model, x = nn.MultiHeadDotProductAttention(4), jnp.ones((2, 5, 12))
    found = wrap(model.init)(KEYS["typed"], x)["params"]
    for name, shape in {"query": (12, 12), "out": (12, 12)}.items():
        key = rng.fold_in_static(KEYS["typed"], (name, 1))
        expected = initializers.lecun_normal()(key, shape)
        kernel = found[name]["kernel"]
        assert_same_bits(kernel, expected.reshape(kernel.shape))


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
        with pytest.raises(NotInChunks):
            Chunked((9, 8), 16).divide(program)


def test_variables_of_a_model_are_those_of_its_initializers():
    model = nn.Sequential([nn.Dense(40), nn.BatchNorm(True), nn.Dense(50)])
    x = jnp.ones((2, 30))
    params = model.init(KEYS["typed"], x)["params"]
    expected = jax.jit(model.init)(KEYS["typed"], x)["params"]
    jax.tree.map(assert_same_bits, params, expected)
    assert_same_bits(jax.jit(lambda p: p)(params)["layers_0"]["kernel"],
                     params["layers_0"]["kernel"])  # fmt: skip


# --- under jit ------------------------------------------------------------------------

# Of one block and less, of several with a rest, and of several loops.
MANY = (3, 3, 4, 8), (5, 2000), (300, 300)


class Parameters(nn.Module):
    """Parameters by some initializers, each in several shapes."""

    names: tuple[str, ...] = ("he_uniform", "lecun_normal", "normal", "orthogonal")
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self):
        for name in self.names:
            for shape in MANY[: 1 if "orthogonal" in name else None]:
                self.param(f"{name}{shape}", INITIALIZERS[name], shape, self.dtype)


# Of these the values are those outside of a program too: XLA merges no products.
FEW = Parameters(("he_uniform", "lecun_normal"))


def plain(model):
    """`init` that draws each parameter by itself."""
    return lambda *args: model.init_with_output(*args)[1]


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(assert_same_bits, found, expected)


def operations(function, *args) -> list[int]:
    """How many arrays each operation of a program draws, of those that are needed."""
    closed = jax.make_jaxpr(function)(*args)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return [len(e.outvars) for e in jaxpr.eqns if e.primitive is traced.draw_p()]


def assert_as_plain(model, key=KEYS["typed"]):
    assert_equal(jax.jit(model.init)(key), jax.jit(plain(model))(key))


def test_under_jit_the_bits_are_those_of_the_initializers():
    assert_as_plain(Parameters())


@pytest.fixture(params=["in place", "cut out"])
def places(request):
    """With a kernel that puts blocks into arrays, and without."""
    in_place = request.param == "in place"
    if in_place and not dispatch.kernels_usable():
        pytest.skip("needs numba and Linux")
    with mock.patch.object(dispatch, "kernels_usable", lambda: in_place):
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("places")
def test_under_jit_the_bits_are_those_of_all_initializers(dtype):
    names = [name for name in INITIALIZERS if (name, dtype) not in REFUSED]
    assert_as_plain(Parameters(tuple(names), jnp.dtype(dtype)))


@pytest.mark.slow
@pytest.mark.usefixtures("places")
def test_under_jit_in_double_precision_too():
    with jax.enable_x64(True):
        assert_as_plain(Parameters(dtype=jnp.float64))


@pytest.mark.slow
@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 70_000), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_under_jit_any_shapes_have_their_bits(sizes, seed, in_place):
    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            for i, n in enumerate(sizes):
                self.param(f"p{i}", initializers.normal(0.1 + i), (n,))
                self.param(f"q{i}", initializers.uniform(1.0 + i), (n,))

    usable = in_place and dispatch.kernels_usable()
    with mock.patch.object(dispatch, "kernels_usable", lambda: usable):
        assert_as_plain(Model(), jax.random.key(seed))


def test_under_jit_all_that_can_be_is_drawn_together():
    # What the model computed with other arrays is not needed, and they are not drawn.
    assert operations(Parameters().init, KEYS["typed"]) == [10]
    assert operations(plain(Parameters()), KEYS["typed"]) == []
    model = nn.Sequential([nn.Dense(40), nn.BatchNorm(True), nn.Dense(50)])
    assert operations(model.init, KEYS["typed"], jnp.ones((2, 30))) == [2]
    attention = nn.MultiHeadDotProductAttention(4)
    assert operations(attention.init, KEYS["typed"], jnp.ones((2, 5, 12))) == [4]


def test_under_jit_keys_that_are_constants_and_other_ways_to_initialize():
    args = KEYS["typed"], jnp.ones((2, 30))
    model = nn.Dense(40)
    assert operations(lambda: FEW.init(KEYS["typed"])) == [6]
    assert_equal(jax.jit(lambda: FEW.init(KEYS["typed"]))(), FEW.init(KEYS["typed"]))
    init = nn.init(nn.Dense.__call__, model)
    assert operations(init, *args) == [1]
    assert_equal(jax.jit(init)(*args), model.init(*args))


def test_lazy_init_draws_in_chunks():
    x = jax.ShapeDtypeStruct((2, 31), jnp.float32)
    with mock.patch.object(eager, "_aligned", wraps=eager._aligned) as memory:
        found = nn.Dense(40).lazy_init(KEYS["typed"], x)
    assert [call.args[0] for call in memory.call_args_list] == [31 * 40]
    assert_equal(found, nn.Dense(40).init(KEYS["typed"], jnp.ones(x.shape)))


def test_under_jit_keys_of_other_kinds():
    assert_equal(jax.jit(FEW.init)(KEYS["raw"]), FEW.init(KEYS["raw"]))
    key = jax.random.key(0, impl="rbg")
    assert operations(FEW.init, key) == []


WRAPS = {
    "vmap": jax.vmap,
    "vmap of jit": lambda f: jax.vmap(jax.jit(f)),
    "jit of vmap": lambda f: jax.jit(jax.vmap(f)),
    "scan": lambda f: lambda ks: jax.lax.scan(lambda c, k: (c, f(k)), 0, ks)[1],
    "checkpoint": lambda f: jax.vmap(jax.jit(jax.checkpoint(f))),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_under_jit_in_other_transforms(wrap):
    keys = jax.random.split(KEYS["typed"], 2)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(FEW.init, keys))
    assert_equal(WRAPS[wrap](FEW.init)(keys), expected)


def test_under_jit_gradients_pass_by_what_is_drawn():
    def loss(scale, key):
        return scale * sum(map(jnp.sum, jax.tree.leaves(FEW.init(key))))

    value, gradient = jax.jit(jax.value_and_grad(loss))(2.0, KEYS["typed"])
    expected = loss(1.0, KEYS["typed"])
    np.testing.assert_allclose([value, gradient], [2 * expected, expected], rtol=1e-4)


class Lifted(nn.Module):
    """Layers that transforms draw, in boxes and shared, and values that are used."""

    @nn.compact
    def __call__(self, x):
        boxed = nn.with_partitioning(initializers.he_normal(), (None, "out"))
        x = nn.Dense(40, kernel_init=boxed)(x)
        lift = functools.partial(nn.vmap, in_axes=None, axis_size=2)
        lift = functools.partial(lift, variable_axes={"params": 0})
        x = lift(nn.Dense, split_rngs={"params": True})(40)(x).sum(0)
        x = nn.jit(nn.Dense)(40)(nn.remat(nn.Dense)(40)(x))
        x = nn.WeightNorm(nn.Dense(40))(x)
        kernel = self.param("kernel", initializers.lecun_normal(), (40, 40))
        self.variable("state", "sum", lambda: kernel.sum())
        self.put_variable("params", "other", kernel * 2)
        return x @ kernel


def test_under_jit_lifted_boxed_and_used_parameters():
    args = KEYS["typed"], jnp.ones((2, 40))
    found, expected = jax.jit(Lifted().init)(*args), Lifted().init(*args)
    assert_equal(found["params"], expected["params"])
    assert found["params"]["Dense_0"]["kernel"].names == (None, "out")
    np.testing.assert_allclose(*(v["state"]["sum"] for v in (found, expected)), 1e-5)


@pytest.mark.thinned(2)
def test_under_jit_memory_is_that_of_the_parameters(places):
    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            for i, n in enumerate((100, 300, 1000, 1000, 1000, 2000, 5000)):
                init_fn = INITIALIZERS["he_uniform" if i % 2 else "lecun_normal"]
                self.param(f"p{i}", init_fn, (n, 1024))

    memory = jax.jit(Model().init).lower(KEYS["typed"]).compile().memory_analysis()
    beside = memory.temp_size_in_bytes / memory.output_size_in_bytes
    assert beside < {"in place": 0.15, "cut out": 0.3}[places]


def test_under_jit_programs_are_exported_for_several_platforms():
    export = jax.export.export(jax.jit(FEW.init), platforms=("cpu", "cuda"))
    found = export(jax.ShapeDtypeStruct((2,), jnp.uint32)).call(KEYS["raw"])
    assert_equal(found, FEW.init(KEYS["raw"]))


def test_under_jit_keys_stay_in_their_order():
    orders = []

    @jax.jit
    def init(key):
        for create in (FEW.init, plain(FEW)):
            orders.append([*create(key)["params"]])

    init(KEYS["typed"])
    assert orders[0] == orders[1] != sorted(orders[0])


def test_under_jit_symbolic_shapes_are_drawn_as_written():
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((2, n), jnp.float32)
    try:
        init_fn = partial(initializers.lecun_normal(), shape=(n, 40))
        jax.eval_shape(init_fn, KEYS["typed"])
    except jax.errors.TracerBoolConversionError:
        pytest.skip("the initializers of this jax take no symbolic shapes")
    found = jax.eval_shape(nn.Dense(40).init, KEYS["typed"], x)
    assert found["params"]["kernel"].shape == (n, 40)


def test_under_jit_the_forward_computation_is_removed():
    model = nn.Sequential([nn.Conv(8, (3, 3)), nn.BatchNorm(True), nn.Dense(9)])
    text = jax.jit(model.init).lower(KEYS["typed"], jnp.ones((2, 8, 8, 3))).as_text()
    assert "convolution" not in text and "dot_general" not in text


@pytest.mark.slow
def test_under_jit_on_several_devices_the_initializers_run():
    run_program("""
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax
        from tests.test_drawing import FEW, KEYS, assert_equal

        mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        expected = FEW.init(KEYS["typed"])
        names = lambda x: jax.P(*[None] * (x.ndim - 1), "d")
        places = jax.tree.map(lambda x: jax.NamedSharding(mesh, names(x)), expected)
        found = jax.jit(FEW.init, out_shardings=places)(KEYS["typed"])
        assert_equal(found, expected)
        assert jax.tree.leaves(found)[0].sharding == jax.tree.leaves(places)[0]
        with jax.set_mesh(mesh):
            assert_equal(jax.jit(FEW.init)(KEYS["typed"]), expected)
        run = jax.shard_map(FEW.init, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
        assert_equal(jax.jit(run)(KEYS["typed"]), expected)
    """)


@pytest.mark.slow
def test_compiled_programs_are_reused_across_processes(tmp_path):
    found = []
    for _ in range(2):
        run_program(f"""
            import jax, jax.numpy as jnp, linsey.linen as nn
            jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            model = nn.Sequential([nn.Dense(100), nn.Dense(300), nn.Dense(7)])
            for init in model.init, jax.jit(model.init):
                init(jax.random.key(0), jnp.ones((2, 40)))
        """)
        found.append({p.name for p in tmp_path.iterdir() if p.name.endswith("-cache")})
    assert found[0] == found[1] != set()


def run_program(text: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], check=True)


@settings(max_examples=30)
@given(
    scale=st.floats(2.0**-100, 2.0**100, width=32),
    fan=st.integers(1, 2**20),
    most=st.sampled_from([1.0, 0.87962566, 1e-39, 3e38]),
)
def test_constants_by_numpy_have_the_bits_of_xla(scale, fan, most):
    def program():
        variance = jnp.float32(scale) / np.float32(fan)
        std = jnp.sqrt(variance) * np.float32(most)
        return std, jnp.sqrt(3 * variance), std - variance + 1

    closed = jax.make_jaxpr(program)()
    found = numbers_of(closed.jaxpr, closed.jaxpr.outvars)
    assert [x.dtype for x in found] == [np.float32] * 3
    # One operation after the other, as XLA computes them outside of a program.
    with jax.disable_jit():
        expected = program()
    assert [x.tobytes() for x in found] == [np.asarray(x).tobytes() for x in expected]
