"""Modules of Linen as objects, and both faces into one another."""

from __future__ import annotations

import dataclasses

import flax.linen as flax_nn
import flax.serialization as flax_serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey import serialization
from linsey.errors import ArgumentTypeError
from linsey.errors.treex import MissingVariableError

X = jax.random.normal(jax.random.key(3), (4, 6, 2))


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def network(nn):
    class Network(nn.Module):
        """Everything that has state, with an argument `training`."""

        @nn.compact
        def __call__(self, x, training):
            x = nn.Conv(3, (2,))(x)
            x = nn.BatchNorm(use_running_average=not training)(x)
            x = nn.Dropout(0.5, deterministic=not training)(x)
            self.sow("intermediates", "h", x)
            return nn.Dense(2)(x)

        def double(self, x, training):
            return 2 * self(x, training)

    return Network()


NETWORK = network(nn)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("library", [nn, flax_nn], ids=["linsey", "flax"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_training_equals_linen_by_hand(library, pretrained):
    module = network(library)
    key = jax.random.split(jax.random.PRNGKey(42))[0]
    if pretrained:
        variables = module.init(jax.random.key(5), X, False)
        model = tx.FlaxModule(module, variables=variables).init(42)
        key = model.next_key.key
    else:
        model = tx.FlaxModule(module).init(42, X)
        for_init, key = jax.random.split(key)
        dropout, params = jax.random.split(for_init)
        rngs = {"dropout": dropout, "params": params}
        variables = module.init(rngs, X, False)
    equal(jax.tree.leaves(model.parameters()), jax.tree.leaves(variables["params"]))
    np.testing.assert_array_equal(model.next_key.key, key)
    for _ in range(2):
        dropout, key = jax.random.split(key)
        expected, updates = module.apply(
            variables, X, True, rngs={"dropout": dropout}, mutable=["batch_stats"]
        )
        variables = {**variables, **updates}
        np.testing.assert_array_equal(model(X), expected)
        stats = jax.tree.leaves(variables["batch_stats"])
        equal(jax.tree.leaves(model.batch_stats()), stats)
    expected = module.apply(variables, X, False)
    for _ in range(2):
        np.testing.assert_array_equal(model.eval()(X), expected)


def test_a_frozen_module_leaves_its_state_alone():
    model = tx.FlaxModule(NETWORK).init(42, X).freeze()
    before = model.filter(tx.ModelState)
    np.testing.assert_array_equal(model(X), model.eval()(X))
    equal(model.filter(tx.ModelState), before)


def test_the_training_argument_can_be_given():
    model = tx.FlaxModule(NETWORK).init(42, X).eval()
    assert jnp.any(model.train()(X, True) != model(X))
    np.testing.assert_array_equal(model(X, training=False), model(X))
    np.testing.assert_array_equal(model.train()(X, False), model(X))


def test_other_methods_and_collections():
    mutable = ["batch_stats", "intermediates"]
    model = tx.FlaxModule(NETWORK, method="double", mutable=mutable).init(42, X)
    model(X)
    assert model.variables_["intermediates"]["h"][0].shape == (4, 6, 3)
    plain = tx.FlaxModule(NETWORK, variables=model.linen_variables()).init(0).eval()
    np.testing.assert_allclose(model.eval()(X), 2 * plain(X), rtol=1e-6)
    assert len(jax.tree.leaves(model.rngs())) == 1
    keyless = tx.FlaxModule(nn.Dense(2), rngs=()).init(0, X)
    before = keyless.next_key.key
    keyless(X)
    np.testing.assert_array_equal(keyless.next_key.key, before)


def test_misuse_of_wrappers():
    with pytest.raises(RuntimeError):
        tx.FlaxModule(NETWORK)(X)
    with pytest.raises(MissingVariableError):
        tx.FlaxModule(NETWORK).init(0)(X)


def test_wrapped_modules_compile_once():
    traces = []

    @jax.jit
    def f(model):
        traces.append(1)
        return model(X), model

    model = tx.FlaxModule(NETWORK).init(42, X)
    for _ in range(3):
        _, model = f(model)
    assert len(traces) == 1


# ------------------------------------------------------------------ both faces


MODULES = {
    "dense": nn.Dense(3),
    "sequential": nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)]),
    "empty": nn.Sequential([nn.relu]),
    "boxed": nn.Dense(3, kernel_init=nn.with_partitioning(
        nn.initializers.ones, ("x", None))),
    "no scale": nn.LayerNorm(use_bias=False, use_scale=False),
}  # fmt: skip


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", MODULES)
def test_from_linen_and_back_without_loss(name):
    module = MODULES[name]
    variables = module.init(jax.random.key(0), X)
    model = tx.from_linen(module, variables)
    np.testing.assert_array_equal(model(X), module.apply(variables, X))
    again, found = model.to_linen()
    assert again is module
    equal(found, variables)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        assert a is b  # shared, not copied


