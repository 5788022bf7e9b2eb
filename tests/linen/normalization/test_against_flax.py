"""Normalization layers against Flax: trees, bits, outputs, gradients, statistics."""

from __future__ import annotations

import functools
import inspect

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey.errors import OptionError
from linsey.errors.layers import AxisOutOfRangeError
from tests.linen.differential import (
    KEYS,
    assert_close,
    assert_same_bits,
    assert_same_initial_values,
    assert_same_refusal,
    normal,
)

LIBRARIES = (flax.linen, linsey.linen)
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
MASK = np.random.default_rng(9).random((4, 3, 2, 1)) < 0.7
MASK[0] = True


def random_init(key, shape, dtype):
    """Values near 1, so that scale and bias show in the outputs."""
    del key
    values = 1 + 0.3 * np.random.default_rng(sum(shape)).standard_normal(shape)
    return jnp.asarray(values.astype(jnp.dtype(dtype)))


def build(nn, name, **fields):
    if name == "BatchNorm":
        fields.setdefault("use_running_average", False)
    if name == "GroupNorm" and "group_size" not in fields:
        fields.setdefault("num_groups", 2)
    return getattr(nn, name)(**fields)


def cotangent(shape):
    """Random numbers other than those of `normal`."""
    return jnp.asarray(np.random.default_rng(7).standard_normal(shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def observe(layer, variables, x, call=None):
    """Output, updated collections, and gradients by one random cotangent."""
    inner = {name: variables[name] for name in variables if name != "params"}

    def loss(params, x):
        y, updates = layer.apply(
            {"params": params, **inner}, x, mutable=["batch_stats"], **(call or {})
        )
        real = jnp.promote_types(y.dtype, jnp.float32)
        return jnp.real(jnp.vdot(cotangent(y.shape), y.astype(real))), (y, updates)

    wrt = (0, 1) if jnp.issubdtype(x.dtype, jnp.inexact) else 0
    params = variables.get("params", {})
    (_, out), gradients = jax.value_and_grad(loss, wrt, has_aux=True)(params, x)
    return out, gradients


def assert_same_results(expected, found):
    """Trees of arrays are equal to rounding."""
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        assert_close(a, b, ulps=2 if a.dtype in (jnp.bfloat16, jnp.float16) else 64)


def assert_same_norm(name, x, call=None, **fields):
    """Same variables in bits; same outputs, gradients and statistics to rounding."""
    fields = {"scale_init": random_init, "bias_init": random_init, **fields}
    if name == "RMSNorm":
        fields = {k: v for k, v in fields.items() if "bias" not in k}
    reference, layer = (build(nn, name, **fields) for nn in LIBRARIES)
    variables = reference.init(KEYS, x, **(call or {}))
    assert_same_bits(variables, layer.init(KEYS, x, **(call or {})))
    assert_same_results(
        observe(reference, variables, x, call), observe(layer, variables, x, call)
    )


@pytest.mark.parametrize("name", NORMS)
def test_layers_are_built_and_called_as_in_flax(name):
    """Own options come after those of Flax, or by keyword."""
    own = {"parent", "name"}
    for function in ("__init__", "__call__"):
        theirs, ours = (
            [
                (p.name, p.kind)
                for p in inspect.signature(
                    getattr(getattr(nn, name), function)
                ).parameters.values()
                if p.name not in own
            ]
            for nn in LIBRARIES
        )
        assert ours[: len(theirs)] == theirs
    defaults = [
        {
            p.name: getattr(p.default, "__name__", p.default)
            for p in inspect.signature(getattr(nn, name)).parameters.values()
            if p.name not in own
        }
        for nn in LIBRARIES
    ]
    assert defaults[1].items() >= defaults[0].items()


@pytest.mark.parametrize("name", NORMS)
def test_initial_values_are_those_of_flax(name):
    call = {"use_running_average": True} if name == "BatchNorm" else {}
    fields = {"num_groups": 2} if name == "GroupNorm" else call
    assert_same_initial_values(name, inputs=normal(2, 3, 4), **fields)


@pytest.mark.thinned(6)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"epsilon": 0.1, "use_fast_variance": False},
        {"use_scale": False, "param_dtype": jnp.bfloat16},
        {"use_scale": False, "use_bias": False},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", NORMS)
def test_norms_equal_those_of_flax(name, fields):
    assert_same_norm(name, normal(4, 5, 4, 6), **fields)


@pytest.mark.thinned(8)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    ("inputs", "dtype"),
    [
        ("bfloat16", None),
        ("bfloat16", "bfloat16"),
        ("complex64", None),
    ],
)
def test_dtypes_are_those_of_flax(name, inputs, dtype):
    x = normal(4, 5, 4, 6)
    if inputs == "complex64":
        x = x + 1j * x[::-1]
    if (name, inputs) == ("BatchNorm", "complex64"):
        # Flax's mean is real at first, and complex after an update.
        fields = {"scale_init": random_init, "bias_init": random_init}
        reference, layer = (build(nn, name, **fields) for nn in LIBRARIES)
        variables = layer.init(KEYS, x)
        assert variables["batch_stats"]["mean"].dtype == jnp.complex64
        assert_same_results(
            observe(reference, variables, x), observe(layer, variables, x)
        )
        return
    assert_same_norm(name, x.astype(inputs), dtype=dtype and jnp.dtype(dtype))


@pytest.mark.parametrize("inputs", ["float16", "int32"])
def test_batch_norm_takes_other_dtypes_as_flax_does(inputs):
    assert_same_norm("BatchNorm", (10 * normal(4, 5, 4, 6)).astype(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
def test_reductions_stay_in_float32_when_flax_is_told_not_to_force_them(name):
    x = normal(4, 3, 2, 6).astype(jnp.bfloat16)
    fields = {"dtype": jnp.bfloat16, "force_float32_reductions": False}
    variables = build(flax.linen, name, **fields).init(KEYS, x)
    layer = build(linsey.linen, name, **fields)
    assert_same_bits(variables, layer.init(KEYS, x))
    (y, _), _ = observe(layer, variables, x)
    forced = build(linsey.linen, name, dtype=jnp.bfloat16)
    (expected, _), _ = observe(forced, variables, x)
    np.testing.assert_array_equal(y, expected)
    (theirs, _), _ = observe(build(flax.linen, name, **fields), variables, x)
    assert_close(theirs, y, ulps=8)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"axis": 1},
        {"axis": (1, 3)},
        {"axis": (-1, 0)},
        {"momentum": 0.5},
        {"momentum": 0.0},
        {"momentum": 1},
    ],
    ids=str,
)
def test_batch_norm_options(fields):
    assert_same_norm("BatchNorm", normal(4, 3, 2, 6), **fields)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize(
    ("reduction", "features"), [(-1, -1), ((1, 2, 3), -1), (1, (1, -1)), ((-1, 0), 2)]
)
def test_axes_of_reduction_and_features(name, reduction, features):
    fields = {"reduction_axes": reduction, "feature_axes": features, "epsilon": 0.1}
    assert_same_norm(name, normal(4, 3, 2, 6), **fields)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"num_groups": 1},
        {"num_groups": 6},
        {"num_groups": None, "group_size": 2},
        {"num_groups": 3, "reduction_axes": (-1,)},
        {"num_groups": 3, "reduction_axes": (1, 3)},
    ],
    ids=str,
)
def test_group_norm_options(fields):
    assert_same_norm("GroupNorm", normal(4, 3, 2, 6), epsilon=0.1, **fields)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("features", [(1,), (-1, 2), (1, 2)])
def test_instance_norm_options(features):
    fields = {"feature_axes": features, "epsilon": 0.1}
    assert_same_norm("InstanceNorm", normal(4, 3, 2, 6), **fields)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", NORMS)
def test_masks(name):
    x = normal(4, 3, 2, 6)
    mask = MASK
    if name in ("LayerNorm", "RMSNorm", "GroupNorm"):
        mask = np.ones((4, 3, 2, 6), bool)
        mask[..., 4:] = MASK
    assert_same_norm(name, x, call={"mask": jnp.asarray(mask)})


def test_evaluation_uses_the_running_averages():
    x = normal(4, 3, 2, 6)
    results = []
    for nn in LIBRARIES:
        layer = nn.BatchNorm(use_running_average=True, scale_init=random_init)
        variables = layer.init(KEYS, x)
        stats = {"mean": normal(6), "var": jnp.square(normal(6))}
        variables = {**variables, "batch_stats": stats}
        results.append(observe(layer, variables, x))
    assert_same_results(*results)


def test_statistics_after_several_steps():
    trained = []
    for nn in LIBRARIES:
        layer = nn.BatchNorm(use_running_average=False, momentum=0.8)
        variables = layer.init(KEYS, normal(8, 3))
        for step in range(4):
            _, updates = layer.apply(
                variables, (step + 1) * normal(8, 3) + step, mutable=["batch_stats"]
            )
            variables = {**variables, **updates}
        trained.append(variables)
    assert jax.tree.structure(trained[0]) == jax.tree.structure(trained[1])
    jax.tree.map(assert_close, *trained)


# Transforms.


def mapped(layer, variables, x, **names):
    """Applies a layer to the parts of a batch that a named axis holds."""
    return jax.vmap(
        lambda x: layer.apply(variables, x, mutable=["batch_stats"]), **names
    )(x)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", NORMS)
