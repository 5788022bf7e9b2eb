"""Loss scaling: the numbers of the original, Flax's of today, and its limits."""

from __future__ import annotations

import flax.training.dynamic_scale
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import optim, serialization
from linsey.training.dynamic_scale import DynamicScale
from tests.optim.cases import REFERENCE


@pytest.mark.parametrize("name", REFERENCE["dynamic_scale"])
def test_scales_and_gradients_equal_the_original(name):
    half = name == "square_f16_interval2"
    loss = (lambda p: jnp.asarray(p, jnp.float16) ** 2) if half else (lambda p: p**2)
    param = jnp.float32(1.0 if half else 2.0)

    def step(scaling):
        return scaling.value_and_grad(loss)(param)

    scaling = DynamicScale(growth_interval=2)
    for expected in REFERENCE["dynamic_scale"][name]:
        scaling, finite, value, grad = (jax.jit(step) if half else step)(scaling)
        assert bool(finite) == expected["finite"]
        assert float(scaling.scale) == expected["scale"]
        assert int(scaling.fin_steps) == expected["fin_steps"]
        np.testing.assert_allclose(grad, float(expected["grad"]))
        if expected["loss"] != "nan":
            np.testing.assert_allclose(value, float(expected["loss"]))


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_results_equal_those_of_flax(has_aux, argnums):
    def loss(x, y):
        value = jnp.sum(x * y)
        return (value, {"aux": x}) if has_aux else value

    arguments = jnp.arange(3.0), jnp.ones(3, jnp.bfloat16)
    mine, theirs = DynamicScale(), flax.training.dynamic_scale.DynamicScale()
    for _ in range(2):
        mine, *found = mine.value_and_grad(loss, argnums, has_aux)(*arguments)
        theirs, *expected = theirs.value_and_grad(loss, argnums, has_aux)(*arguments)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
        assert (mine.scale, mine.fin_steps) == (theirs.scale, theirs.fin_steps)


def test_the_scale_stays_between_its_limits():
    bad, good = (lambda p: p * jnp.inf), (lambda p: p)
    smallest = DynamicScale(scale=3e-30, minimum_scale=1e-30)
    for _ in range(3):
        smallest = smallest.value_and_grad(bad)(1.0).dynamic_scale
    np.testing.assert_allclose(smallest.scale, 1e-30, rtol=1e-6)
    largest = DynamicScale(scale=3e38, growth_interval=0)
    largest = largest.value_and_grad(good)(1.0).dynamic_scale
    assert largest.scale == jnp.finfo(jnp.float32).max


def test_gradients_are_averaged_and_all_agree_whether_they_are_finite():
    scaling = DynamicScale()
    step = scaling.value_and_grad(lambda w, x: w * x, axis_name="batch")
    result = jax.vmap(step, in_axes=(None, 0), axis_name="batch")(
        1.0, jnp.array([1.0, 3.0])
    )
    np.testing.assert_allclose(result.grad, [2.0, 2.0])
    np.testing.assert_allclose(result.aux, [1.0, 3.0])
    result = jax.vmap(step, in_axes=(None, 0), axis_name="batch")(
        1.0, jnp.array([1.0, jnp.inf])
    )
    assert not result.finite.any()
    assert np.all(result.dynamic_scale.scale == 32768)


def test_a_step_that_is_not_finite_is_left_out_of_an_optimizer():
    optimizer = optim.Adam(0.1).create({"w": jnp.ones(2)})

    @jax.jit
    def train(optimizer, scaling, x):
        loss = lambda params: jnp.sum(params["w"] * x)  # noqa: E731
        scaling, finite, _, grads = scaling.value_and_grad(loss)(optimizer.target)
        updated = optimizer.apply_gradient(grads)
        choose = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        return jax.tree.map(choose, updated, optimizer), scaling

    same, scaling = train(optimizer, DynamicScale(), jnp.inf)
    assert same.state.step == 0 and np.all(same.target["w"] == 1)
    moved, scaling = train(same, scaling, 1.0)
    assert moved.state.step == 1 and np.all(moved.target["w"] < 1)
    assert scaling.scale == 32768


def test_state_dict_holds_steps_and_scale():
    scaling = DynamicScale(growth_interval=3)
    assert serialization.to_state_dict(scaling) == {"fin_steps": 0, "scale": 65536.0}
    assert jax.tree.leaves(scaling) == [0, 65536.0]
    assert optim.DynamicScale is DynamicScale
