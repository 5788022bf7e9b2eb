"""The optimizer object: creating, updating, overriding, storing, replicating."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import compat, errors, optim, serialization
from linsey.core.frozen_dict import freeze
from tests.optim.cases import (
    GRADS,
    PARAMS,
    REFERENCE,
    SignDescent,
    after,
    arrays,
    assert_close,
    contents,
    multi,
)
from tests.optim.test_reference import CASES, MAKERS, overrides_of, problem


def test_public_names():
    names = """Adam AdaBelief Adadelta Adafactor Adagrad GradientDescent LAMB LARS
    Momentum RMSProp WeightNorm OptimizerDef OptimizerState Optimizer MultiOptimizer
    ModelParamTraversal DynamicScale""".split()
    assert set(names) <= set(optim.__all__)
    modules = """sgd adam adabelief adadelta adafactor adagrad momentum rmsprop lamb
    lars weight_norm base dynamic_scale""".split()
    for name in modules:
        assert getattr(optim, name).__name__ == f"linsey.optim.{name}"
    assert optim.sgd.GradientDescent is optim.GradientDescent
    assert optim.base.ReplicatedOptimizer and optim.base.Optimizer is optim.Optimizer


def test_create_keeps_the_definition_and_the_target():
    definition = optim.Momentum(0.1)
    optimizer = definition.create(PARAMS)
    assert optimizer.optimizer_def is definition and optimizer.target is PARAMS
    assert optimizer.replace(target=3).target == 3
    assert definition != optim.Momentum(0.1) and hash(definition)


def test_a_state_is_the_same_whether_or_not_its_tree_was_read():
    state = optim.Adam(0.1).create(PARAMS).state
    for stand_in in (0, None, (1, 2), "axis"):
        fresh = jax.tree.map(lambda _, value=stand_in: value, state)
        structure = jax.tree.structure(fresh)
        assert fresh.param_states["w"].grad_ema == stand_in
        assert jax.tree.structure(fresh) == structure
        assert fresh == jax.tree.map(lambda _, value=stand_in: value, state)
        assert "param_states={" in repr(fresh)
    with pytest.raises(AttributeError):
        _ = state.speed


def test_a_state_changed_in_place_is_as_it_was_changed():
    state = jax.tree.map(lambda x: x, optim.GradientDescent(0.1).create(PARAMS).state)
    state.param_states["w"] = jnp.ones(2)
    state.param_states["new"] = jnp.ones(3)
    shapes = [x.shape for x in jax.tree.leaves(state)]
    assert shapes == [(), (3,), (2,)]


def test_programs_that_import_flax_find_the_optimizers():
    compat.install()
    try:
        assert importlib.import_module("flax.optim").Adam is optim.Adam
        sgd = importlib.import_module("flax.optim.sgd")
        assert sgd.GradientDescent is optim.GradientDescent
    finally:
        compat.uninstall()


def test_without_optax_the_import_says_what_to_install():
    program = "import sys; sys.modules['optax'] = None; import linsey.optim"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "Write `pip install optax`." in done.stderr


def test_hyper_params_are_values():
    hyper_params = optim.Adam(0.1).hyper_params
    assert hyper_params == optim.Adam(0.1).hyper_params
    assert hyper_params.replace(beta1=0.5).beta1 == 0.5 and hyper_params.beta1 == 0.9
    with pytest.raises(AttributeError):
        hyper_params.beta1 = 0.5


# ------------------------------------------------------------------ overrides


def test_an_override_holds_for_one_update():
    optimizer = optim.GradientDescent(0.1).create(jnp.ones(1))
    once = optimizer.apply_gradient(jnp.ones(1), learning_rate=0.5)
    np.testing.assert_allclose(once.target, 0.5)
    np.testing.assert_allclose(once.apply_gradient(jnp.ones(1)).target, 0.4, rtol=1e-6)


def test_a_whole_set_and_names_on_top():
    optimizer = optim.Momentum(0.1).create(jnp.zeros(1))
    hyper_params = optimizer.optimizer_def.hyper_params.replace(
        learning_rate=1.0, nesterov=True
    )
    updated = optimizer.apply_gradient(jnp.ones(1), hyper_params=hyper_params)
    np.testing.assert_allclose(updated.target, -1.9, rtol=1e-6)
    updated = optimizer.apply_gradient(
        jnp.ones(1), hyper_params=hyper_params, learning_rate=2.0
    )
    np.testing.assert_allclose(updated.target, -3.8, rtol=1e-6)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", REFERENCE["defaults"])
def test_an_update_without_a_learning_rate_is_refused(name):
    if name == "WeightNorm":
        definition = optim.WeightNorm(optim.Momentum())
    else:
        definition = getattr(optim, name)()
    optimizer = definition.create(PARAMS)
    with pytest.raises(AssertionError, match="no learning rate provided"):
        optimizer.apply_gradient(GRADS[0])
    if name != "WeightNorm":  # which asks the other one when it updates
        with pytest.raises(errors.OptionError):
            definition.to_optax()
    optimizer.apply_gradient(GRADS[0], learning_rate=0.1)


def test_a_traced_learning_rate_is_no_new_program():
    optimizer = optim.Adam().create(PARAMS)
    traces = []

    @jax.jit
    def step(optimizer, rate):
        traces.append(rate)
        return optimizer.apply_gradient(GRADS[0], learning_rate=rate)

    for rate in (0.1, 0.05, 0.025):
        optimizer = step(optimizer, rate)
    assert len(traces) == 1 and optimizer.state.step == 3


def test_the_learning_rate_may_be_a_schedule():
    schedule = lambda step: 0.5 ** (step + 1.0)  # noqa: E731
    for definition in (optim.GradientDescent(schedule), optim.GradientDescent()):
        optimizer = definition.create(jnp.zeros(1))
        for step in range(3):
            optimizer = optimizer.apply_gradient(
                jnp.ones(1), learning_rate=schedule if step % 2 else schedule(step)
            )
        np.testing.assert_allclose(optimizer.target, -0.875)


def test_leaves_may_be_numbers_and_numpy_arrays():
    """And the step a number, in a state that a program made itself."""
    target = {"a": 1.0, "b": np.ones(2)}
    for name in REFERENCE["defaults"]:
        if name == "WeightNorm":
            continue
        definition = getattr(optim, name)(0.1)
        optimizer = definition.create(target)
        optimizer = optimizer.replace(
            state=optim.OptimizerState(0, optimizer.state.param_states)
        )
        updated = optimizer.apply_gradient({"a": 1.0, "b": np.ones(2)})
        expected = definition.create(jax.tree.map(jnp.float32, target))
        expected = expected.apply_gradient(jax.tree.map(jnp.float32, target))
        assert_close(updated.target, expected.target)
        assert updated.state.step == 1


def test_adam_works_where_beta_rounds_to_one_in_bfloat16():
    """The original computed `beta ** t` in the dtype of the leaf: 0 or NaN."""
    leaf = jnp.ones(2, jnp.bfloat16)
    for definition in (optim.Adam(0.5), optim.AdaBelief(0.5, eps=1e-8)):
        target = definition.create(leaf).apply_gradient(leaf).target
        assert jnp.all(target < 0.6)
    lamb = optim.LAMB(0.5).create(leaf).apply_gradient(leaf).target
    assert jnp.all(jnp.isfinite(lamb)) and jnp.all(lamb < 0.6)


def test_lamb_moves_leaves_that_are_zero_and_leaves_without_gradient_stay():
    optimizer = optim.LAMB(0.1).create({"zero": jnp.zeros(2), "one": jnp.ones(2)})
    grads = {"zero": jnp.ones(2), "one": jnp.zeros(2)}
    target = optimizer.apply_gradient(grads).target
    np.testing.assert_allclose(target["zero"], -0.1, rtol=1e-5)
    np.testing.assert_array_equal(target["one"], 1.0)


# ------------------------------------------------------------------ user's own


def test_a_subclass_may_have_a_rule_of_its_own_for_a_leaf():
    class Clipped(optim.Adam):
        def apply_param_gradient(self, step, hyper_params, param, state, grad):
            param, state = super().apply_param_gradient(
                step, hyper_params, param, state, grad
            )
            return jnp.clip(param, -0.05, 0.05), state

    target = after(Clipped(0.1).create(PARAMS), *GRADS).target
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(target)) <= 0.0501


def test_an_optimizer_of_ones_own_works_inside_the_others():
    both = optim.MultiOptimizer(
        (optim.ModelParamTraversal(lambda path, _: path == "/w"), SignDescent(0.1))
    )
    target = after(both.create(PARAMS), GRADS[0]).target
    expected = after(SignDescent(0.1).create(PARAMS), GRADS[0]).target
    np.testing.assert_array_equal(target["w"], expected["w"])
    np.testing.assert_array_equal(target["b"], PARAMS["b"])
    normalized = optim.WeightNorm(SignDescent(0.1)).create(PARAMS)
    np.testing.assert_array_equal(
        after(normalized, GRADS[0]).target["b"], expected["b"]
    )


# ------------------------------------------------------------------ losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gradients_with_and_without_something_beside_the_loss():
    optimizer = optim.GradientDescent(0.1).create(jnp.ones(()))
    assert optimizer.compute_gradient(lambda x: 2.0 * x) == (2.0, 2.0)
    assert optimizer.compute_gradients(lambda x: (3.0 * x, 4.0)) == (3.0, 4.0, 3.0)
    assert optimizer.compute_gradient(lambda x: (x, None)) == (1.0, None, 1.0)
    updated, loss = optimizer.optimize(lambda x: 2.0 * x, learning_rate=0.5)
    assert updated.target == 0 and loss == 2
    updated, loss, aux = optimizer.optimize(lambda x: (2.0 * x, "aux"))
    np.testing.assert_allclose(updated.target, 0.8)
    assert (loss, aux) == (2, "aux")
    for loss_fn in (lambda x: 1.0, lambda x: (x, x, x)):
        with pytest.raises(errors.ArgumentTypeError):
            optimizer.compute_gradient(loss_fn)


def test_gradients_through_the_optimizer_are_deprecated():
    optimizer = optim.GradientDescent(0.1).create(jnp.ones(()))
    with pytest.warns(DeprecationWarning, match="value_and_grad"):
        optimizer.compute_gradient(lambda x: x)
    with pytest.warns(DeprecationWarning, match="apply_gradient"):
        optimizer.optimize(lambda x: x)


# ------------------------------------------------------------------ storing


def test_layout_of_the_state_dict():
    optimizer = optim.Momentum(0.1).create(
        freeze({"a": jnp.zeros(2), "b": {"k": jnp.zeros((2, 2))}})
    )
    state = optimizer.state_dict()
    assert list(state) == ["target", "state"]
    assert jax.tree.map(np.shape, state) == {
        "target": {"a": (2,), "b": {"k": (2, 2)}},
        "state": {
            "step": (),
            "param_states": {
                "a": {"momentum": (2,)},
                "b": {"k": {"momentum": (2, 2)}},
            },
        },
    }
    more = jax.tree.map(lambda x: x + 1, state)
    restored = optimizer.restore_state(more)
    assert_close(contents(restored), more, atol=0, rtol=0)
    assert_close(
        contents(serialization.from_state_dict(optimizer, more)), more, atol=0, rtol=0
    )
    assert restored.optimizer_def is optimizer.optimizer_def


def test_bytes_of_one_element_come_back_equal():
    optimizer = optim.Momentum(0.1).create({"a": jnp.ones(1)})
    stored = serialization.to_bytes(optimizer)
    assert serialization.from_bytes(optimizer, stored) == optimizer


@pytest.mark.parametrize("name", CASES)
def test_an_old_checkpoint_goes_on_where_it_stopped(name):
    """Bytes of what the original held after two updates, written by Flax."""
    definition = MAKERS[name](CASES[name])
    params, grads = problem(name)
    second, third = CASES[name]["steps"][1:]
    checkpoint = flax.serialization.msgpack_serialize(
        {
            "target": jax.device_get(arrays(second["params"])),
            "state": {
                "step": np.array(2, np.int32),
                "param_states": jax.device_get(arrays(second["param_states"])),
            },
        }
    )
    restored = serialization.from_bytes(definition.create(params), checkpoint)
    overrides = overrides_of(name, definition)[2]
    state = contents(restored.apply_gradient(grads[2], **overrides))
    target, expected = dict(state["target"]), arrays(third["params"])
    if name.startswith("lamb"):  # where a leaf that is 0 moves, see test_reference
        del target["z"], expected["z"]
    assert_close(target, expected)
    assert_close(state["state"]["param_states"], arrays(third["param_states"]))

    if name != "multi_hyper_params":  # other values for each optimizer
        train_state = optim.restore_train_state(
            checkpoint, definition, apply_fn=None, hyper_params=overrides
        )
        train_state = train_state.apply_gradients(grads=grads[2])
        found = dict(train_state.params)
        assert train_state.step == 3
        assert_close({key: found[key] for key in expected}, expected)


def test_state_dicts_that_do_not_fit_are_refused():
    optimizer = optim.Adam(0.1).create({"a": jnp.ones(1), "b": jnp.ones(1)})
    state = optimizer.state_dict()
    with pytest.raises(KeyError, match="has no 'target'"):
        optimizer.restore_state({"state": state["state"]})
    with pytest.raises(KeyError, match="contains keys {'b'}"):
        optimizer.restore_state({**state, "target": {"a": 1}})
    for step_state in (
        {"step": 0},
        {**state["state"], "speed": 1},
        {"step": 0, "param_states": {"a": {"grad_ema": 0}, "b": {"grad_ema": 0}}},
    ):
        with pytest.raises(ValueError, match="field"):
            optimizer.restore_state({**state, "state": step_state})
    surplus = {**state, "target": {**state["target"], "c": 1}}
    assert set(optimizer.restore_state(surplus).target) == {"a", "b"}


@pytest.mark.parametrize(
    "old",
    """definition.OptimizerDef optimizer.Optimizer multi.MultiOptimizer
    replicated.ReplicatedOptimizer state.OptimizerState""".split(),
)
def test_pickles_that_name_files_of_before_can_be_read(old):
    """A global of protocol 0: `c`, the module, the name."""
    module, name = old.split(".")
    found = pickle.loads(f"clinsey.optim.{module}\n{name}\n.".encode())
    assert found is getattr(optim.base, name)


# ------------------------------------------------------------------ devices


@pytest.mark.parametrize("make", [lambda: optim.Adam(0.1), multi])
def test_replicas_are_updated_with_the_average_gradient(make):
    optimizer = make().create(PARAMS)
    devices = jax.local_devices()
    replicas = optimizer.replicate(devices)
    count = len(devices)
    assert jax.tree.leaves(replicas.target)[0].shape == (count, 3)
    grads = jax.tree.map(lambda x: jnp.stack([x] * count), GRADS[0])
    step = lambda o, g: o.apply_gradient(g, learning_rate=0.2)  # noqa: E731
    updated = jax.pmap(step, axis_name="batch")(replicas, grads)
    single = updated.unreplicate()
    assert single.optimizer_def is optimizer.optimizer_def
    expected = after(optimizer, GRADS[0], learning_rate=0.2)
    assert_close(contents(single), contents(expected))
    assert_close(contents(updated), contents(expected))  # of the first device
    restored = serialization.from_state_dict(replicas, contents(expected))
    assert jax.tree.map(jnp.shape, restored) == jax.tree.map(jnp.shape, replicas)
    assert_close(contents(restored), contents(expected))


def test_gradients_are_averaged_over_the_axis():
    optimizer = optim.GradientDescent(1.0).create(jnp.zeros(()))
    replicated = optim.base.ReplicatedOptimizer(optimizer.optimizer_def)
    optimizer = optimizer.replace(optimizer_def=replicated)
    grads = jnp.array([1.0, 2.0, 6.0])
    step = jax.vmap(optimizer.apply_gradient, axis_name="batch")
    np.testing.assert_allclose(step(grads).target, -3.0)
    with pytest.raises(NameError):
        optimizer.apply_gradient(jnp.ones(()))
    tx = replicated.to_optax()
    updates = jax.vmap(lambda g: tx.update(g, tx.init(g), g)[0], axis_name="batch")(
        grads
    )
    np.testing.assert_allclose(updates, -3.0)
    with pytest.raises(errors.OptionError):
        optim.Adam(0.1).create(PARAMS).unreplicate()


PROGRAM = """
import jax, jax.numpy as jnp
from linsey import optim, serialization

assert len(jax.local_devices()) == 2
optimizer = optim.Momentum(1.0).create({"w": jnp.zeros(3)})
replicas = optimizer.replicate()
grads = {"w": jnp.array([[1.0] * 3, [3.0] * 3])}
step = jax.pmap(lambda o, g: o.apply_gradient(g), axis_name="batch")
for _ in range(2):
    replicas = step(replicas, grads)
assert [shard.device.id for shard in replicas.target["w"].addressable_shards] == [0, 1]
single = replicas.unreplicate()
assert single.target["w"].tolist() == [-5.8] * 3, single
stored = serialization.to_bytes(replicas)
restored = serialization.from_bytes(optimizer.replicate(), stored)
assert restored.target["w"].tolist() == [[-5.8] * 3] * 2
again = step(restored, grads).unreplicate()
assert again.state.step == 3 and single.state.step == 2
"""


def test_two_devices_hold_equal_replicas():
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("-5.8", "float(jnp.float32(-5.8))")],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )
