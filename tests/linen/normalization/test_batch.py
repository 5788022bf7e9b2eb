"""What BatchNorm can do beyond Flax: options, and their misuse."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import errors
from linsey.ops import renorm_schedule
from tests.linen.normalization.training import (
    KEY,
    MUTABLE,
    norm,
    normal,
    plain,
    stats,
    train,
)

# Groups.


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("batch", "size"), [(8, 4), (7, 4), (4, 9)])
def test_groups_are_normalized_apart(batch, size):
    x = normal(batch, 5, 3) * jnp.arange(1.0, batch + 1)[:, None, None]
    layer = norm(group_size=size, momentum=0.0)
    y, variables = train(layer, [x])
    parts = np.array_split(x, -(-batch // size))
    expected = [train(norm(), [part])[0] for part in parts]
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-5, atol=1e-5)
    counts = [len(part) for part in parts]
    var = np.average([part.var((0, 1)) for part in parts], 0, counts)
    np.testing.assert_allclose(stats(variables)[1], var, rtol=1e-5)
    np.testing.assert_allclose(stats(variables)[0], x.mean((0, 1)), atol=1e-5)


def test_groups_mean_nothing_in_evaluation():
    x = normal(7, 3)
    _, variables = train(norm(), [x])
    evaluate = functools.partial(nn.BatchNorm, True)
    np.testing.assert_array_equal(
        evaluate(group_size=2).apply(variables, x), evaluate().apply(variables, x)
    )


def test_groups_have_gradients_of_their_own():
    x = normal(7, 3)
    variables = norm().init(KEY, x)
    cotangent = normal(7, 3, seed=1)

    def loss(x, layer, cotangent):
        y, _ = layer.apply(variables, x, mutable=MUTABLE)
        return jnp.vdot(cotangent, y)

    found = jax.grad(loss)(x, norm(group_size=4), cotangent)
    for rows in (slice(4), slice(4, 7)):
        expected = jax.grad(loss)(x[rows], norm(), cotangent[rows])
        np.testing.assert_allclose(found[rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("size", [2, 8, 99])
def test_groups_do_not_depend_on_how_a_batch_is_divided(size):
    x = normal(16, 3)
    variables = norm().init(KEY, x)
    whole, expected = norm(group_size=size).apply(variables, x, mutable=MUTABLE)
    layer = norm(group_size=size, axis_name="parts")
    apply = jax.vmap(
        lambda x: layer.apply(variables, x, mutable=MUTABLE), axis_name="parts"
    )
    for shards in (2, 8):
        y, updates = apply(x.reshape(shards, -1, 3))
        np.testing.assert_allclose(y.reshape(16, 3), whole, rtol=1e-5, atol=1e-5)
        for found, value in zip(stats(updates), stats(expected), strict=True):
            np.testing.assert_allclose(
                found, np.broadcast_to(value, found.shape), rtol=1e-5, atol=1e-6
            )


# Renormalization.


def test_renormalization_without_bounds_is_evaluation():
    x = normal(64, 3, loc=1)
    _, variables = train(norm(), [x])
    y, _ = norm(renorm=(1e6, 1e6)).apply(variables, 2 * x, mutable=MUTABLE)
    expected = nn.BatchNorm(True).apply(variables, 2 * x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_renormalization_by_one_is_batch_normalization():
    x = normal(64, 3, loc=1)
    found, expected = (train(norm(renorm=r), [x])[0] for r in ((1.0, 0.0), None))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_renormalization_is_the_formula_with_constant_corrections():
    x, epsilon = normal(16, 2, loc=0.5), 1e-5
    layer = plain(renorm=(1.2, 0.1))
    variables = layer.init(KEY, x)
    running_mean, running_var = stats(variables)

    def formula(x):
        mean, sigma = x.mean(0), jnp.sqrt(x.var(0) + epsilon)
        running_sigma = jnp.sqrt(running_var + epsilon)
        r = jax.lax.stop_gradient(jnp.clip(sigma / running_sigma, 1 / 1.2, 1.2))
        d = (mean - running_mean) / running_sigma
        d = jax.lax.stop_gradient(jnp.clip(d, -0.1, 0.1))
        return (x - mean) / sigma * r + d

    apply = lambda x: layer.apply(variables, x, mutable=MUTABLE)[0]  # noqa: E731
    np.testing.assert_allclose(apply(x), formula(x), rtol=1e-5, atol=1e-5)
    cotangent = normal(16, 2, seed=1)
    found, expected = (
        jax.jit(jax.grad(lambda x, f=f: jnp.vdot(f(x), cotangent)))(x)
        for f in (apply, formula)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_renormalization_of_ghost_batches_is_that_of_each_alone():
    x = normal(6, 2, 3, loc=1)
    layer = norm(renorm=(1.2, 0.1), group_size=2)
    variables = layer.init(KEY, x)
    with jax.numpy_rank_promotion("raise"):
        found, _ = layer.apply(variables, x, mutable=MUTABLE)
    alone = norm(renorm=(1.2, 0.1))
    groups = [alone.apply(variables, part, mutable=MUTABLE)[0]
              for part in jnp.split(x, 3)]  # fmt: skip
    np.testing.assert_allclose(found, jnp.concatenate(groups), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("renorm", [True, 3.0, (3.0,), (0.5, 5.0), [3, -1], "3, 5"])
def test_bounds_of_renormalization_are_a_pair_in_range(renorm):
    with pytest.raises(
        errors.OptionError, match="Write for example `renorm=\\(3.0, 5.0\\)`"
    ):
        norm(renorm=renorm).init(KEY, normal(4, 3))


def test_a_schedule_follows_the_number_of_updates():
    x = 5 * normal(64, 3, loc=1)
    layer = norm(renorm=renorm_schedule(warmup=1, r_steps=3, d_steps=2))
    variables = layer.init(KEY, x)
    for limits in ((1.0, 0.0), (1.0, 0.0), (2.0, 5.0), (3.0, 5.0)):
        expected = train(norm(renorm=limits), [x], {**variables})[0]
        y, variables = train(layer, [x], variables)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


# Scale and bias from outside.


@pytest.mark.parametrize("shape", [(3,), (4, 1, 3), (4, 5, 3)])
@pytest.mark.parametrize("train_mode", [True, False])
def test_scale_and_bias_can_come_from_outside(shape, train_mode):
    x = normal(4, 5, 3)
    scale, bias = normal(*shape, seed=1), normal(*shape, seed=2)
    layer = plain(use_running_average=not train_mode)
    variables = layer.init(KEY, x)
    assert "params" not in variables
    y, _ = layer.apply(variables, x, scale=scale, bias=bias, mutable=MUTABLE)
    bare, _ = layer.apply(variables, x, mutable=MUTABLE)
    np.testing.assert_allclose(y, bare * scale + bias, rtol=1e-5, atol=1e-6)


def test_a_scale_from_outside_joins_a_bias_of_its_own():
    x = normal(4, 3, 5)  # channels on axis 1
    layer = norm(axis=1, use_scale=False, bias_init=nn.initializers.constant(2.0))
    scale = normal(4, 1, 1)
    variables = layer.init(KEY, x)
    y, _ = layer.apply(variables, x, scale=scale, mutable=MUTABLE)
    bare, _ = layer.apply(variables, x, mutable=MUTABLE)
    np.testing.assert_allclose(y, (bare - 2) * scale + 2, rtol=1e-5, atol=1e-5)
    half, _ = layer.apply(variables, x.astype("bfloat16"), scale=scale, mutable=MUTABLE)
    assert half.dtype == jnp.float32
    with pytest.raises(errors.OptionError, match="`bias`"):
        layer.apply(variables, x, bias=scale, mutable=MUTABLE)


# Freezing.


@pytest.mark.parametrize("frozen", [True, "statistics", "affine"])
def test_parts_are_frozen(frozen):
    x = normal(8, 3, loc=1)
    _, variables = train(norm(), [x])
    layer = norm(frozen=frozen)
    assert jax.tree.map(jnp.shape, layer.init(KEY, x)) == jax.tree.map(
        jnp.shape, variables
    )

    def loss(params):
        y, updates = layer.apply({**variables, "params": params}, x, mutable=MUTABLE)
        return jnp.sum(y**2), (y, updates)

    gradients, (y, updates) = jax.grad(loss, has_aux=True)(variables["params"])
    same = jax.tree.map(
        np.array_equal, updates["batch_stats"], variables["batch_stats"]
    )
    assert jax.tree.all(same) == (frozen != "affine")
    expected = nn.BatchNorm(use_running_average=frozen != "affine").apply(
        variables, x, mutable=MUTABLE
    )[0]
    np.testing.assert_array_equal(y, expected)
    moved = any(np.any(g != 0) for g in jax.tree.leaves(gradients))
    assert moved == (frozen == "statistics")


def test_frozen_statistics_need_not_be_mutable():
    x = normal(8, 3)
    variables = norm().init(KEY, x)
    found = norm(frozen=True).apply(variables, x)
    evaluated = nn.BatchNorm(use_running_average=True).apply(variables, x)
    np.testing.assert_array_equal(found, evaluated)


# Activation, and memory.


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "silu", "gelu"])
def test_an_activation_follows(name):
    x = normal(4, 5, 3)
    plain_y, variables = train(norm(), [x])
    found, ours = train(norm(activation=name), [x])
    np.testing.assert_allclose(found, getattr(nn, name)(plain_y), rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, ours, variables)
    evaluate = nn.BatchNorm(True, activation=getattr(nn, name))
    expected = getattr(nn, name)(nn.BatchNorm(True).apply(variables, x))
    np.testing.assert_allclose(evaluate.apply(variables, x), expected, rtol=1e-6)


def stack(**fields):
    """Convolutions and a dense layer, each after a normalization."""

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            for _ in range(3):
                x = nn.Conv(4, (3,), use_bias=False, dtype=fields.get("dtype"))(x)
                x = nn.BatchNorm(not train, **fields)(x)
            x = nn.Dense(4, use_bias=False)(x)
            x = nn.BatchNorm(not train, **fields)(x)
            return x.mean(1) + x[:, 0]

    return Stack()


def gradients_of(model, variables, x):
    def loss(params, x):
        y, updates = model.apply({**variables, "params": params}, x, mutable=MUTABLE)
        return jnp.sum(y.astype("float32") ** 2), (y, updates)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("relu", None),
        pytest.param("silu", jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param(None, None, marks=pytest.mark.slow),
    ],
)
def test_saving_memory_changes_no_result(activation, dtype):
    x = normal(4, 6, 3)
    models = [
        stack(activation=activation, dtype=dtype, save_memory=save)
        for save in (False, True)
    ]
    variables = models[0].init(KEY, x)
    assert jax.tree.structure(models[1].init(KEY, x)) == jax.tree.structure(variables)
    plain_model, saving = (gradients_of(model, variables, x) for model in models)
    tolerance = 1e-5 if dtype is None else 0.05
    # Some gradients vanish, such as those of a bias before another normalization.
    scale = max(np.abs(np.float32(a)).max() for a in jax.tree.leaves(plain_model))
    for a, b in zip(*map(jax.tree.leaves, (plain_model, saving)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            np.float32(b) / scale, np.float32(a) / scale, rtol=0, atol=tolerance
        )
    np.testing.assert_array_equal(
        models[0].apply(variables, x, False), models[1].apply(variables, x, False)
    )


def test_saving_memory_keeps_one_array_for_each_layer():
    x = normal(16, 32, 4)
    temporary = []
    for save in (False, True):

        class Chain(nn.Module):
            save: bool

            @nn.compact
            def __call__(self, x):
                for _ in range(6):
                    x = nn.Conv(64, (1,), use_bias=False)(x)
                    x = norm(activation="relu", save_memory=self.save)(x)
                return x.mean()

        model = Chain(save)
        variables = model.init(KEY, x)

        def loss(params, model=model, variables=variables):
            apply = functools.partial(model.apply, mutable=MUTABLE)
            return apply({**variables, "params": params}, x)

        program = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])
        size = program.compile().memory_analysis().temp_size_in_bytes
        temporary.append(size / (16 * 32 * 64 * 4))
    two, one = temporary
    assert two > 12  # activations: two for each layer
    assert one < 10  # one, and four at work


@pytest.mark.parametrize(
    ("fields", "call", "match"),
    [
        ({"activation": "tanh"}, {}, "`activation` is 'tanh'"),
        ({"save_memory": True}, {"mask": jnp.ones((4, 1))}, "together with a `mask`"),
        ({"save_memory": True, "group_size": 2}, {}, "`group_size`"),
        (
            {"save_memory": True, "use_bias": False},
            {"bias": jnp.ones((4, 3))},
            "differs between examples",
        ),
    ],
)
def test_what_cannot_be_computed_again_is_refused(fields, call, match):
    x = normal(4, 3)
    variables = norm(use_bias=fields.get("use_bias", True)).init(KEY, x)
    with pytest.raises(errors.OptionError, match=match):
        norm(**fields).apply(variables, x, mutable=MUTABLE, **call)


# Bad batches.


@pytest.mark.parametrize("rubbish", [np.nan, -np.inf, 3e38])
def test_masked_rows_may_hold_anything(rubbish):
    mask = jnp.array([True, True, False, True, False])[:, None]
    clean = jnp.where(mask, normal(5, 3), 0)
    spoiled = jnp.where(mask, clean, rubbish)
    variables = norm().init(KEY, clean)
    cotangent = normal(5, 3, seed=1)

    def observe(x):
        def loss(params, x):
            y, updates = norm().apply(
                {**variables, "params": params}, x, mask=mask, mutable=MUTABLE
            )
            kept = jnp.where(mask, y, 0)
            return jnp.vdot(cotangent, kept), (kept, updates)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    for a, b in zip(*map(jax.tree.leaves, map(observe, (clean, spoiled))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    y, _ = norm().apply(variables, spoiled, mask=mask, mutable=MUTABLE)
    assert np.isfinite(y).all()


# Misuse.


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"frozen": "scale"}, "`frozen` is 'scale'"),
        ({"nonfinite": "ignore"}, "`nonfinite` is 'ignore'"),
        ({"group_size": 0}, "`group_size` is 0"),
        ({"group_size": 2, "axis": 0}, "the first axis is one of the channels"),
        ({"group_size": 2, "axis_index_groups": [[0], [1]]}, "Both"),
    ],
)
def test_options_that_cannot_be_are_refused(fields, match):
    x = normal(4, 3)
    variables = norm(axis=fields.get("axis", -1)).init(KEY, x)
    with pytest.raises(errors.OptionError, match=match):
        norm(**fields).apply(variables, x, mutable=MUTABLE)


# Initialisation.


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_initialisation_normalizes_as_a_compiled_program_does(axis, dtype):
    x = 3e20 * (normal(4, 5, 6) + 10)
    random = dict.fromkeys(("scale_init", "bias_init"), nn.initializers.normal(1.0))
    layer = norm(axis=axis, dtype=jnp.dtype(dtype), **random)
    found, _ = layer.init_with_output(KEY, x)
    expected, _ = jax.jit(layer.init_with_output)(KEY, x)
    assert found.dtype == expected.dtype and not found.committed
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_initialisation_on_a_chosen_device_stays_there():
    (device,) = jax.devices()
    x = jax.device_put(normal(4, 3), device)
    assert norm().init_with_output(KEY, x)[0].committed
