"""Microbatches give what the undivided batch gives, and say what they cannot do."""

from __future__ import annotations

import functools

import flax.linen as flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
from linsey import errors
from linsey.app.config import ModelOptions
from linsey.app.models import make_model
from linsey.batch_stats import accumulate
from linsey.training.train_state import TrainState

QUICK = {"xla_backend_optimization_level": 0}


def run(function, *args):
    """Runs a compiled function; the compiler is quick rather than good."""
    return jax.jit(function).lower(*args).compile(compiler_options=QUICK)(*args)


def numbers(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def assert_same(found, expected, tolerance):
    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(np.linalg.norm(b), 1e-12)
        assert np.linalg.norm(a - b) <= tolerance * scale

    jax.tree.map(check, found, expected)


class Block(nn.Module):
    """Three batch norms, a skip connection and a projection."""

    options: tuple = ()

    @nn.compact
    def __call__(self, x, mask=None):
        norm = functools.partial(nn.BatchNorm, False, **dict(self.options))
        conv = functools.partial(nn.Conv, use_bias=False)  # else its gradient is 0
        x = conv(3, (3, 3))(x)
        skip = norm()(conv(4, (1, 1))(x))
        y = nn.relu(norm()(conv(4, (3, 3))(x)))
        y = nn.BatchNorm(False)(conv(4, (3, 3))(y), mask=mask)
        return nn.Dense(1)(nn.relu(y + skip).mean((1, 2)))[:, 0]


class Dense(nn.Module):
    """Two batch norms, of either library."""

    library: object = nn
    options: tuple = ()
    wrap: object = None

    @nn.compact
    def __call__(self, x):
        return _dense(self, x)


class FlaxDense(flax.Module):
    """The same of Flax."""

    library: object = flax
    options: tuple = ()
    wrap: object = None

    @flax.compact
    def __call__(self, x):
        return _dense(self, x)


def _dense(module, x):
    library = module.library
    wrap = module.wrap or (lambda layer: layer)
    for _ in range(2):
        x = wrap(library.Dense)(5, use_bias=False)(x)
        norm = wrap(library.BatchNorm)
        options = dict(module.options)
        x = norm(use_running_average=False, **options)(x)
        x = x if "activation" in options else library.relu(x)
    return library.Dense(1)(x)[:, 0]


def loss_of(model):
    def loss_fn(params, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        y, updates = model.apply(variables, batch, mutable=["batch_stats"])
        return jnp.square(y - 1).mean(), updates["batch_stats"]

    return loss_fn


def variables_of(model, x):
    variables = model.init(jax.random.key(0), x)

    def cast(a):
        return a.astype(x.dtype)

    return (*(jax.tree.map(cast, variables[c]) for c in ("params", "batch_stats")), x)


def both(loss_fn, k, args, **options):
    whole = run(jax.value_and_grad(loss_fn, has_aux=True), *args)
    return run(accumulate(loss_fn, k, **options), *args), whole


@pytest.mark.slow
@pytest.mark.parametrize("keep_every", [1, 2])
def test_of_a_residual_block_all_is_that_of_the_undivided_batch(keep_every):
    with jax.enable_x64(True):
        args = variables_of(Block(), numbers(8, 4, 4, 2, dtype=jnp.float64))
        found, whole = both(loss_of(Block()), 4, args, keep_every=keep_every)
        assert_same(found, whole, 1e-10)


def slow(*values, **options):
    return pytest.param(*values, marks=pytest.mark.slow, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(FlaxDense(), id="flax"),
        slow(FlaxDense(options=(("use_fast_variance", False),)), id="flax two passes"),
        slow(FlaxDense(wrap=flax.remat), id="flax remat"),
        pytest.param(Dense(wrap=nn.remat), id="remat"),
        slow(Dense(wrap=nn.jit), id="jit"),
        slow(
            Dense(options=(("save_memory", True), ("activation", "silu"))),
            id="save_memory",
        ),
        pytest.param(
            Dense(options=(("group_size", 4), ("unbiased_variance", True))),
            id="groups over microbatches",
        ),
        slow(Dense(options=(("renorm", (1.1, 0.1)),)), id="renorm"),
    ],
)
def test_of_layers_under_options_and_transforms_too(model):
    x = numbers(8, 3)
    args = variables_of(model, x)
    loss_fn = loss_of(model)
    run(loss_fn, *args)  # what is traced without microbatches is not used with them
    found, whole = both(loss_fn, 4, args)
    assert_same(found, whole, 1e-4)
    outside = model.apply({"params": args[0], "batch_stats": args[1]}, x, mutable=True)
    assert jnp.isfinite(outside[0]).all()  # no axis is asked for afterwards


@pytest.mark.slow
def test_of_scanned_layers_too():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.BatchNorm(False)(nn.Dense(3, False)(x))), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                Layer,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=3,
            )
            return layers()(x, None)[0].sum(-1)

    found, whole = both(loss_of(Model()), 2, variables_of(Model(), numbers(6, 3)))
    assert_same(found, whole, 1e-4)


