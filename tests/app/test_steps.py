"""Steps with every kind of recipe, against the same by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.losses import CrossEntropy
from linsey.app.models import make_model
from linsey.app.own_network import make_network
from linsey.app.recipe import Recipe
from tests.app.runs import make_blobs

CONFIG = TrainConfig(model="mlp", width=2, depth=1, dropout=0.0, lr=0.1)
X, Y = (np.asarray(a) for a in make_blobs(count=48))
BATCHES = [(X[i : i + 16], Y[i : i + 16].astype("i4")) for i in range(0, 48, 16)]


@functools.cache
def start(**options) -> steps.TrainState:
    config = dataclasses.replace(CONFIG, **options)
    return steps.create_state(config, make_network(config, (6,), 4), (6,), 4)


def trained(state, batches=BATCHES) -> list[steps.TrainState]:
    """The states after each step; none of them is given up."""
    states = []
    for x, y in batches:
        state, _ = steps.train_step(jax.tree.map(jnp.copy, state), x, y)
        states.append(jax.tree.map(jnp.copy, state))
    return states


@functools.cache
def after(**options) -> list[steps.TrainState]:
    return trained(start(**options))


def variables(state) -> dict:
    return {"params": state.params, "batch_stats": state.batch_stats}


def assert_close(one, other, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), one, other)


def test_accumulation_takes_the_step_of_the_large_batch():
    for one, other in zip(after(), after(accumulate=4), strict=True):
        assert_close(variables(one), variables(other), rtol=2e-4, atol=1e-6)
    metrics = [
        steps.train_step(jax.tree.map(jnp.copy, state), *BATCHES[0])[1]
        for state in (start(), start(accumulate=4))
    ]
    assert_close(*metrics, rtol=1e-5)


def test_a_skipped_step_leaves_no_trace_and_the_average_is_the_formula():
    state = start(
        ema=0.5, accumulate=2, dropout=0.5, label_smoothing=0.1, optimizer="adam"
    )
    poisoned = (np.full_like(X[:16], np.nan), BATCHES[0][1])
    states = trained(state, [BATCHES[0], poisoned, *BATCHES[1:]])
    assert [int(s.skipped) for s in states] == [0, 1, 1, 1]
    first, skipped, *others = states
    jax.tree.map(np.testing.assert_array_equal, first.average, skipped.average)
    expected = trained(state)[-1]
    assert (int(expected.step), int(states[-1].step)) == (3, 4)
    same = expected.replace(step=states[-1].step, skipped=states[-1].skipped)
    jax.tree.map(np.testing.assert_array_equal, states[-1], same)
    # (0.5^3 w_1 + 0.5^2 w_2 + 0.5 w_3) / (1 - 0.5^3)
    committed = [variables(s) for s in (first, *others)]
    average = jax.tree.map(
        lambda a, b, c: (a / 8 + b / 4 + c / 2) / (7 / 8), *committed
    )
    assert_close(states[-1].evaluated, average, rtol=1e-5, atol=1e-7)
    assert_close(state.evaluated, variables(state))  # there is no average yet
    assert_close(first.evaluated, variables(first), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_average_changes_no_bit_of_the_training():
    plain, averaged = after()[-1], after(ema=0.5)[-1]
    jax.tree.map(np.testing.assert_array_equal, variables(plain), variables(averaged))
    assert not hasattr(plain, "average")


def test_evaluation_uses_the_average():
    state = after(ema=0.5)[-1]
    x, y = BATCHES[0]
    losses, *_ = steps.eval_step(state, x, y)
    logits = state.network.evaluate(state.evaluated, x)
    expected = np.asarray(CrossEntropy()(logits, jnp.asarray(y)))
    assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-5)
    last = CrossEntropy()(state.network.evaluate(variables(state), x), jnp.asarray(y))
    assert abs(float(last) - float(expected)) > 1e-3


def test_loss_of_training_is_that_of_the_recipe_and_that_of_evaluation_is_plain():
    loss = CrossEntropy(0.2, (1.0, 2.0, 3.0, 4.0))
    plain = start()
    state = plain.replace(recipe=Recipe(loss))
    x, y = BATCHES[0]
    found, (logits, _) = jax.jit(steps.loss_fn)(state.params, state, x, y)
    assert float(found) == pytest.approx(float(loss(logits, jnp.asarray(y))), rel=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal,
        steps.eval_step(state, x, y), steps.eval_step(plain, x, y),
    )  # fmt: skip


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_precision_of_parameters_statistics_and_computation(model, norm):
    shape = (4, 4, 1)
    options = dataclasses.replace(CONFIG, model=model, norm=norm, width=8)
    for precision, kept, computed in (
        ("float32", "float32", "float32"),
        ("mixed", "float32", "bfloat16"),
        ("bfloat16", "bfloat16", "bfloat16"),
    ):
        config = dataclasses.replace(options, precision=precision)
        module = make_model(config, shape, 3)
        x = jax.ShapeDtypeStruct((2, *shape), "f4")
        found = jax.eval_shape(
            lambda x, m=module: m.init(jax.random.key(0), x, False), x
        )
        logits = jax.eval_shape(lambda v, x, m=module: m.apply(v, x, False), found, x)
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(found["params"])}
        assert (dtypes, str(logits.dtype)) == ({kept}, computed)
        statistics = jax.tree.leaves(found.get("batch_stats", {}))
        assert {str(leaf.dtype) for leaf in statistics} <= {"float32"}


@pytest.mark.slow
def test_lower_precision_has_about_the_same_loss():
    x, y = BATCHES[0]
    state, expected = start(precision="bfloat16", ema=0.5), start()
    found, wanted = (
        jax.jit(steps.loss_fn)(one.params, one, x, y)[0] for one in (state, expected)
    )
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(float(wanted), rel=0.05)
    averaged = jax.eval_shape(lambda one: one.evaluated["params"], state)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(averaged)} == {"bfloat16"}
