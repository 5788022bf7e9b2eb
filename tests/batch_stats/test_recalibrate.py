"""Running statistics become those of all data, as float64 has them."""

from __future__ import annotations

from typing import Any

import flax.core
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import treex as tx
from linsey.batch_stats import recalibrate
from linsey.errors import OptionError

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LIBRARIES = pytest.mark.parametrize(
    "nn", [linsey.linen, flax.linen], ids=["linsey", "flax"]
)
# With means that differ between batches.
BATCHES = [
    RNG.normal(3 * index, 2, (size, 4, 3)).astype(np.float32)
    for index, size in enumerate((6, 6, 2))
]
EPSILON = 1e-5


def double(*arrays):
    return np.concatenate([np.asarray(a, np.float64).reshape(-1, 3) for a in arrays])


def normalized(x):
    """One batch as training normalizes it, in float64."""
    rows = double(x)
    z = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON)
    return z.reshape(np.shape(x))


def assert_moments(stats, values, tolerance=1e-6):
    np.testing.assert_allclose(stats["mean"], values.mean(0), rtol=tolerance, atol=1e-6)
    np.testing.assert_allclose(stats["var"], values.var(0), rtol=tolerance)


def single(nn, **options):
    """A model with one norm that takes a mask."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, mask=None, train=False):
            norm = nn.BatchNorm(not train, name="norm", **options)
            return norm(x, mask=mask)

    return Model(), Model().init(KEY, BATCHES[0])


@pytest.mark.slow
@LIBRARIES
def test_uneven_batches(nn):
    model, variables = single(nn)
    batches = [x + 30 for x in BATCHES]  # far from zero, where digits could be lost
    done: list[tuple[int, int | None]] = []
    options: dict[str, Any] = {"progress": lambda *progress: done.append(progress)}
    found = recalibrate(model, variables, batches, **options)
    assert_moments(found["batch_stats"]["norm"], double(*batches))
    assert done == [(1, 3), (2, 3), (3, 3)]
    generated = recalibrate(model, variables, (batch for batch in batches))
    np.testing.assert_array_equal(
        generated["batch_stats"]["norm"]["var"], found["batch_stats"]["norm"]["var"]
    )


@LIBRARIES
def test_masks_and_weights_of_batches(nn):
    model, variables = single(nn)
    masks = [RNG.random((6, 4, 1)) < 0.7 for _ in range(2)]
    batches = [
        {"x": np.where(m, x, np.nan), "mask": m}
        for x, m in zip(BATCHES, masks, strict=False)
    ]
    found = recalibrate(model, variables, batches, weights=[2, 1])
    kept = [x[m[..., 0]] for x, m in zip(BATCHES, masks, strict=False)]
    assert_moments(found["batch_stats"]["norm"], double(kept[0], kept[0], kept[1]))


@pytest.mark.slow
@LIBRARIES
def test_scanned_mapped_and_shared_layers(nn):
    class Block(nn.Module):
        still: bool

        @nn.compact
        def __call__(self, x, _):
            return nn.BatchNorm(self.still)(x) ** 2, None

    def lifted(transform, module, **options):
        axes = {"params": 0, "batch_stats": 0}
        return transform(
            module, variable_axes=axes, split_rngs={"params": True}, **options
        )

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            still = not train
            scanned, _ = lifted(nn.scan, Block, length=2)(still, name="scanned")(
                x, None
            )
            lifted(nn.vmap, nn.BatchNorm)(still, name="mapped")(jnp.stack([x, -2 * x]))
            nn.jit(nn.remat(nn.BatchNorm))(still, name="compiled")(x)
            shared = nn.BatchNorm(still, name="shared")
            return shared(shared(x) ** 2) + scanned

    batches = BATCHES[:2]
    variables = Model().init(KEY, batches[0])
    found = recalibrate(Model(), variables, batches)["batch_stats"]
    squares = [normalized(x) ** 2 for x in batches]
    scanned = found["scanned"]["BatchNorm_0"]
    for row, values in enumerate([batches, squares]):
        stats = {name: value[row] for name, value in scanned.items()}
        assert_moments(stats, double(*values), 1e-5)
    for row, factor in enumerate([1, -2]):
        stats = {name: value[row] for name, value in found["mapped"].items()}
        assert_moments(stats, factor * double(*batches))
    assert_moments(found["compiled"], double(*batches))
    assert_moments(found["shared"], double(*batches, *squares))


def test_domains_groups_and_unbiased_variance():
    class Model(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, domain, train=False):
            def norm(**options):
                return linsey.linen.BatchNorm(not train, **options)

            norm(num_domains=3, name="domains")(x, domain=domain)
            norm(group_size=2, name="groups")(x)
            norm(unbiased_variance=True, name="unbiased")(x)
            return norm(frozen="statistics", name="frozen")(x)

    third = BATCHES[0] - 5
    batches = [(BATCHES[0], 0), (BATCHES[1], 2), (third, 0)]
    variables = Model().init(KEY, *batches[0])
    found = recalibrate(Model(), variables, batches)["batch_stats"]
    domains = found["domains"]
    for domain, values in ((0, (BATCHES[0], third)), (2, (BATCHES[1],))):
        stats = {name: value[domain] for name, value in domains.items()}
        assert_moments(stats, double(*values))
    np.testing.assert_array_equal(
        [domains["mean"][1], domains["var"][1]], [[0] * 3, [1] * 3]
    )
    values = double(*BATCHES[:2], third)
    np.testing.assert_allclose(
        found["unbiased"]["var"], values.var(0, ddof=1), rtol=1e-6
    )
    groups = values.reshape(-1, 8, 3)  # 2 examples of 4 positions
    np.testing.assert_allclose(found["groups"]["mean"], values.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["groups"]["var"], groups.var(1).mean(0), rtol=1e-6)
    assert found["frozen"]["mean"].tolist() == [0, 0, 0]


@LIBRARIES
def test_layer_by_layer_is_the_fixed_point_of_evaluation(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(not train, name="first")(x)
            x = nn.Dropout(0.5, deterministic=not train)(x) ** 2
            return nn.BatchNorm(not train, name="second")(x)

    batches = BATCHES[:2]
    variables = Model().init(KEY, batches[0], False)
    found = recalibrate(Model(), variables, batches, method="layerwise")["batch_stats"]
    values = double(*batches)
    assert_moments(found["first"], values)
    z = (values - values.mean(0)) / np.sqrt(values.var(0) + EPSILON)
    assert_moments(found["second"], z**2, 1e-5)

    pooled = recalibrate(Model(), variables, batches, noise=False)["batch_stats"]
    assert_moments(
        pooled["second"], double(*(normalized(x) ** 2 for x in batches)), 1e-5
    )
    noisy = recalibrate(Model(), variables, batches)["batch_stats"]
    assert noisy["second"]["var"].min() > pooled["second"]["var"].max()


def test_under_jit_on_stacked_batches():
    model, variables = single(linsey.linen)
    batches = np.stack(BATCHES[:2])
    found = jax.jit(lambda v, b: recalibrate(model, v, {"x": b}))(variables, batches)
    assert_moments(found["batch_stats"]["norm"], double(*batches))
    outside = recalibrate(model, variables, {"x": batches})
    assert_moments(outside["batch_stats"]["norm"], double(*batches))


def test_third_party_norms_count():
    class RunningNorm(flax.linen.Module):
        train: bool = True

        @flax.linen.compact
        def __call__(self, inputs):
            mean = self.variable("batch_stats", "mean", jnp.zeros, (1, 3, 1))
            var = self.variable("batch_stats", "var", jnp.ones, (1, 3, 1))
            moments = (
                inputs.mean((0, 2), keepdims=True),
                inputs.var((0, 2), keepdims=True),
            )
            if self.train and not self.is_initializing():
                mean.value, var.value = moments
            return (inputs - mean.value) / jnp.sqrt(var.value + EPSILON)

    batches = [np.moveaxis(x, 2, 1) for x in BATCHES]
    variables = RunningNorm().init(KEY, batches[0])
    found = recalibrate(RunningNorm(), variables, batches)["batch_stats"]
    stats = {name: value[0, :, 0] for name, value in found.items()}
    assert_moments(stats, double(*BATCHES))


def test_functions_and_objects_from_outside():
    def function(variables, x, train, mutable):
        """A norm on no library, with PyTorch's rule."""
        stats = variables["batch_stats"]["norm"]
        batch = {"mean": x.mean((0, 1)), "var": x.var((0, 1))}
        used = batch if train else stats
        y = (x - used["mean"]) / jnp.sqrt(used["var"] + EPSILON)
        new = jax.tree.map(lambda s, b: 0.995 * s + (1 - 0.995) * b, stats, batch)
        return (y, {"batch_stats": {"norm": new}}) if mutable else y

    batches = BATCHES
    variables = {"batch_stats": {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}}
    found = recalibrate(function, variables, batches)
    assert_moments(found["batch_stats"]["norm"], double(*batches), 1e-5)
    assert isinstance(found["batch_stats"]["norm"]["mean"], np.ndarray)

    model = tx.BatchNorm(momentum=0.999).init(0, batches[0])
    new = recalibrate(model, None, batches)
    assert_moments(vars(new), double(*batches), 1e-5)
    assert jax.tree.structure(new) == jax.tree.structure(model)
    assert model.mean.tolist() == [0, 0, 0] != new.mean.tolist()


