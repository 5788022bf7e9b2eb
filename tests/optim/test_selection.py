"""Traversals that select leaves, and several optimizers for one tree."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey import errors, optim
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.traverse_util import ModelParamTraversal, t_identity
from tests.optim.cases import GRADS, PARAMS, after, assert_close, at, contents, multi


def test_a_focus_leaves_the_rest_alone():
    optimizer = optim.GradientDescent(1.0).create(
        {"a": 0.0, "b": 0.0}, focus=t_identity["a"]
    )
    assert isinstance(optimizer.optimizer_def, optim.MultiOptimizer)
    assert optimizer.state.param_states == {"a": (), "b": None}
    updated = optimizer.apply_gradient({"a": -1.0, "b": -2.0})
    assert updated.target == {"a": 1.0, "b": 0.0} and updated.state.step == 1
    assert optimizer.apply_gradient({"a": -1.0}).target == updated.target


def test_each_optimizer_has_its_leaves_and_all_have_one_step():
    definition = optim.MultiOptimizer(
        (t_identity["a"], optim.GradientDescent(1.0)),
        (t_identity["b"], optim.GradientDescent(10.0)),
    )
    params = {"a": 0.0, "b": 0.0, "c": {}}
    grads = {"a": -1.0, "b": -2.0, "c": {}}
    state = definition.init_state(params)
    target, new = definition.apply_gradient(
        definition.hyper_params, params, state, grads
    )
    assert target == {"a": 1.0, "b": 20.0, "c": {}} and new.step == 1
    hyper_params = definition.update_hyper_params(learning_rate=2.0)
    assert [hp.learning_rate for hp in hyper_params] == [2.0, 2.0]
    target, _ = definition.apply_gradient(hyper_params, params, state, grads)
    assert target == {"a": 2.0, "b": 4.0, "c": {}}


@pytest.mark.parametrize("run", [lambda f: f, jax.jit])
def test_a_leaf_for_two_optimizers_is_refused(run):
    everything = ModelParamTraversal(lambda path, value: value.dtype == jnp.float32)
    definition = optim.MultiOptimizer(
        (at("/y"), optim.Adam(0.1)), (everything, optim.Adam(0.1))
    )
    params = {"x": jnp.ones(1), "y": jnp.ones(1)}
    match = r"^Multiple optimizers match.*'x': \[1\], 'y': \[0, 1\]"
    with pytest.raises(errors.OptionError, match=match):
        run(definition.init_state)(params)


def test_filters_see_the_arrays_at_every_update():
    """The original showed them shapes at first, and in updates other things."""
    matrices = ModelParamTraversal(lambda path, value: value.ndim == 2)
    optimizer = optim.Momentum(0.1).create(PARAMS, focus=matrices)
    for step in (after, jax.jit(after)):
        target = step(optimizer, *GRADS).target
        expected = after(optim.Momentum(0.1).create(PARAMS), *GRADS).target
        np.testing.assert_allclose(target["w"], expected["w"], rtol=1e-6)
        np.testing.assert_array_equal(target["b"], PARAMS["b"])


@pytest.mark.parametrize(
    "traversal", [t_identity.each(), t_identity.tree(), t_identity.each().tree()]
)
@pytest.mark.parametrize("kind", [dict, freeze])
def test_leaves_and_states_are_paired_by_path(traversal, kind):
    """The original paired them by order, and keys out of order made it wrong."""
    params = kind({"z": jnp.ones(2), "a": jnp.zeros((3, 1))})
    grads = kind({"a": jnp.full((3, 1), 2.0), "z": jnp.ones(2)})
    optimizer = optim.Adam(0.1).create(params, focus=traversal)
    found = after(optimizer, grads, grads)
    expected = after(optim.Adam(0.1).create(params), grads, grads)
    assert type(found.target) is type(found.state.param_states) is type(params)
    assert_close(contents(found), contents(expected))


def test_a_key_may_be_the_focus_in_a_frozen_target():
    params = freeze({"a": {"b": jnp.ones(1)}, "c": jnp.ones(1)})
    optimizer = optim.GradientDescent(1.0).create(params, focus=t_identity["a"]["b"])
    updated = optimizer.apply_gradient({"a": {"b": jnp.ones(1)}})
    assert type(updated.target) is FrozenDict
    assert updated.target["a"]["b"] == 0 and updated.target["c"] == 1


def test_a_focus_on_nothing_changes_nothing():
    everything = ModelParamTraversal(lambda path, _: True)
    optimizer = optim.Adam(0.1).create({}, focus=everything)
    assert optimizer.apply_gradient({}).target == {}
    keys = {0: jnp.ones(1), 1: {2: jnp.ones(1)}}
    updated = optim.GradientDescent(1.0).create(keys, focus=at("/1/2"))
    updated = updated.apply_gradient(keys)
    assert updated.target == {0: jnp.ones(1), 1: {2: jnp.zeros(1)}}


def test_a_list_of_hyper_params_has_one_set_for_each():
    optimizer = multi().create(PARAMS)
    hyper_params = optimizer.optimizer_def.hyper_params
    assert isinstance(hyper_params, list)
    for count in (0, 1, 3):
        with pytest.raises(errors.MismatchError):
            optimizer.apply_gradient(GRADS[0], hyper_params=(hyper_params * 2)[:count])


def is_bias(path, _):
    return path == "/b"


def test_a_focus_survives_copying_and_pickling():
    for focus in (ModelParamTraversal(is_bias), t_identity["b"]):
        optimizer = optim.Adam(0.1).create(PARAMS, focus=focus)
        expected = contents(after(optimizer, GRADS[0]))
        for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert_close(contents(after(twin, GRADS[0])), expected, atol=0, rtol=0)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="given no optimizer"):
        optim.MultiOptimizer()
    tree = {"d0": {"a": jnp.ones(1)}, "e": jnp.ones(1)}
    with pytest.raises(errors.OptionError, match=r"subtree: \['d0'\]"):
        optim.Adam(0.1).create(tree, focus=t_identity["d0"])
    with pytest.raises(errors.OptionError, match="whole target"):
        optim.Adam(0.1).create(tree, focus=t_identity)
    optimizer = optim.Adam(0.1).create(tree, focus=t_identity["e"])
    with pytest.raises(errors.GradientStructureError, match=r"no gradient of \['e'\]"):
        optimizer.apply_gradient({"d0": tree["d0"]})
    optimizer = optim.Adam(0.1).create({"a": jnp.ones(1)})
    with pytest.raises(errors.GradientStructureError, match="structure"):
        optimizer.apply_gradient(freeze({"a": jnp.ones(1)}))
    for inner in (
        multi(),
        optim.WeightNorm(optim.Adam(0.1)),
        optim.from_optax(optax.adam(0.1)),
    ):
        with pytest.raises(NotImplementedError):
            inner.create(PARAMS, focus=at("/w"))
        with pytest.raises(NotImplementedError):
            inner.apply_param_gradient(0, None, PARAMS["w"], None, PARAMS["w"])
