"""What every object can do: transformations of JAX, checkpoints, training loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey import serialization

X = jax.random.normal(jax.random.key(0), (8, 3))


class Network(tx.Module):
    """Everything that has parameters or state."""

    @tx.compact
    def __call__(self, x):
        x = tx.Linear(4)(x)
        x = tx.BatchNorm(momentum=0.5)(x)
        x = tx.Dropout(0.2)(x)
        return tx.Linear(1)(jax.nn.relu(x))


def made(seed=0):
    return Network().init(seed, X)


def wrapped():
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
    return tx.from_linen(module, module.init(jax.random.key(0), X))


def equal(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def loss_of(params, model, x):
    model = model.merge(params)
    return jnp.mean(model(x) ** 2), model


@pytest.fixture(params=[made, wrapped], ids=["treex", "wrapped linen"])
def model(request):
    return request.param()


def test_gradients_are_objects(model):
    (_, after), grads = jax.value_and_grad(loss_of, has_aux=True)(
        model.parameters(), model, X
    )
    equal(jax.tree.map(jnp.shape, grads), jax.tree.map(jnp.shape, model.parameters()))
    assert type(grads) is type(model) and type(after) is type(model)


def test_gradients_of_whole_modules():
    model = tx.BatchNorm().init(0, X)
    assert jax.grad(lambda m: m(X).sum())(model).momentum == 0.0
    with pytest.raises(TypeError):  # random keys are integers
        jax.grad(lambda m: m(X).sum())(made())


@pytest.mark.slow
def test_ensembles():
    models = jax.vmap(lambda key: Network().init(key, X))(
        jax.random.split(jax.random.key(0), 3)
    )
    y, after = jax.vmap(lambda m: (m(X), m))(models)
    assert y.shape == (3, 8, 1) and after.batch_norm.mean.shape == (3, 4)
    one = jax.tree.map(lambda leaf: leaf[1], models)
    np.testing.assert_allclose(one(X), y[1], rtol=2e-5, atol=1e-6)


def train(model, steps, how):
    optimizer = tx.Optimizer(optax.adam(0.05)).init(model.parameters())

    def step(carry, x):
        model, optimizer = carry
        params = model.parameters()
        loss = jax.checkpoint(loss_of) if how == "checkpoint" else loss_of
        (value, model), grads = jax.value_and_grad(loss, has_aux=True)(params, model, x)
        params = optimizer.update(grads, params)
        return (model.merge(params), optimizer), value

    carry = (model, optimizer)
    if how == "scan":
        return jax.jit(lambda c, xs: jax.lax.scan(step, c, xs))(
            carry, jnp.stack([X] * steps)
        )[0][0]
    step = jax.jit(step)
    for _ in range(steps):
        carry, _ = step(carry, X)
    assert step._cache_size() == 1
    return carry[0]


def test_a_scan_over_steps_trains_like_a_loop():
    equal(train(made(), 3, "scan"), train(made(), 3, "loop"), rtol=1e-4, atol=1e-5)


def test_checkpointed_training_trains_like_any():
    equal(
        train(made(), 3, "checkpoint"), train(made(), 3, "loop"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.thinned(3)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint])
def test_statistics_are_updated_once_per_step(transform):
    layer = tx.BatchNorm(momentum=0.5).init(0, X)

    def step(layer, x):
        (_, after), _ = jax.value_and_grad(transform(loss_of), has_aux=True)(
            layer.parameters(), layer, x
        )
        return after

    for steps in (1, 2):
        layer = step(layer, X)
        expected = (1 - 0.5**steps) * X.mean(0)
        np.testing.assert_allclose(layer.mean, expected, rtol=1e-5, atol=1e-7)


def test_training_reduces_the_loss():
    model = made()
    start, end = (jnp.mean(m.eval()(X) ** 2) for m in (model, train(model, 40, "scan")))
    assert end < 0.5 * start


def test_one_compilation_serves_equal_models():
    f = jax.jit(lambda model: model(X))
    f(made(0)), f(made(1))
    assert f._cache_size() == 1


def test_messages_pack_and_come_back(model):
    done = jax.tree.map(lambda leaf: leaf + 1, model)
    back = serialization.from_bytes(model, serialization.to_bytes(done))
    assert jax.tree.structure(back) == jax.tree.structure(done)
    jax.tree.map(np.testing.assert_array_equal, back, done)
    state = serialization.to_state_dict(tx.Linear(2).init(0, X))
    assert sorted(state) == ["bias", "kernel"]
    with pytest.raises(ValueError):
        serialization.from_state_dict(tx.Linear(2).init(0, X), {"bias": 1})


def test_orbax_checkpoints(model, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    done = jax.tree.map(lambda leaf: leaf + 1, model)
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", done)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(tmp_path / "model", shapes)
    assert jax.tree.structure(back) == jax.tree.structure(done)
    jax.tree.map(np.testing.assert_array_equal, back, done)


def test_a_captured_module_that_is_changed_leaks_as_documented():
    layer = tx.BatchNorm().init(0, X)
    jax.jit(lambda x: layer(x))(X)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        layer.mean + 1


def test_changing_the_structure_while_compiled_asks_for_a_new_program():
    traces = []

    @jax.jit
    def f(model):
        traces.append(1)
        return model

    model = made()
    f(model), f(f(model)), f(model.eval()), f(model.freeze())
    assert len(traces) == 3


def test_half_precision():
    layer = tx.BatchNorm(dtype=jnp.bfloat16).init(0, X)
    y = layer(X.astype(jnp.bfloat16))
    assert (y.dtype, layer.mean.dtype, layer.scale.dtype) == (
        jnp.bfloat16, jnp.float32, jnp.float32)  # fmt: skip
    assert tx.BatchNorm().init(0, X)(X.astype(jnp.float16)).dtype == jnp.float32