def test_functions_around_modules_and_named_axes():
    layer = linsey.linen.BatchNorm(axis_name="shards")

    def function(variables, x, train, mutable):
        def one(x):
            options = {"use_running_average": not train, "mutable": mutable}
            return layer.apply(variables, x, **options)

        y = jax.vmap(one, axis_name="shards")(x.reshape(2, -1, *x.shape[1:]))
        if not mutable:
            return y.reshape(x.shape)
        return y[0].reshape(x.shape), jax.tree.map(lambda leaf: leaf[0], y[1])

    variables = layer.init(KEY, BATCHES[0], use_running_average=True)
    found = recalibrate(function, variables, BATCHES)
    assert_moments(found["batch_stats"], double(*BATCHES))


def test_types_and_other_state_stay():
    class Model(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, train):
            calls = self.variable("cache", "calls", jnp.zeros, ())
            if train:
                calls.value += 1
            return flax.linen.BatchNorm(not train)(flax.linen.Dense(3)(x))

    variables = flax.core.freeze(Model().init(KEY, BATCHES[0], False))
    before = jax.tree.map(np.array, variables)
    found = recalibrate(Model(), variables, BATCHES[:1])
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for name in ("params", "cache"):
        jax.tree.map(np.testing.assert_array_equal, found[name], before[name])
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    assert found["batch_stats"]["BatchNorm_0"]["var"].dtype == np.float32