def test_named_axes_belong_to_the_reduction(name):
    x = normal(4, 5, 3, 2)
    results = []
    for nn in LIBRARIES:
        variables = build(nn, name).init(KEYS, x[0])
        layer = build(nn, name, axis_name="parts")

        def loss(x, layer=layer, variables=variables):
            y, updates = mapped(layer, variables, x, axis_name="parts")
            return jnp.vdot(cotangent(y.shape), y), (y, updates)

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(x))
    assert_same_results(*results)


def test_groups_of_a_mapped_axis():
    x = normal(4, 6, 3)
    layer = build(linsey.linen, "BatchNorm", axis_name="parts")
    variables = layer.init(KEYS, x[0])
    grouped = layer.clone(axis_index_groups=((0, 3), (2, 1)))
    y, updates = mapped(grouped, variables, x, axis_name="parts")
    for group in grouped.axis_index_groups:
        members = jnp.array(group)
        expected = mapped(layer, variables, x[members], axis_name="parts")
        assert_close(expected[0], y[members])
        jax.tree.map(
            lambda a, b, members=members: assert_close(a, b[members]),
            expected[1],
            updates,
        )


def test_several_named_axes():
    x = normal(2, 3, 4, 5)
    layer = build(linsey.linen, "BatchNorm", axis_name=("outer", "inner"))
    variables = layer.init(KEYS, x[0, 0])
    inner = functools.partial(mapped, layer, variables, axis_name="inner")
    y, updates = jax.vmap(inner, axis_name="outer")(x)
    whole = build(linsey.linen, "BatchNorm")
    expected, stats = whole.apply(variables, x, mutable=["batch_stats"])
    assert_close(expected, y)
    jax.tree.map(lambda a, b: assert_close(a, b[1, 2]), stats, updates)


def stacks(nn, name, kind):
    """A small model with the layer under a transform, or defined in `setup`."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6, use_bias=False)(x)
            return nn.tanh(build(nn, name)(x))

    class Carry(Block):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(build(nn, name)(nn.Dense(6, use_bias=False)(x))), None

    class Model(nn.Module):
        def setup(self):
            self.blocks = [Block(), Block()]
            self.last = build(nn, name)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.last(x)

    if kind == "setup":
        return Model()
    if kind == "remat":
        return nn.remat(Block)()
    if kind == "jit":
        return nn.jit(Block)()
    axes = {"params": 0, "batch_stats": 0}
    keys = {"split_rngs": {"params": True}}
    if kind == "vmap":
        return nn.vmap(Block, variable_axes=axes, in_axes=None, axis_size=3, **keys)()
    scan = nn.scan(Carry, variable_axes=axes, length=3, **keys)

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            return scan()(x, None)[0]

    return Scanned()


@pytest.mark.thinned(18)
@pytest.mark.parametrize("kind", ["setup", "remat", "jit", "vmap", "scan"])
@pytest.mark.parametrize("name", ["BatchNorm", "GroupNorm"])
def test_layers_inside_transforms(name, kind):
    x = normal(5, 6)
    models = [stacks(nn, name, kind) for nn in LIBRARIES]
    variables = [model.init(KEYS, x) for model in models]
    assert_same_bits(*variables)
    assert_same_results(*(observe(model, variables[0], x) for model in models))


# Refusals.


@pytest.mark.parametrize(
    ("name", "fields", "error", "match"),
    [
        ("GroupNorm", {"num_groups": 4}, OptionError, "does not divide"),
        ("GroupNorm", {"num_groups": 0}, OptionError, "does not divide"),
        ("GroupNorm", {"group_size": 4}, OptionError, "Either"),
        ("GroupNorm", {"num_groups": None}, OptionError, "Either"),
        (
            "GroupNorm",
            {"num_groups": None, "group_size": 4},
            OptionError,
            "not multiple",
        ),
        (
            "GroupNorm",
            {"num_groups": 2, "reduction_axes": (1, 2)},
            OptionError,
            "must include the final",
        ),
        (
            "InstanceNorm",
            {"feature_axes": (0, -1)},
            OptionError,
            "cannot include the leading",
        ),
    ],
)
def test_refusals_are_those_of_flax(name, fields, error, match):
    x = normal(4, 3, 2, 6)
    assert_same_refusal(name, inputs=x, error=error, match=match, **fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("BatchNorm", {"axis": 3}),
        ("LayerNorm", {"reduction_axes": (0, -4)}),
        ("InstanceNorm", {"feature_axes": 7}),
    ],
)
def test_an_axis_out_of_range_is_named(name, fields):
    layer = build(linsey.linen, name, **fields)
    with pytest.raises(AxisOutOfRangeError, match=name):
        layer.init(KEYS, normal(4, 3, 6))


@pytest.mark.parametrize("given", [(None, None), (True, False)])
def test_the_mode_is_given_once(given):
    field, argument = given
    for nn in LIBRARIES:
        with pytest.raises(ValueError, match="use_running_average"):
            nn.BatchNorm(field).init(KEYS, normal(4, 3), argument)
