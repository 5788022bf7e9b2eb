"""Weight normalization around other optimizers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from linsey import optim
from tests.optim.cases import GRADS, PARAMS, after, assert_close


def test_weight_norm_of_a_matrix():
    optimizer = optim.WeightNorm(optim.Momentum(0.1)).create(2.0 * jnp.ones((2, 2)))
    state = optimizer.state.param_states
    assert state.direction_state.momentum.shape == (2, 2)
    assert state.scale_state.momentum.shape == state.scale.shape == (1, 2)
    updated = optimizer.apply_gradient(jnp.ones((2, 2)))
    np.testing.assert_allclose(updated.target, 1.9, rtol=1e-6)
    state = updated.state.param_states
    np.testing.assert_allclose(state.direction, 2**-0.5, rtol=1e-6)
    np.testing.assert_allclose(state.scale, 1.9 * 2**0.5, rtol=1e-6)


def test_weight_norm_equals_gradients_of_direction_and_scale_by_jax():
    eps, decay, rate = 0.1, 0.3, 0.2
    definition = optim.WeightNorm(optim.GradientDescent(rate), decay, eps)
    optimizer = definition.create(PARAMS["w"])
    grad = GRADS[0]["w"]

    def weight(direction, scale):
        return scale * direction / jnp.sqrt((direction**2).sum(0, keepdims=True) + eps)

    state = optimizer.state.param_states
    _, back = jax.vjp(weight, state.direction, state.scale)
    of_direction, of_scale = back(grad)
    direction = state.direction - rate * (of_direction + decay * state.direction)
    scale = state.scale - rate * of_scale
    updated = optimizer.apply_gradient(grad)
    np.testing.assert_allclose(updated.state.param_states.direction, direction, 1e-5)
    np.testing.assert_allclose(updated.target, weight(direction, scale), rtol=1e-5)


def test_weight_norm_starts_from_its_state_and_not_from_the_target():
    optimizer = optim.WeightNorm(optim.Momentum(0.1)).create(PARAMS)
    other = optimizer.replace(target=jax.tree.map(jnp.zeros_like, PARAMS))
    assert_close(after(other, GRADS[0]).target, after(optimizer, GRADS[0]).target, 0, 0)


def test_weight_norm_overrides_go_to_whom_they_belong():
    definition = optim.WeightNorm(optim.Momentum(0.1))
    found = definition.update_hyper_params(wn_decay=0.5, learning_rate=0.2)
    assert (found.wn_decay, found.wn_eps) == (0.5, 1e-8)
    assert found.inner == optim.Momentum(0.2).hyper_params
    found = definition.update_hyper_params(
        hyper_params=optim.Momentum(0.3).hyper_params
    )
    assert found.inner.learning_rate == 0.3


def test_weight_norm_leaves_scalars_and_rows_as_they_are():
    target = {"scalar": jnp.ones(()), "row": jnp.ones((1, 3)), "bias": jnp.ones(3)}
    optimizer = optim.WeightNorm(optim.GradientDescent(0.5)).create(target)
    assert all(s.scale == () for s in optimizer.state.param_states.values())
    updated = optimizer.apply_gradient(target).target
    assert_close(updated, jax.tree.map(lambda x: 0.5 * x, target))