def test_half_precision_and_bad_batches():
    bad = np.where(np.arange(3) == 1, np.nan, BATCHES[1])
    batches = [BATCHES[0], bad]
    model, variables = single(linsey.linen)
    stats = recalibrate(model, variables, batches)["batch_stats"]["norm"]
    both, one = double(*BATCHES[:2]), double(BATCHES[0])
    expected = np.where(np.arange(3) == 1, one.mean(0), both.mean(0))
    np.testing.assert_allclose(stats["mean"], expected, atol=1e-6)

    model, variables = single(flax.linen)
    half = {"batch_stats": jax.tree.map(jnp.bfloat16, variables["batch_stats"])}
    stats = recalibrate(model, {**variables, **half}, BATCHES[:2])["batch_stats"]
    assert stats["norm"]["var"].dtype == jnp.bfloat16
    assert_moments(stats["norm"], both, 2**-8)


def refused(*args, **options):
    with pytest.raises(OptionError) as caught:
        recalibrate(*args, **options)
    return str(caught.value)


def test_what_is_refused():
    model, variables = single(linsey.linen)
    assert refused(model, variables, [], method="both") == (
        "`method` is 'both'.\nIt has no such value.\nGive one of 'pooled', 'layerwise'."
    )
    assert refused(model, variables, []) == (
        "There are no batches.\n"
        "Statistics of nothing are not defined.\n"
        "Pass at least one; an iterator may have been used up before."
    )
    assert refused(model, variables, iter(BATCHES), method="layerwise") == (
        "`batches` can be read once only.\n"
        'With `method="layerwise"` the data is gone through several times.\n'
        "Pass a list, or an object whose `__iter__` starts anew."
    )
    assert refused(model, variables, BATCHES, weights=[1]) == (
        "There are 1 `weights` and 3 batches.\n"
        "Each batch has a weight of its own.\n"
        "Give as many weights as batches."
    )
    dense = linsey.linen.Dense(2)
    assert refused(dense, dense.init(KEY, BATCHES[0]), BATCHES) == (
        "The variables hold no running statistics.\n"
        "Those are `mean` and `var` of a layer in the collection `batch_stats`.\n"
        "Pass all variables of the model, as `init` returned them."
    )
    norm = tx.BatchNorm().init(0, BATCHES[0])
    assert refused(norm, None, BATCHES, method="layerwise") == (
        "The layers of the model cannot be looked at.\n"
        'With `method="layerwise"` the inputs of layers are taken in evaluation.\n'
        'Use `method="pooled"`, or pass a module.'
    )
    assert refused(norm, None, BATCHES, noise=False) == (
        "`noise` is False, and the layers of the model cannot be looked at.\n"
        "Dropout is left out where layers of it are called.\n"
        "Leave `noise` out, or pass a model that does not draw."
    )

    class ByMutable(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            trains = self.is_mutable_collection("batch_stats")
            return linsey.linen.BatchNorm(not trains, name="norm")(x)

    variables = ByMutable().init(KEY, BATCHES[0])
    assert refused(ByMutable(), variables, BATCHES, method="layerwise") == (
        "The layer `norm` trains wherever its statistics are mutable.\n"
        'With `method="layerwise"` they have to be, in evaluation.\n'
        'Use `method="pooled"`, or give the model a flag for its mode.'
    )