def test_in_evaluation_nothing_is_combined():
    model = nn.Sequential([nn.Dense(3), nn.BatchNorm(True), nn.Dense(1)])
    params, stats, x = variables_of(model, numbers(4, 2))

    def loss_fn(params, x):
        y = model.apply({"params": params, "batch_stats": stats}, x)
        return jnp.square(y).mean(), None

    found, whole = both(loss_fn, 2, (params, x))
    assert_same(found, whole, 1e-5)


@pytest.mark.slow
def test_masked_examples_count_nowhere():
    x, mask = numbers(8, 4, 4, 2), jnp.arange(8) < 5

    def loss_fn(params, stats, batch):
        x, mask = batch
        variables = {"params": params, "batch_stats": stats}
        where = mask[:, None, None, None]
        y, updates = Block().apply(variables, x, where, mutable=["batch_stats"])
        losses = jnp.square(y - 1)
        mean = jnp.sum(losses * mask) / jnp.maximum(mask.sum(), 1)
        return mean, updates["batch_stats"]

    args = (*variables_of(Block(), x)[:2], (x, mask))
    found, whole = both(loss_fn, 4, args, weight=lambda batch: batch[1].sum())
    assert_same(found, whole, 1e-4)


def test_a_train_state_takes_one_step_for_all_microbatches():
    model, x = Dense(), numbers(8, 3)
    params, stats, _ = variables_of(model, x)
    tx = optax.adam(0.1)

    @jax.jit
    def step(state, stats, x):
        step = accumulate(loss_of(model), 2)
        (_, stats), grads = step(state.params, stats, x)
        return state.apply_gradients(grads=grads), stats

    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    state, updated = step(state, stats, x)
    mean = numbers(8, 3) @ params["Dense_0"]["kernel"]
    expected = 0.01 * mean.mean(0)
    assert int(state.step) == 1
    assert_same(updated["BatchNorm_0"]["mean"], expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Dense(), id="linsey"),
        pytest.param(FlaxDense(), id="flax"),
        slow(Dense(wrap=nn.remat), id="remat"),
        slow(FlaxDense(wrap=flax.jit), id="flax jit"),
    ],
)
def test_ghost_normalizes_within_and_averages_the_pooled_moments_once(model):
    x = numbers(8, 3) * jnp.repeat(jnp.array([1.0, 5.0]), 4)[:, None]
    params, stats, _ = variables_of(model, x)
    loss_fn = loss_of(model)
    (loss, updated), grads = run(accumulate(loss_fn, 2, "ghost"), params, stats, x)
    each = jax.vmap(jax.value_and_grad(loss_fn, has_aux=True), (None, None, 0))
    (losses, _), all_grads = run(each, params, stats, x.reshape(2, 4, 3))
    assert_same(loss, losses.mean(), 1e-5)
    assert_same(grads, jax.tree.map(lambda g: g.mean(0), all_grads), 1e-4)
    norm = min(updated)
    dense = min(
        name
        for name in params
        if "Dense" in name and params[name]["kernel"].shape[0] == 3
    )
    first = x @ params[dense]["kernel"]
    expected = {
        "mean": 0.01 * first.mean(0),
        "var": 0.99 + 0.01 * first.var(0),
    }
    assert_same(dict(updated[norm]), expected, 1e-5)


