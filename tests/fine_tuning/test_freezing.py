"""What is frozen has no gradient, keeps its statistics, and evaluates as before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey.errors import OptionError
from linsey.fine_tuning import freeze, insert, trainable
from tests.fine_tuning.models import EVAL, Dense, Network, made, x_of

equal = np.testing.assert_array_equal


class Norms(nn.Module):
    """A backbone of layers with statistics of several kinds, and a head."""

    @nn.compact
    def __call__(self, x, train):
        x = Backbone(name="backbone")(x, train)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, name="head")(x)


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.SpectralNorm(nn.Dense(4))(x, update_stats=train)
        x = nn.remat(nn.BatchNorm)(not train, momentum=0.5)(x)
        seen = self.variable("batch_stats", "seen", jnp.zeros, (), jnp.float32)
        if train:
            seen.value += 1
        return nn.relu(x)


@pytest.fixture(scope="module")
def norms():
    x = x_of(8, 3) + 2
    variables = made(Norms(), x, train=False)
    return Norms(), variables, x


def loss(model, variables, x):
    def of(params):
        y, updates = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.square(y - 1).mean(), updates

    return of


def test_gradients_are_zero_and_statistics_stay(norms):
    model, variables, x = norms
    frozen = freeze(model, "backbone")
    grads, updates = jax.jit(jax.grad(loss(frozen, variables, x), has_aux=True))(
        variables["params"]
    )
    assert not any((g != 0).any() for g in jax.tree.leaves(grads["backbone"]))
    assert all((g != 0).any() for g in jax.tree.leaves(grads["head"]))
    before, after = variables["batch_stats"], updates["batch_stats"]
    jax.tree.map(equal, after["backbone"], before["backbone"])
    assert (after["norm"]["mean"] != before["norm"]["mean"]).all()


def test_a_frozen_layer_normalizes_in_training_as_in_evaluation(norms):
    model, variables, x = norms
    frozen, stats = freeze(model, "*"), ["batch_stats"]

    @jax.jit
    def results(variables):
        trained, _ = frozen.apply(variables, x, train=True, mutable=stats)
        plain, _ = model.apply(variables, x, train=True, mutable=stats)
        return trained, plain, model.apply(variables, x, train=False)

    trained, plain, evaluated = results(variables)
    np.testing.assert_allclose(trained, evaluated, rtol=1e-6)
    assert np.abs(trained - plain).max() > 0.1


def test_gradients_before_what_is_frozen_are_those_in_evaluation(norms):
    model, variables, x = norms
    frozen = freeze(model, nn.DenyList("backbone"))

    def of(model, **flags):
        return lambda v: jnp.sum(model.apply(v, x, **flags))

    grads = jax.jit(jax.grad(of(frozen, train=False)))(variables)["params"]
    plain = jax.jit(jax.grad(of(model, train=False)))(variables)["params"]
    jax.tree.map(equal, grads["backbone"], plain["backbone"])
    assert not any((g != 0).any() for g in jax.tree.leaves(grads["head"]))


def test_after_steps_the_backbone_evaluates_bit_by_bit_as_before(norms):
    model, variables, x = norms
    frozen = freeze(model, "backbone")
    mask = trainable(variables["params"], "backbone")
    adam = optax.adamw(0.1, weight_decay=0.1)
    sgd = optax.multi_transform({True: adam, False: optax.set_to_zero()}, mask)

    @jax.jit
    def step(variables, opt):
        of = loss(frozen, variables, x)
        grads, updates = jax.grad(of, has_aux=True)(variables["params"])
        moves, opt = sgd.update(grads, opt, variables["params"])
        params = optax.apply_updates(variables["params"], moves)
        return {**variables, **updates, "params": params}, opt

    trained, opt = variables, sgd.init(variables["params"])
    assert len(jax.tree.leaves(opt)) == 2 * 4 + 1  # no moments of the backbone
    for _ in range(3):
        trained, opt = step(trained, opt)
    for collection in ("params", "batch_stats"):
        jax.tree.map(
            equal, trained[collection]["backbone"], variables[collection]["backbone"]
        )

    def features(variables):
        below = {col: tree["backbone"] for col, tree in variables.items()}
        return Backbone().apply(below, x, train=False)

    equal(features(trained), features(variables))
    assert (
        trained["params"]["head"]["kernel"] != variables["params"]["head"]["kernel"]
    ).all()


@pytest.mark.slow
def test_patterns_parameters_and_what_is_inserted(norms):
    model, variables, x = norms
    layers = {"backbone/adapter": Dense(4)}
    model, variables = insert(model, variables, layers, x, **EVAL)
    model = freeze(model, ["*/Dense_0", "head/kernel", "norm"])
    gradient = jax.jit(jax.grad(loss(model, variables, x), has_aux=True))
    grads, updates = gradient(variables["params"])
    moved = jax.tree.map(lambda g: bool((g != 0).any()), grads)
    assert moved["head"] == {"kernel": False, "bias": True}
    assert moved["norm"] == {"scale": False, "bias": False}
    assert moved["backbone"]["adapter"]["kernel"]
    equal(
        updates["batch_stats"]["norm"]["var"], variables["batch_stats"]["norm"]["var"]
    )
    seen = [v["batch_stats"]["backbone"]["seen"] for v in (variables, updates)]
    assert seen[1] == seen[0] + 1


def test_a_frozen_object_trains_its_head(norms):
    model, variables, x = norms
    network = tx.from_linen(freeze(model, "backbone"), variables).train()
    network(x, train=True)
    after = network.to_linen()[1]["batch_stats"]
    jax.tree.map(equal, after["backbone"], variables["batch_stats"]["backbone"])
    assert (after["norm"]["mean"] != variables["batch_stats"]["norm"]["mean"]).all()


def test_the_variables_of_a_frozen_model_are_initialised_as_before():
    model, x = Network(), x_of(6, 3)
    jax.tree.map(
        equal,
        made(freeze(model, "backbone"), x, train=True),
        made(model, x, train=True),
    )


def test_an_unknown_path_is_answered_by_the_nearest(norms):
    model, variables, x = norms
    nearest = 'Nothing is at "back_bone".\n.*\nThe nearest: "backbone"'
    with pytest.raises(OptionError, match=nearest):
        freeze(model, ["head", "back_bone"]).apply(variables, x, train=False)
    with pytest.raises(OptionError, match=nearest):
        trainable(variables["params"], nn.DenyList("back_bone"))


def test_masks_serve_trees_of_any_library():
    layers = [{"weight": 1.0}, {"weight": 2.0}]
    assert trainable({"layers": layers}, "layers/0") == {
        "layers": [{"weight": False}, {"weight": True}]
    }
