"""Laws of `TrainState`: optax's update, one structure throughout, cheap to flatten."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.serialization import from_bytes, from_state_dict, to_bytes, to_state_dict
from linsey.training import train_state
from linsey.training.train_state import OVERWRITE_WITH_GRADIENT, TrainState


class BatchNormState(TrainState):
    batch_stats: Any


def apply_fn(variables, x):
    return x @ variables["params"]["w"]


PARAMS = {"w": jnp.arange(3.0), "b": {"c": jnp.ones(())}}
GRADS = jax.tree.map(lambda x: jnp.full_like(x, 0.5), PARAMS)


def create(params=PARAMS, tx=None, **kwargs):
    cls = BatchNormState if kwargs else TrainState
    tx = tx or optax.adam(0.1)
    return cls.create(apply_fn=apply_fn, params=params, tx=tx, **kwargs)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", [dict, freeze])
def test_steps_are_those_of_optax(kind):
    params, grads = kind(PARAMS), kind(GRADS)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    state, opt_state = create(params, tx), tx.init(params)
    for step in range(3):
        assert state.step == step
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state = state.apply_gradients(grads=grads)
    equal(state.params, params)
    equal(state.opt_state, opt_state)


def test_all_steps_have_one_structure_and_are_traced_once():
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        return state.apply_gradients(grads=GRADS, batch_stats={"mean": state.step})

    state = first = create(batch_stats={"mean": 0})
    for _ in range(3):
        state = step(state)
    assert jax.tree.structure(state) == jax.tree.structure(first)
    assert len(traces) == 1
    assert int(state.step) == 3 and int(state.batch_stats["mean"]) == 2


def test_steps_can_be_scanned():
    state = create().replace(step=jnp.zeros((), jnp.int32))
    scanned, _ = jax.lax.scan(
        lambda state, _: (state.apply_gradients(grads=GRADS), None), state, length=3
    )
    for _ in range(3):
        state = state.apply_gradients(grads=GRADS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=8 * np.finfo("f4").eps),
        scanned,
        state,
    )


def test_subclasses_add_fields():
    state = create(batch_stats={"mean": 1})
    assert type(state) is BatchNormState
    state = state.apply_gradients(grads=GRADS, batch_stats={"mean": 2})
    assert state.batch_stats == {"mean": 2} and state.step == 1
    assert state.apply_gradients(grads=GRADS).batch_stats == {"mean": 2}
    with pytest.raises(TypeError, match="batch_stats"):
        BatchNormState.create(apply_fn=apply_fn, params=PARAMS, tx=optax.sgd(0.1))
    with pytest.raises(TypeError, match="nope"):
        create().apply_gradients(grads=GRADS, nope=1)
    with pytest.raises(TypeError, match="step"):
        create().apply_gradients(grads=GRADS, step=1)


def test_children_are_named_and_functions_are_static():
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(create(tx=optax.sgd(0.1)))
    ]
    assert paths == [".step", ".params['b']['c']", ".params['w']"]
    other = create(tx=optax.sgd(0.1))
    assert jax.tree.structure(create()) != jax.tree.structure(other)


@pytest.mark.parametrize("kind", [dict, freeze])
def test_overwritten_collections_take_their_gradient(kind):
    fp8 = {OVERWRITE_WITH_GRADIENT: {"amax": jnp.zeros(2)}}
    params = kind({"params": PARAMS, **fp8})
    grads = kind({"params": GRADS, OVERWRITE_WITH_GRADIENT: {"amax": jnp.ones(2)}})
    state, plain = create(params), create(kind(PARAMS))
    equal(state.opt_state, plain.opt_state)
    structure = jax.tree.structure(state)
    state = state.apply_gradients(grads=grads)
    plain = plain.apply_gradients(grads=kind(GRADS))
    assert type(state.params) is type(params)
    equal(state.params["params"], plain.params)
    assert state.params[OVERWRITE_WITH_GRADIENT]["amax"].tolist() == [1, 1]
    assert jax.tree.structure(state) == structure


def test_parameters_may_be_any_tree():
    state = create([jnp.ones(2)], optax.sgd(0.5))
    assert state.apply_gradients(grads=[jnp.ones(2)]).params[0].tolist() == [0.5, 0.5]
    state = create(jnp.ones(2), optax.sgd(0.5))
    assert state.apply_gradients(grads=jnp.ones(2)).params.tolist() == [0.5, 0.5]


def test_state_dict_holds_step_params_optimizer_and_added_fields():
    state = create(freeze(PARAMS), batch_stats={"mean": jnp.ones(2)})
    state = state.apply_gradients(grads=freeze(GRADS))
    stored = to_state_dict(state)
    assert set(stored) == {"step", "params", "opt_state", "batch_stats"}
    fresh = create(freeze(PARAMS), batch_stats={"mean": jnp.zeros(2)})
    for restored in (
        from_state_dict(fresh, stored),
        from_bytes(fresh, to_bytes(state)),
    ):
        equal(restored.replace(tx=0, apply_fn=0), state.replace(tx=0, apply_fn=0))
        assert restored.tx is fresh.tx and type(restored.params) is FrozenDict


def python_calls(function) -> int:
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_flattening_runs_no_more_python_than_that_of_a_dict():
    params = {f"layer_{i}": {"kernel": 1, "bias": 2} for i in range(50)}
    state = create(params, optax.identity())
    as_dict = {name: getattr(state, name) for name in ("step", "params", "opt_state")}
    assert python_calls(lambda: jax.tree.flatten(state)) == python_calls(
        lambda: jax.tree.flatten(as_dict)
    )


def test_optax_is_imported_when_it_is_needed():
    code = "import sys; import {}; print('optax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(train_state.__name__)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False", done.stderr
