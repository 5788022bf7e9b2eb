"""Laws that every optimizer obeys, one table for all of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import optim, serialization
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.training.train_state import TrainState
from tests.optim import cases
from tests.optim.cases import DEFINITIONS, after, assert_close, contents

# A matrix and a vector: a third leaf would only take time to compile.
PARAMS, *GRADS = (
    {name: tree[name] for name in ("b", "w")} for tree in (cases.PARAMS, *cases.GRADS)
)

pytestmark = pytest.mark.parametrize("name", DEFINITIONS)


def stacked(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.thinned(6)
def test_scan_over_updates_equals_a_loop(name):
    """So it compiles, and neither structure nor shapes nor dtypes change."""
    optimizer = DEFINITIONS[name]().create(PARAMS)

    @jax.jit
    def scan(optimizer, grads):
        step = lambda o, g: (o.apply_gradient(g), o.state.step)  # noqa: E731
        return jax.lax.scan(step, optimizer, grads)

    scanned, steps = scan(optimizer, stacked(*GRADS))
    assert steps.tolist() == [0, 1, 2]
    assert scanned.optimizer_def is optimizer.optimizer_def
    # A compiled program may add in another order: some roundings of float32.
    assert_close(contents(scanned), contents(after(optimizer, *GRADS)), atol=2e-6)


@pytest.mark.thinned(36)
def test_vmap_over_hyper_parameters_equals_separate_updates(name):
    optimizer = after(DEFINITIONS[name]().create(PARAMS), GRADS[0])
    rates = jnp.array([0.05, 0.5])
    step = lambda rate: optimizer.apply_gradient(GRADS[1], learning_rate=rate)  # noqa: E731
    together = jax.vmap(step)(rates)
    separate = stacked(*(contents(step(rate)) for rate in rates))
    assert_close(contents(together), separate, atol=2e-6)


@pytest.mark.thinned(6)
def test_vmap_over_ensembles_equals_separate_updates(name):
    definition = DEFINITIONS[name]()
    members = [PARAMS, jax.tree.map(lambda x: 2 * x + 1, PARAMS)]
    train = lambda params: after(definition.create(params), *GRADS[:2])  # noqa: E731
    together = jax.vmap(train)(stacked(*members))
    separate = stacked(*(contents(train(params)) for params in members))
    assert_close(contents(together), separate, atol=2e-6)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("travel", [copy.deepcopy, "pickle"])
def test_training_goes_on_after_a_copy(name, travel):
    optimizer = after(DEFINITIONS[name]().create(PARAMS), GRADS[0])
    if name == "from_optax" and travel == "pickle":
        pytest.skip("a transformation of optax holds functions without a name")
    if travel == "pickle":
        travel = lambda x: pickle.loads(pickle.dumps(x))  # noqa: E731
    twin = after(travel(optimizer), *GRADS[1:])
    expected = contents(after(optimizer, *GRADS[1:]))
    assert_close(contents(twin), expected, atol=0, rtol=0)


def test_training_goes_on_after_bytes(name):
    definition = DEFINITIONS[name]()
    optimizer = after(definition.create(PARAMS), *GRADS[:2])
    stored = serialization.to_bytes(optimizer)
    restored = serialization.from_bytes(definition.create(PARAMS), stored)
    assert jax.tree.structure(restored) == jax.tree.structure(optimizer)
    expected = contents(after(optimizer, GRADS[2]))
    assert_close(contents(after(restored, GRADS[2])), expected, atol=0, rtol=0)


def test_frozen_and_plain_targets_are_updated_alike(name):
    definition = DEFINITIONS[name]()
    plain = after(definition.create(PARAMS), *GRADS)
    frozen = after(definition.create(freeze(PARAMS)), *map(freeze, GRADS))
    assert type(plain.target) is dict and type(frozen.target) is FrozenDict
    if name != "from_optax":
        assert type(plain.state.param_states) is dict
        assert type(frozen.state.param_states) is FrozenDict
    assert_close(contents(frozen), contents(plain), atol=0, rtol=0)
    stored = serialization.to_bytes(frozen)
    target = definition.create(freeze(PARAMS))
    assert type(serialization.from_bytes(target, stored).target) is FrozenDict


@pytest.mark.thinned(8)
@pytest.mark.parametrize("wide", ["gradients", "learning rate", "neither"])
def test_half_precision_stays_and_follows_float32(name, wide):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), GRADS[0])
    definition = DEFINITIONS[name]()
    optimizer = definition.create(half)
    overrides = {}
    if wide == "learning rate" and name not in ("MultiOptimizer", "from_optax"):
        hyper_params = getattr(definition, "wrapped_optimizer", definition).hyper_params
        if not isinstance(hyper_params, list):
            overrides = {"learning_rate": jnp.float32(hyper_params.learning_rate)}
    after_one = after(
        optimizer, GRADS[0] if wide == "gradients" else grads, **overrides
    )
    dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, contents(tree))  # noqa: E731
    assert dtypes(after_one) == dtypes(optimizer)

    # Against float32 from the same start: parameters are rounded once, to 2 ** -9 of
    # their size, and updates are computed from numbers with such roundings.
    wide_start = jax.tree.map(lambda x: x.astype(jnp.float32), (half, grads))
    expected = after(definition.create(wide_start[0]), wide_start[1]).target
    assert_close(after_one.target, expected, atol=0.01, rtol=2**-7)
    if name != "WeightNorm of MultiOptimizer":
        moved = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), after_one.target, half)
        assert any(jax.tree.leaves(moved))


def test_the_transformation_of_optax_makes_the_same_updates(name):
    definition = DEFINITIONS[name]()
    optimizer = definition.create(PARAMS)
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=definition.to_optax())
    for grads in GRADS:
        optimizer = optimizer.apply_gradient(grads)
        state = state.apply_gradients(grads=grads)
        assert_close(state.params, optimizer.target)


def test_training_goes_on_in_a_train_state_and_back(name):
    definition = DEFINITIONS[name]()
    optimizer = after(definition.create(PARAMS), GRADS[0])
    state = optim.to_train_state(optimizer, apply_fn=None)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(
        state.tx.init(state.params)
    )
    assert_close(
        contents(optim.from_train_state(state, definition)), contents(optimizer)
    )
    state = state.apply_gradients(grads=GRADS[1])
    assert int(state.step) == 2
    expected = after(optimizer, GRADS[1])
    returned = optim.from_train_state(state, definition)
    assert returned.optimizer_def is definition
    # The state of the restored optimizer differs by what the updates differ.
    assert_close(contents(returned), contents(expected))
    assert_close(after(returned, GRADS[2]).target, after(expected, GRADS[2]).target)


@pytest.mark.thinned(3)
def test_a_checkpoint_of_an_optimizer_becomes_a_train_state(name):
    definition = DEFINITIONS[name]()
    optimizer = after(definition.create(PARAMS), *GRADS[:2])
    stored = serialization.to_bytes(optimizer)
    state = optim.restore_train_state(stored, definition, apply_fn=None)
    state = state.apply_gradients(grads=GRADS[2])
    assert_close(state.params, after(optimizer, GRADS[2]).target)


@pytest.mark.thinned(2)
def test_traced_hyper_parameters_are_as_good_as_plain_ones(name):
    """Nothing branches on a number, zeros included."""
    definition = DEFINITIONS[name]()
    optimizer = after(definition.create(PARAMS), GRADS[0])
    if name == "from_optax":
        hyper_params = {"learning_rate": 0.2, "b1": 0.8}
        step = lambda hp: optimizer.apply_gradient(GRADS[1], **hp)  # noqa: E731
    else:
        hyper_params = definition.update_hyper_params()
        step = lambda hp: optimizer.replace(  # noqa: E731
            **dict(
                zip(
                    ("target", "state"),
                    definition.apply_gradient(
                        hp, optimizer.target, optimizer.state, GRADS[1]
                    ),
                    strict=True,
                )
            )
        )
    assert_close(
        contents(jax.jit(step)(hyper_params)), contents(step(hyper_params)), atol=2e-6
    )


def test_nothing_to_optimize_only_advances_the_step(name):
    optimizer = DEFINITIONS[name]().create({})
    updated = optimizer.apply_gradient({})
    assert updated.target == {} and updated.state.step == 1


def test_subtrees_without_leaves_stay(name):
    definition = DEFINITIONS[name]()
    target = {**PARAMS, "none": None, "empty": {}, "deep": {"empty": {}}}
    grads = {**GRADS[0], "none": None, "empty": {}, "deep": {"empty": {}}}
    updated = definition.create(target).apply_gradient(grads)
    assert updated.target["none"] is None
    assert updated.target["empty"] == {} and updated.target["deep"] == {"empty": {}}
    leaves = {key: updated.target[key] for key in PARAMS}
    expected = after(definition.create(PARAMS), GRADS[0]).target
    assert_close(leaves, expected, atol=0, rtol=0)


def test_an_update_changes_neither_optimizer_nor_definition(name):
    definition = DEFINITIONS[name]()
    hyper_params = copy.deepcopy(definition.hyper_params)
    optimizer = definition.create(PARAMS)
    before = copy.deepcopy(contents(optimizer))
    optimizer.apply_gradient(GRADS[0], learning_rate=7.0)
    assert definition.hyper_params == hyper_params
    assert_close(contents(optimizer), before, atol=0, rtol=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.target = PARAMS
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.state.step = 3


def test_leaves_are_those_of_the_state_then_of_the_target(name):
    optimizer = after(DEFINITIONS[name]().create(PARAMS), GRADS[0])
    leaves, treedef = jax.tree.flatten(optimizer)
    expected = [
        optimizer.state.step,
        *jax.tree.leaves(optimizer.state.param_states),
        *jax.tree.leaves(optimizer.target),
    ]
    assert all(x is y for x, y in zip(leaves, expected, strict=True))
    rebuilt = treedef.unflatten(leaves)
    assert_close(contents(rebuilt), contents(optimizer), atol=0, rtol=0)
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(rebuilt)
    ]
    assert paths[0] == ".state.step" and paths[-1] == ".target['w']"
    values = [eval(f"tree{path}", {"tree": rebuilt}) for path in paths]
    assert all(x is y for x, y in zip(values, leaves, strict=True))
    # The states may have been made from the leaves just now: still the same structure.
    assert jax.tree.structure(rebuilt) == treedef


def test_gradients_of_another_structure_are_refused(name):
    definition = DEFINITIONS[name]()
    missing = {"w": GRADS[0]["w"]}
    with pytest.raises(ValueError):
        definition.create(PARAMS).apply_gradient(missing)


def test_an_unknown_hyper_parameter_is_a_type_error(name):
    optimizer = DEFINITIONS[name]().create(PARAMS)
    with pytest.raises(TypeError, match="no hyper-parameter `speed`"):
        optimizer.apply_gradient(GRADS[0], speed=1.0)


def test_what_one_definition_creates_and_updates_shares_compiled_programs(name):
    """Compiled functions are found by structure, shapes and dtypes of arguments."""
    definition = DEFINITIONS[name]()
    optimizer = definition.create(PARAMS)
    kinds = lambda x: jax.tree.map(jax.typeof, x)  # noqa: E731
    assert kinds(after(optimizer, GRADS[0])) == kinds(optimizer)
    others = definition.create(jax.tree.map(jnp.ones_like, PARAMS))
    assert jax.tree.structure(others) == jax.tree.structure(optimizer)
    another = copy.deepcopy(definition).create(PARAMS)
    assert jax.tree.structure(another) != jax.tree.structure(optimizer)


def test_states_start_with_zeros_like_the_leaves(name):
    definition = DEFINITIONS[name]()
    state = definition.create(PARAMS).state
    assert state.step.dtype == jnp.int32 and state.step.shape == () and state.step == 0
    if name.startswith("WeightNorm") or name == "from_optax":
        return
    assert not any(np.any(x) for x in jax.tree.leaves(state.param_states))
    assert jax.tree.structure(definition.init_state(PARAMS)) == jax.tree.structure(
        state
    )