# --- what comes out -------------------------------------------------------------------


def test_each_microbatch_draws_noise_of_its_own():
    def loss_fn(params, keys, train, x):
        assert train is True  # what is no array is passed as it is
        noise = jax.random.normal(keys["dropout"], x.shape)
        old = jax.random.uniform(keys["raw"], x.shape)
        return (params * noise * x).mean(), (noise, old)

    key, raw = jax.random.key(3), jax.random.key_data(jax.random.key(4))
    step = accumulate(loss_fn, 2)
    x = jnp.ones(4)
    (_, (noise, old)), grad = step(1.0, {"dropout": key, "raw": raw}, True, x)

    def draw(key):
        return jax.random.normal(key, (2,))

    assert_same(noise, jnp.concatenate([*map(draw, jax.random.split(key))]), 1e-6)
    assert_same(grad, noise.mean(), 1e-5)
    assert len(set(old.tolist())) == 4


def test_auxiliary_outputs_are_put_together():
    def loss_fn(w, batch):
        x, labels = batch
        y = w * x
        hits = jnp.sum((y > 0) == labels)
        means = jnp.stack([y.mean(), y.mean() ** 2])  # as many as there are examples
        return y.mean(), {"y": y, "hits": hits, "means": means, "same": w * 2}

    x, labels = jnp.array([1.0, -2.0, 3.0, 6.0]), jnp.array([True, True, True, False])
    (_, aux), _ = accumulate(loss_fn, 2)(2.0, (x, labels))
    assert aux["y"].tolist() == [2.0, -4.0, 6.0, 12.0]
    assert int(aux["hits"]) == 2 and float(aux["same"]) == 4.0
    assert aux["means"].tolist() == [4.0, (1.0 + 81.0) / 2]


def test_other_code_may_combine_microbatches_itself():
    def loss_fn(w, x):
        y = w * x
        return jnp.square(y - jax.lax.pmean(y.mean(), "parts")).mean(), None

    x = jnp.array([1.0, 2.0, 5.0, 8.0])
    (loss, _), grad = accumulate(loss_fn, 2, axis_name="parts")(3.0, x)
    assert_same(loss, 9 * x.var(), 1e-5)
    assert_same(grad, 6 * x.var(), 1e-5)


# --- what is refused ------------------------------------------------------------------


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_a_batch_that_does_not_divide_is_refused_with_what_does():
    step = accumulate(lambda w, x: ((w * x).mean(), None), 4)
    assert refusal(errors.ShapeError, lambda: step(1.0, jnp.ones(6))) == (
        "A batch of 6 examples cannot be divided into 4 microbatches of one size.\n"
        "Each is run by the same program, and counts the same in the mean.\n"
        "Write `k=3`, or leave out 2 examples: `batch = jax.tree.map(lambda x: x[:4], "
        "batch)`."
    )
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n,), jnp.float32)
    text = refusal(errors.ShapeError, lambda: jax.eval_shape(step, 1.0, x))
    assert text.endswith("Make the symbolic dimension a multiple, such as `4*n`.")
    text = refusal(errors.ShapeError, lambda: step(1.0, (jnp.ones(4), jnp.ones(8))))
    assert text.startswith("The arrays of the batch have shapes (4,), (8,).")
    assert "no arrays" in refusal(errors.ArgumentTypeError, lambda: step(1.0, ()))
    assert "parameters only" in refusal(errors.ArgumentTypeError, lambda: step(1.0))


def test_options_without_meaning_are_refused():
    assert "`mode` is 'exakt'" in refusal(
        errors.OptionError, lambda: accumulate(lambda: None, 2, "exakt")
    )
    assert "`k` is 0" in refusal(
        errors.OptionError, lambda: accumulate(lambda: None, 0)
    )
    vector = accumulate(lambda w, x: (w * x, None), 2)
    text = refusal(errors.ShapeError, lambda: vector(1.0, jnp.ones(4)))
    assert text.startswith("The loss has shape (2,).")
    flag = accumulate(lambda w, x: ((w * x).mean(), (x > 0).all()), 2)
    text = refusal(errors.ArgumentTypeError, lambda: flag(1.0, jnp.ones(4)))
    assert "has dtype bool" in text


