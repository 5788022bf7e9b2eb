"""`TrainState` against the one of Flax: same steps, same bytes, same signatures."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey import msgpack_format, serialization
from linsey.training import train_state as ours

theirs = pytest.importorskip("flax.training.train_state")
flax_serialization = pytest.importorskip("flax.serialization")

PARAMS = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
GRADS = jax.tree.map(lambda x: jnp.full_like(x, 0.5), PARAMS)


def run(module, steps: int = 3):
    class State(module.TrainState):
        batch_stats: Any

    state = State.create(
        apply_fn=None,
        params=PARAMS,
        tx=optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(0.1, 0, 5))),
        batch_stats={"mean": jnp.zeros(3)},
    )
    for _ in range(steps):
        mean = {"mean": state.batch_stats["mean"] + 1}
        state = state.apply_gradients(grads=GRADS, batch_stats=mean)
    return state


def same(a, b):
    assert a.dtype == b.dtype and np.array_equal(a, b)


def test_steps_agree_bit_for_bit():
    mine, other = run(ours), run(theirs)
    assert mine.step == other.step
    assert [p for p, _ in jax.tree_util.tree_leaves_with_path(mine)] == [
        p for p, _ in jax.tree_util.tree_leaves_with_path(other)
    ]
    jax.tree.map(same, mine.params, other.params)
    jax.tree.map(same, mine.opt_state, other.opt_state)


def test_checkpoints_travel_both_ways():
    mine, other = run(ours), run(theirs)
    data = serialization.to_bytes(mine)
    assert data == msgpack_format.seal(flax_serialization.to_bytes(other))
    restored = serialization.from_bytes(run(ours, steps=0), data)
    jax.tree.map(same, restored.opt_state, mine.opt_state)
    assert restored.step == 3
    assert flax_serialization.from_bytes(run(theirs, steps=0), data).step == 3


def test_overwritten_collections_agree():
    name = ours.OVERWRITE_WITH_GRADIENT
    assert name == theirs.OVERWRITE_WITH_GRADIENT
    params = {"params": PARAMS, name: {"amax": jnp.zeros(2)}}
    grads = {"params": GRADS, name: {"amax": jnp.ones(2)}}
    states = [
        m.TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
        for m in (ours, theirs)
    ]
    mine, other = (state.apply_gradients(grads=grads) for state in states)
    jax.tree.map(same, mine.params, other.params)
    jax.tree.map(same, mine.opt_state, other.opt_state)


@pytest.mark.parametrize("name", ["create", "apply_gradients", "__init__"])
def test_signatures_agree(name):
    mine = inspect.signature(getattr(ours.TrainState, name)).parameters.values()
    other = inspect.signature(getattr(theirs.TrainState, name)).parameters.values()
    assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in other]
