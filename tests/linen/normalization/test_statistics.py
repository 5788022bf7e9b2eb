"""The running statistics of BatchNorm: how they follow, and whom they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import errors
from linsey.linen.normalization import statistics
from tests.linen.normalization.training import (
    KEY,
    MUTABLE,
    norm,
    normal,
    plain,
    stats,
    train,
)


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
    with pytest.raises(errors.OptionError, match="domain="):
        layer.init(KEY, normal(4, 3), domain=domain)


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
    error = jax.errors.JaxRuntimeError if compile_ else errors.NonFiniteBatchError
    with pytest.raises(error, match="not finite in 1 channels"):  # noqa: PT012
        jax.block_until_ready(step(normal(8, 3).at[2, 1].set(jnp.nan)))
        jax.effects_barrier()


# Misuse.


def test_one_value_per_channel_is_refused_in_training():
    layer = norm()
    x = normal(1, 3)
    variables = layer.init(KEY, x)
    step = lambda x: layer.apply(variables, x, mutable=MUTABLE)  # noqa: E731
    assert np.all(step(x)[0] == 0)  # a look at shapes, as guides take
    with pytest.raises(errors.SingleValuePerChannelError, match="one value per"):
        jax.jit(step)(x)
    nn.BatchNorm(True).apply(variables, x)
    synced = norm(axis_name="parts")
    jax.vmap(lambda x: synced.apply(variables, x, mutable=MUTABLE), axis_name="parts")(
        normal(4, 3)
    )


def test_half_precision_averages_are_refused_in_training():
    layer = norm()
    x = normal(4, 3).astype(jnp.bfloat16)
    variables = jax.tree.map(lambda v: v.astype("bfloat16"), layer.init(KEY, x))
    with pytest.raises(errors.HalfPrecisionStatisticsError, match="bfloat16"):
        layer.apply(variables, x, mutable=MUTABLE)
    nn.BatchNorm(True).apply(variables, x)


def test_statistics_stay_in_float32_for_half_precision_inputs():
    _, variables = train(norm(momentum=0.0), [normal(64, 3, loc=30).astype("bfloat16")])
    x = np.float64(normal(64, 3, loc=30).astype("bfloat16"))
    assert {value.dtype for value in stats(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats(variables)[1], x.var(0), rtol=1e-5)


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


@pytest.mark.parametrize("dtype", ["float64", "complex64", "complex128", "float32"])
def test_statistics_keep_the_dtype_they_were_made_with(dtype):
    # In Flax an update makes them wider, so that steps cannot be scanned.
    with jax.enable_x64(True):
        x = jnp.ones((4, 3), dtype)
        layer = nn.BatchNorm(use_running_average=False)
        made = jax.eval_shape(layer.init, KEY, x)
        _, updated = jax.eval_shape(lambda v: layer.apply(v, x, mutable=MUTABLE), made)
    before, after = (v["batch_stats"] for v in (made, updated))
    assert jax.tree.map(lambda v: v.dtype, before) == jax.tree.map(
        lambda v: v.dtype, after
    )
    assert before["var"].dtype == "float32"


@pytest.mark.parametrize("momentum", [-1, 1.5, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    layer = nn.BatchNorm(momentum=momentum, use_running_average=False)
    with pytest.raises(errors.OptionError, match="fraction of the old average"):
        jax.eval_shape(layer.init, KEY, jnp.ones((4, 3)))


def test_the_momentum_of_pytorch_is_asked_about_once():
    layer = nn.BatchNorm(momentum=0.1, use_running_average=False)
    statistics._hint_at_momentum.cache_clear()
    with pytest.warns(UserWarning, match="PyTorch counts the other way round") as found:
        for _ in range(2):
            jax.eval_shape(layer.init, KEY, jnp.ones((4, 3)))
    assert len(found) == 1