def test_all_collections_come_back():
    variables = NETWORK.init(jax.random.key(0), X, False)
    variables = {**variables, "intermediates": {"h": (X,)}, "cache": {"x": X}}
    model = tx.from_linen(NETWORK, variables, key=7)
    equal(tx.to_linen(model)[1], variables)
    model(X)
    _, after = model.to_linen()
    assert jnp.any(after["batch_stats"]["BatchNorm_0"]["mean"] != 0)
    expected = NETWORK.apply(after, X, False)
    np.testing.assert_array_equal(model.eval()(X), expected)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "layer",
    [
        tx.Linear(3, use_bias=False),
        tx.Conv(3, (2,), strides=2),
        tx.ConvTranspose(3, (2,)),
        tx.LayerNorm(),
        tx.GroupNorm(num_groups=2),
        tx.Sequential(tx.Linear(4), jax.nn.relu, tx.Sequential(tx.Linear(2))),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_have_a_linen_twin(layer):
    layer = layer.init(0, X)
    module, variables = tx.to_linen(layer)
    expected = module.init(jax.random.key(0), X)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    np.testing.assert_array_equal(module.apply(variables, X), layer(X))


def test_batch_norm_has_a_linen_twin():
    layer = tx.BatchNorm(momentum=0.5).init(0, X)
    module, variables = layer.to_linen()
    expected, updates = module.apply(
        variables, X, use_running_average=False, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(layer(X), expected)
    equal(layer.to_linen()[1]["batch_stats"], updates["batch_stats"])


def test_programs_have_no_linen_twin():
    with pytest.raises(ArgumentTypeError):
        tx.to_linen(tx.MLP([2]))
    with pytest.raises(ArgumentTypeError):
        tx.Sequential(tx.Flatten()).to_linen()


def test_a_checkpoint_of_linen_loads_into_an_object_and_back():
    variables = network(flax_nn).init(jax.random.key(0), X, False)
    target = NETWORK.init(jax.random.key(1), X, False)
    stored = flax_serialization.to_bytes(variables)
    model = tx.from_linen(NETWORK, serialization.from_bytes(target, stored))
    back = serialization.to_bytes(model.to_linen()[1])
    equal(flax_serialization.from_bytes(target, back), variables)


# ------------------------------------------------------------------ layers


def test_subclasses_of_layers_pass_their_arguments_to_the_twin():
    class Small(tx.Linear):
        def __init__(self):
            super().__init__(3, use_bias=False)

    @dataclasses.dataclass(eq=False)
    class Scaled(tx.Linear):
        factor: float = 2.0

        def __call__(self, x):
            return self.factor * super().__call__(x)

    small = Small().init(0, X)
    assert small.kernel.shape == (2, 3) and small.bias is None
    scaled = Scaled(3, 4.0, use_bias=False).init(0, X)
    np.testing.assert_array_equal(scaled(X), 4.0 * small(X))


def test_layers_of_equal_arguments_are_different_objects_of_one_structure():
    one, two = tx.Linear(3), tx.Linear(3)
    assert one != two and len({one, two}) == 2
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_arguments_of_layers_are_changed_in_one_instance_only():
    layer = jax.tree.map(lambda leaf: leaf, tx.Linear(3, use_bias=False))
    assert not layer.use_bias and tx.Linear(3).use_bias
    assert not hasattr(tx.Linear, "use_bias")
    layer.use_bias = True
    assert jax.tree.map(lambda leaf: leaf, layer).use_bias
