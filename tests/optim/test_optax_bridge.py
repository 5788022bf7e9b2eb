"""From the classic optimizers to optax and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey import errors, optim, serialization
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.training.train_state import TrainState
from tests.optim.cases import (
    GRADS,
    PARAMS,
    SignDescent,
    after,
    assert_close,
    contents,
    multi,
)

# What the guide "From flax.optim to optax" says becomes what.
FUNCTIONS = {
    "GradientDescent": (optim.GradientDescent(0.1), optax.sgd(0.1)),
    "Momentum": (
        optim.Momentum(0.1, 0.8, 0.01, True),
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.8, True)),
    ),
    "Adam": (
        optim.Adam(0.1, 0.8, 0.95, 1e-3, 0.01),
        optax.adamw(0.1, 0.8, 0.95, 1e-3, weight_decay=0.01),
    ),
    "AdaBelief": (
        optim.AdaBelief(0.1, 0.8, 0.95, 1e-3, 0.01),
        optax.chain(
            optax.scale_by_belief(0.8, 0.95, 1e-3, eps_root=1e-3),
            optax.add_decayed_weights(0.01),
            optax.scale(-0.1),
        ),
    ),
    "Adadelta": (
        optim.Adadelta(0.5, 0.8, 1e-3, 0.01),
        optax.chain(
            optax.scale_by_adadelta(0.8, 1e-3),
            optax.add_decayed_weights(0.01),
            optax.scale(-0.5),
        ),
    ),
    "RMSProp": (
        optim.RMSProp(0.1, 0.8, 0.1, True),
        optax.rmsprop(0.1, 0.8, 0.1, centered=True, eps_in_sqrt=False),
    ),
    "LAMB": (
        optim.LAMB(0.1, 0.8, 0.95, 0.01, 1e-3),
        optax.lamb(0.1, 0.8, 0.95, 1e-3, weight_decay=0.01),
    ),
    "LARS": (
        optim.LARS(1.0, 0.8, 0, 0.02, 0.01),
        optax.lars(1.0, 0.0, trust_coefficient=0.02, eps=0.01, momentum=0.8),
    ),
    "Adafactor": (
        optim.Adafactor(0.1, min_dim_size_to_factor=2, beta1=0.9),
        optax.adafactor(0.1, 2, momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_of_optax_that_the_guide_names_make_the_same_updates(name):
    definition, tx = FUNCTIONS[name]
    optimizer = definition.create(PARAMS)
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
    for grads in GRADS:
        optimizer = optimizer.apply_gradient(grads)
        state = state.apply_gradients(grads=grads)
        assert_close(state.params, optimizer.target)


def test_a_learning_rate_given_at_each_update_becomes_a_schedule():
    rates = [0.1, 0.05, 0.025]
    schedule = lambda step: jnp.array(rates)[step]  # noqa: E731
    optimizer = optim.Adam().create(PARAMS)
    optimizer = optimizer.apply_gradient(GRADS[0], learning_rate=rates[0])
    state = optim.to_train_state(
        optimizer, apply_fn=None, hyper_params={"learning_rate": schedule}
    )
    for grads, rate in zip(GRADS[1:], rates[1:], strict=True):
        optimizer = optimizer.apply_gradient(grads, learning_rate=rate)
        state = state.apply_gradients(grads=grads)
    assert_close(state.params, optimizer.target)
    back = optim.from_train_state(
        state, optimizer.optimizer_def, learning_rate=schedule
    )
    assert_close(contents(back), contents(optimizer))


class StateWithStatistics(TrainState):
    batch_stats: Any


def test_a_train_state_may_have_further_fields():
    definition = optim.Momentum(0.1)
    optimizer = after(definition.create(PARAMS), GRADS[0])
    for state in (
        optim.to_train_state(
            optimizer, apply_fn=len, cls=StateWithStatistics, batch_stats={"mean": 0}
        ),
        optim.restore_train_state(
            serialization.to_state_dict(optimizer),
            definition,
            apply_fn=len,
            cls=StateWithStatistics,
            batch_stats={"mean": 0},
        ),
    ):
        assert type(state) is StateWithStatistics and state.batch_stats == {"mean": 0}
        assert state.apply_fn is len
        assert_close(state.params, optimizer.target)


def test_a_target_gives_the_restored_parameters_their_structure():
    definition = optim.Adam(0.1)
    stored = serialization.to_bytes(definition.create({"layers": [jnp.ones(1)] * 2}))
    state = optim.restore_train_state(stored, definition, apply_fn=None)
    assert set(state.params["layers"]) == {"0", "1"}
    target = freeze({"layers": [jnp.zeros(1), jnp.zeros(1)]})
    state = optim.restore_train_state(stored, definition, apply_fn=None, target=target)
    assert type(state.params) is FrozenDict
    assert state.params["layers"] == [1, 1]


def test_checkpoints_of_something_else_are_refused():
    stored = serialization.to_bytes(optim.Momentum(0.1).create(PARAMS))
    with pytest.raises(errors.StateDictMismatchError, match="Missing field grad_ema"):
        optim.restore_train_state(stored, optim.Adam(0.1), apply_fn=None)
    with pytest.raises(errors.MalformedBytesError):
        optim.restore_train_state(stored[:20], optim.Momentum(0.1), apply_fn=None)
    with pytest.raises(KeyError, match="has no 'target'"):
        optim.restore_train_state({}, optim.Momentum(0.1), apply_fn=None)
    with pytest.raises(KeyError, match="has no 'target'"):
        optim.restore_train_state([1], optim.Momentum(0.1), apply_fn=None)


def test_states_of_the_leaves_of_several_optimizers_are_those_of_optax():
    """Labelled by their number, and unselected leaves never move."""
    definition = multi()
    optimizer = after(definition.create(PARAMS), *GRADS)
    state = optim.to_train_state(optimizer, apply_fn=None)
    inner = state.opt_state.inner_states
    assert set(inner) == {"0", "1", "frozen"}
    trace = inner["0"].inner_state[0].trace
    np.testing.assert_array_equal(
        trace["w"], optimizer.state.param_states["w"].momentum
    )
    assert trace["b"] == trace["z"] == optax.MaskedNode()
    np.testing.assert_array_equal(
        state.apply_gradients(grads=GRADS[0]).params["z"], PARAMS["z"]
    )


def test_a_gradient_transformation_is_an_optimizer():
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.nadam(0.1))
    definition = optim.from_optax(tx)
    assert definition.to_optax() is tx
    optimizer = after(definition.create(PARAMS), *GRADS)
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
    for grads in GRADS:
        state = state.apply_gradients(grads=grads)
    assert_close(optimizer.target, state.params, atol=0, rtol=0)
    assert optimizer.state.step == 3


def test_injected_hyper_parameters_can_be_overridden_for_one_update():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    optimizer = optim.from_optax(tx).create(jnp.zeros(1))
    step = jax.jit(lambda o, rate: o.apply_gradient(jnp.ones(1), learning_rate=rate))
    optimizer = step(optimizer, 2.0)
    np.testing.assert_array_equal(optimizer.target, -2.0)
    optimizer = optimizer.apply_gradient(jnp.ones(1))
    np.testing.assert_array_equal(optimizer.target, -2.5)


def test_what_cannot_be_overridden_is_named():
    scheduled = optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda step: 0.1, momentum=0.9
    )
    optimizer = optim.from_optax(scheduled).create(jnp.zeros(1))
    with pytest.raises(errors.HyperParamUnknownError, match="It has: `momentum`"):
        optimizer.apply_gradient(jnp.ones(1), learning_rate=1.0)
    optimizer = optim.from_optax(optax.sgd(0.1)).create(jnp.zeros(1))
    with pytest.raises(errors.HyperParamUnknownError, match="It has: none"):
        optimizer.apply_gradient(jnp.ones(1), learning_rate=1.0)
    with pytest.raises(errors.HyperParamUnknownError):
        optimizer.optimizer_def.to_optax(learning_rate=1.0)


def test_a_rule_of_ones_own_is_a_transformation_too():
    tx = SignDescent().to_optax(learning_rate=0.5)
    state = tx.init(PARAMS)
    updates, state = tx.update(GRADS[0], state, PARAMS)
    np.testing.assert_allclose(updates["b"], [-0.5, 0.5, -0.5], rtol=1e-6)
    assert isinstance(state, optim.OptimizerState) and state.step == 1