class OwnNorm(nn.Module):
    """A layer as people write it, without an axis name."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:])
        mean.value, var.value = x.mean(0), x.var(0)
        return (x - mean.value[None]) / jnp.sqrt(var.value[None] + 1e-5)


def test_a_layer_that_cannot_combine_microbatches_is_named():
    model = nn.Sequential([nn.Dense(3), OwnNorm(), nn.Dense(1)])
    args = variables_of(model, numbers(4, 2))
    step = accumulate(loss_of(model), 2)
    text = refusal(errors.UnsynchronizedLayerError, lambda: step(*args))
    assert text.startswith('`OwnNorm` at "/layers_1" keeps a running mean and variance')


def test_statistics_that_differ_are_named():
    def loss_fn(w, x):
        return (w * x).mean(), {"batch_stats": {"norm": {"mean": x.mean()}}}

    step = accumulate(loss_fn, 2)
    text = refusal(
        errors.UnsynchronizedStatisticsError, lambda: step(1.0, jnp.arange(4.0))
    )
    assert text.startswith(
        "The updated statistics `batch_stats/norm/mean` differ between microbatches."
    )


def test_a_norm_in_a_while_loop_is_refused():
    def loss_fn(w, x):
        def centre(y):
            return y - jax.lax.pmean(y.mean(), "microbatches")

        return (w * jax.lax.while_loop(lambda y: y.max() > 9, centre, x)).mean(), None

    text = refusal(
        errors.UnsupportedError, lambda: accumulate(loss_fn, 2)(1.0, jnp.ones(4))
    )
    assert text.startswith(
        "Values of all microbatches are combined inside of a `while`"
    )


# --- the models of the command --------------------------------------------------------


def classifier(kind, width, depth, shape, examples, dtype):
    options = ModelOptions(model=kind, width=width, depth=depth, dropout=0.0)
    model = make_model(options, shape, 10)
    x, labels = numbers(examples, *shape, dtype=dtype), jnp.arange(examples) % 10
    variables = model.init(jax.random.key(0), x[:2], False)

    def cast(a):
        return a.astype(dtype)

    variables = jax.tree.map(cast, variables)

    def loss_fn(params, batch_stats, batch):
        x, labels = batch
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, x, True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return losses.mean(), updates["batch_stats"]

    return loss_fn, (variables["params"], variables["batch_stats"], (x, labels))


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "resnet"])
def test_classifiers_have_the_gradients_of_the_undivided_batch(kind, k):
    with jax.enable_x64(True):
        loss_fn, args = classifier(kind, 4, 2, (8, 8, 3), 16, jnp.float64)
        found, whole = both(loss_fn, k, args)
        assert_same(found, whole, 1e-10)

        def single(tree):
            return jax.tree.map(
                lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, tree
            )

        order = np.random.default_rng(0).permutation(16)
        params, stats, (x, labels) = single(args)
        one, two = (
            run(jax.grad(loss_fn, has_aux=True), params, stats, batch)[0]
            for batch in ((x, labels), (x[order], labels[order]))
        )
        grads = run(accumulate(loss_fn, k), params, stats, (x, labels))[1]

        def distance(a, b):
            return max(
                float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y))
                for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            )

        assert distance(grads, one) <= 10 * distance(two, one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "width", "depth", "shape", "examples"),
    [
        ("mlp", 64, 6, (8, 8, 3), 2048),
        ("cnn", 32, 3, (32, 32, 3), 128),
        ("resnet", 16, 3, (32, 32, 3), 64),
    ],
)
def test_four_microbatches_take_six_tenths_of_the_memory(
    kind, width, depth, shape, examples
):
    loss_fn, args = classifier(kind, width, depth, shape, examples, jnp.float32)

    def size(f):
        return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes

    whole = size(jax.value_and_grad(loss_fn, has_aux=True))
    assert size(accumulate(loss_fn, 4)) <= 0.6 * whole
    assert size(accumulate(loss_fn, 4, "ghost")) <= 0.4 * whole
