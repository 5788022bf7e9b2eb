"""What BatchNorm can do beyond Flax: options, bad batches, misuse."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import errors
from linsey.errors import norms
from linsey.ops.ghost import join_examples, shard_groups, split_examples
from linsey.ops.renorm import renorm_schedule

KEY = jax.random.key(0)
MUTABLE = ["batch_stats", "batch_counts"]


def normal(*shape, seed=0, loc=0.0):
    numbers = np.random.default_rng(seed).standard_normal(shape) + loc
    return jnp.asarray(numbers, jnp.float32)


def norm(**fields):
    return nn.BatchNorm(**{"use_running_average": False, **fields})


def plain(**fields):
    return norm(use_scale=False, use_bias=False, **fields)


def train(layer, batches, variables=None, **call):
    """Output of the last batch, and the variables after all of them."""
    variables = variables or layer.init(KEY, batches[0], **call)
    for x in batches:
        y, updates = layer.apply(variables, x, mutable=MUTABLE, **call)
        variables = {**variables, **updates}
    return y, variables


def stats(variables):
    return variables["batch_stats"]["mean"], variables["batch_stats"]["var"]


# The averages.


def test_the_unbiased_variance_is_stored_and_the_biased_one_divides():
    x = normal(5, 3)
    y, variables = train(plain(unbiased_variance=True, momentum=0.0), [x])
    np.testing.assert_allclose(stats(variables)[1], x.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(y, train(plain(), [x])[0], rtol=1e-6)


def test_the_unbiased_variance_counts_what_the_mask_keeps():
    x = normal(6, 2)
    mask = jnp.array([True, True, True, True, False, False])[:, None]
    layer = plain(unbiased_variance=True, momentum=0.0)
    _, variables = train(layer, [x], mask=mask)
    np.testing.assert_allclose(stats(variables)[1], x[:4].var(0, ddof=1), rtol=1e-6)


def test_without_momentum_the_average_is_that_of_all_batches():
    batches = [normal(4, 3, seed=i, loc=i) for i in range(5)]
    _, variables = train(plain(momentum=None), batches)
    mean, var = stats(variables)
    np.testing.assert_allclose(mean, np.mean([x.mean(0) for x in batches], 0), 1e-5)
    np.testing.assert_allclose(var, np.mean([x.var(0) for x in batches], 0), 1e-5)
    assert variables["batch_counts"] == {"updates": 5}


def test_updates_are_counted_beside_the_averages():
    layer = norm(count_updates=True)
    _, variables = train(layer, [normal(4, 3)] * 3)
    assert set(variables["batch_stats"]) == {"mean", "var"}
    assert int(variables["batch_counts"]["updates"]) == 3
    evaluated = {name: variables[name] for name in ("params", "batch_stats")}
    norm(use_running_average=True, count_updates=True).apply(evaluated, normal(4, 3))
    with pytest.raises(errors.MissingBatchStatsError, match="batch_counts"):
        layer.apply(evaluated, normal(4, 3), mutable=MUTABLE)


def test_evaluation_after_n_steps_has_the_variance_that_the_formula_says():
    momentum, steps = 0.9, 20
    x = 3 * normal(4096, 2)
    x = 3 * (x - x.mean(0)) / x.std(0)
    _, variables = train(plain(momentum=momentum), [x] * steps)
    expected = momentum**steps + (1 - momentum**steps) * 9
    np.testing.assert_allclose(stats(variables)[1], expected, rtol=1e-5)
    y = nn.BatchNorm(True, use_scale=False, use_bias=False).apply(variables, x)
    np.testing.assert_allclose(y.std(0), 3 / np.sqrt(expected + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("lift", [nn.remat, nn.jit, None])
def test_a_step_is_one_update(lift):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norm(count_updates=True, momentum=0.5)(x)

    layer = (lift(Block) if lift else Block)()
    variables = layer.init(KEY, normal(4, 3))

    @jax.jit
    def step(variables, x):
        def loss(x):
            y, updates = layer.apply(variables, x, mutable=MUTABLE)
            return jnp.sum(y**3), updates

        return {**variables, **jax.grad(loss, has_aux=True)(x)[1]}

    def scanned(variables, x):
        return jax.lax.scan(lambda v, x: (step(v, x), None), variables, x)[0]

    variables = scanned(variables, jnp.stack([normal(4, 3, loc=1)] * 2))
    (counts,) = variables["batch_counts"].values()
    assert int(counts["updates"]) == 2
    (averages,) = variables["batch_stats"].values()
    expected = 0.75 * normal(4, 3, loc=1).mean(0)
    np.testing.assert_allclose(averages["mean"], expected, rtol=1e-5)


# Groups.


@pytest.mark.parametrize(("batch", "size"), [(8, 2), (7, 3), (9, 8), (3, 5), (5, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_examples_are_split_evenly_and_joined_again(batch, size, masked):
    x = normal(batch, 2, 3)
    mask = jnp.asarray(np.arange(batch) % 3 != 0)[:, None, None] if masked else None
    parts, weights, places = split_examples(x, mask, size)
    np.testing.assert_array_equal(join_examples(parts, places), x)
    groups = -(-batch // size)
    kept = np.ones(parts.shape[:2]) if weights is None else np.array(weights[..., 0, 0])
    sizes = kept.sum(1)
    assert parts.shape[0] == groups
    if masked:
        assert sizes.sum() == np.sum(np.arange(batch) % 3 != 0)
    else:
        assert sizes.sum() == batch
        assert sizes.max() - sizes.min() <= 1
        assert sizes.max() <= size


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


def test_shards_are_grouped_by_neighbours():
    assert shard_groups(8, 4, 16) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert shard_groups(8, 4, 15) == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert shard_groups(8, 4, 7) is None
    assert shard_groups(6, 1, 5) == ((0, 1, 2), (3, 4, 5))


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


def test_a_schedule_follows_the_number_of_updates():
    x = 5 * normal(64, 3, loc=1)
    layer = norm(renorm=renorm_schedule(warmup=1, r_steps=3, d_steps=2))
    variables = layer.init(KEY, x)
    for limits in ((1.0, 0.0), (1.0, 0.0), (2.0, 5.0), (3.0, 5.0)):
        expected = train(norm(renorm=limits), [x], {**variables})[0]
        y, variables = train(layer, [x], variables)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


# Domains.


def test_each_domain_has_its_averages():
    layer = norm(num_domains=3, momentum=0.0, count_updates=True)
    x = normal(8, 4, loc=2)
    variables = layer.init(KEY, x, domain=0)
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {"scale": (4,), "bias": (4,)},
        "batch_stats": {"mean": (3, 4), "var": (3, 4)},
        "batch_counts": {"updates": (3,)},
    }

    @jax.jit
    def step(domain):
        return layer.apply(variables, x, domain=domain, mutable=MUTABLE)

    y, updates = step(1)
    expected, alone = norm(momentum=0.0).apply(
        norm().init(KEY, x), x, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    for found, value, initial in zip(
        stats(updates), stats(alone), (0.0, 1.0), strict=True
    ):
        np.testing.assert_allclose(found[1], value, rtol=1e-6)
        np.testing.assert_array_equal(found[jnp.array([0, 2])], initial)
    assert updates["batch_counts"]["updates"].tolist() == [0, 1, 0]
    evaluate = jax.jit(
        lambda domain: nn.BatchNorm(True, num_domains=3).apply(
            {**variables, **updates}, x, domain=domain
        )
    )
    np.testing.assert_allclose(evaluate(1), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(evaluate(2), expected, atol=0.1)


@pytest.mark.parametrize(
    ("count", "domain"), [(None, 1), (3, None), (3, 3), (3, -1), (3, 0.5), (2, [0, 1])]
)
def test_a_domain_is_a_known_number(count, domain):
    layer = norm(num_domains=count)
    with pytest.raises(norms.DomainError, match="domain="):
        layer.init(KEY, normal(4, 3), domain=domain)


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
    with pytest.raises(norms.ExternalAffineError, match="`bias`"):
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


@pytest.mark.parametrize("activation", ["relu", "silu", None])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
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
    with pytest.raises(norms.NormOptionError, match=match):
        norm(**fields).apply(variables, x, mutable=MUTABLE, **call)


# Bad batches.


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 3e38])
def test_channels_that_are_not_finite_are_passed_over(rubbish):
    x = normal(8, 3).at[2, 1].set(rubbish)
    _, variables = train(norm(momentum=0.5), [x])
    mean, var = stats(variables)
    assert (mean[1], var[1]) == (0.0, 1.0)
    np.testing.assert_allclose(mean[0], x[:, 0].mean() / 2, rtol=1e-6)


def test_bad_batches_can_be_let_through():
    x = normal(8, 3).at[2, 1].set(jnp.nan)
    _, variables = train(norm(nonfinite="propagate"), [x])
    assert np.isnan(stats(variables)[0]).tolist() == [False, True, False]
    empty = jnp.zeros((8, 1), bool)
    _, variables = train(norm(nonfinite="propagate"), [x], mask=empty)
    assert stats(variables)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("compile_", [False, True])
def test_bad_batches_can_raise(compile_):
    layer = norm(nonfinite="error", name="bn")
    variables = layer.init(KEY, normal(8, 3))
    step = lambda x: layer.apply(variables, x, mutable=MUTABLE)  # noqa: E731
    step = jax.jit(step) if compile_ else step
    step(normal(8, 3))
    error = jax.errors.JaxRuntimeError if compile_ else norms.NonFiniteBatchError
    with pytest.raises(error, match="not finite in 1 channels"):  # noqa: PT012
        jax.block_until_ready(step(normal(8, 3).at[2, 1].set(jnp.nan)))
        jax.effects_barrier()


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


def message(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_one_value_per_channel_is_refused_in_training():
    layer = norm()
    x = normal(1, 3)
    variables = layer.init(KEY, x)
    step = lambda x: layer.apply(variables, x, mutable=MUTABLE)  # noqa: E731
    assert np.all(step(x)[0] == 0)  # a look at shapes, as guides take
    assert message(errors.SingleValuePerChannelError, lambda: jax.jit(step)(x)) == (
        '`BatchNorm` at "/" was called in training with an input of shape (1, 3), '
        "which has one value per channel over the axes (0,).\n"
        "The variance of one value is zero, so every output would be the bias, "
        "whatever the input is.\n"
        "Use a batch of two or more, or `use_running_average=True`."
    )
    nn.BatchNorm(True).apply(variables, x)
    synced = norm(axis_name="parts")
    jax.vmap(lambda x: synced.apply(variables, x, mutable=MUTABLE), axis_name="parts")(
        normal(4, 3)
    )


def test_half_precision_averages_are_refused_in_training():
    layer = norm()
    x = normal(4, 3).astype(jnp.bfloat16)
    variables = jax.tree.map(lambda v: v.astype("bfloat16"), layer.init(KEY, x))
    assert message(
        norms.HalfPrecisionStatisticsError,
        lambda: layer.apply(variables, x, mutable=MUTABLE),
    ) == (
        '`BatchNorm` at "/" was called in training with running statistics of dtype '
        "bfloat16.\n"
        "A step moves them by a hundredth of the difference, which half precision "
        "rounds away: they would stand still.\n"
        "Keep `batch_stats` in float32, also where parameters are cast: "
        "`{**variables, 'params': cast(variables['params'])}`. For computation in "
        "half precision build the layer with `dtype=jnp.bfloat16`."
    )
    nn.BatchNorm(True).apply(variables, x)


def test_statistics_stay_in_float32_for_half_precision_inputs():
    _, variables = train(norm(momentum=0.0), [normal(64, 3, loc=30).astype("bfloat16")])
    x = np.float64(normal(64, 3, loc=30).astype("bfloat16"))
    assert {value.dtype for value in stats(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats(variables)[1], x.var(0), rtol=1e-5)


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
    with pytest.raises(norms.NormOptionError, match=match):
        norm(**fields).apply(variables, x, mutable=MUTABLE)


@pytest.mark.parametrize(
    ("mutable", "error", "match"),
    [
        (False, errors.ModifyScopeVariableError, r"mutable=\['batch_stats'\]"),
        (["batch_stats"], errors.ModifyScopeVariableError, "batch_counts"),
    ],
)
def test_collections_that_a_step_writes_must_be_mutable(mutable, error, match):
    layer = norm(count_updates=True)
    variables = layer.init(KEY, normal(4, 3))
    with pytest.raises(error, match=match):
        layer.apply(variables, normal(4, 3), mutable=mutable)
