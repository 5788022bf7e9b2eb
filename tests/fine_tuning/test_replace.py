"""Layers replaced by path: what runs, whose variables, and under which transforms."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors import (
    ArgumentTypeError,
    LinseyError,
    MismatchError,
    OptionError,
    ShapeError,
    UsageError,
)
from linsey.fine_tuning import insert, remove, replace
from tests.fine_tuning.models import (
    KEY,
    Block,
    Lifted,
    Network,
    Scale,
    Scanned,
    Stack,
    made,
    x_of,
)


@pytest.fixture(scope="module")
def network():
    model, x = Network(), x_of(6, 3)
    return model, made(model, x, train=False), x


def test_only_what_is_below_the_path_is_new(network):
    model, variables, x = network
    new, changed = replace(
        model, variables, "head", nn.Dense(5), x, rngs=KEY, train=False
    )
    assert changed["params"]["head"]["kernel"].shape == (4, 5)
    assert changed["batch_stats"] is variables["batch_stats"]
    assert changed["params"]["backbone"] is variables["params"]["backbone"]
    assert variables["params"]["head"]["kernel"].shape == (4, 2)
    features = model.apply(variables, x, train=False, method="encode")
    expected = nn.Dense(5).apply(
        {"params": changed["params"]["head"]}, nn.relu(features)
    )
    np.testing.assert_array_equal(new.apply(changed, x, train=False), expected)


def test_the_model_stays_what_it_is(network):
    model, variables, x = network
    new, changed = replace(
        model, variables, "head", nn.Dense(5), x, rngs=KEY, train=False
    )
    assert isinstance(new, Network) and new.features == 4
    wider = new.clone(features=7)
    assert made(wider, x, train=False)["params"]["head"]["kernel"].shape == (7, 5)
    y = new.apply(changed, x, train=False)
    for twin in (pickle.loads(pickle.dumps(new)), copy.deepcopy(new), new.copy()):
        np.testing.assert_array_equal(twin.apply(changed, x, train=False), y)
    structure = jax.tree.structure(made(new, x, train=False))
    assert structure == jax.tree.structure(changed)


def test_a_new_layer_gets_the_values_that_init_of_the_model_gives(network):
    model, variables, x = network
    new, changed = replace(
        model, variables, "head", nn.Dense(5), x, rngs=KEY, train=False
    )
    fresh = new.init(KEY, x, train=False)
    heads = (tree["params"]["head"] for tree in (changed, fresh))
    jax.tree.map(np.testing.assert_array_equal, *heads)


def test_training_jit_and_gradients(network):
    model, variables, x = network
    block = Block(4)
    new, changed = replace(
        model, variables, "backbone", block, x, rngs=KEY, train=False
    )

    @jax.jit
    def step(params):
        whole = {**changed, "params": params}
        y, updates = new.apply(
            whole, x, train=True, mutable=["batch_stats"], rngs={"dropout": KEY}
        )
        return jnp.square(y).sum(), updates

    grads, updates = jax.grad(step, has_aux=True)(changed["params"])
    assert jax.tree.structure(grads) == jax.tree.structure(changed["params"])
    assert all(bool((g != 0).any()) for g in jax.tree.leaves(grads["head"]))
    # What was there is a block of the same kind: with its variables it is the model.
    old = jax.grad(
        lambda params: jnp.square(
            model.apply(
                {**changed, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": KEY},
            )[0]
        ).sum()
    )(changed["params"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, old
    )
    assert set(updates["batch_stats"]) == {"backbone"}


def test_layers_of_setup_and_their_methods():
    model, x = Stack(), jnp.arange(4)
    variables = made(model, x)
    new, changed = replace(model, variables, "embed", nn.Embed(9, 3), x, rngs=KEY)
    assert changed["params"]["embed"]["embedding"].shape == (9, 3)
    table = changed["params"]["embed"]["embedding"]
    np.testing.assert_allclose(
        new.apply(changed, x, method="score"), table[:4] @ table.T, rtol=1e-5
    )


def test_changes_compose_in_their_order():
    x = x_of(6, 3)
    flags = {"rngs": KEY, "train": False}
    model = Network(3)
    variables = made(model, x, train=False)
    layers = (Block(3), Scale(5.0), nn.Dense(5), Scale(3.0))
    paths = ("backbone", "backbone/Dense_0", "head", "head")
    for path, layer in zip(paths, layers, strict=True):
        model, variables = replace(model, variables, path, layer, x, **flags)
    assert list(variables["params"]["head"]) == ["scale"]
    assert list(variables["params"]["backbone"]["Dense_0"]) == ["scale"]
    statistics = variables["batch_stats"]["backbone"]["BatchNorm_0"]
    normal = 5 * x / jnp.sqrt(statistics["var"] + 1e-5)
    np.testing.assert_allclose(
        model.apply(variables, x, train=False), 3 * nn.relu(normal), rtol=1e-5
    )


def test_a_block_takes_changes_below_it_along(network):
    model, variables, x = network
    flags = {"rngs": KEY, "train": False}
    inner = replace(model, variables, "backbone/Dense_0", nn.Dense(4), x, **flags)
    outer, changed = replace(*inner, "backbone", Block(4), x, **flags)
    plain, same = replace(model, variables, "backbone", Block(4), x, **flags)
    np.testing.assert_array_equal(
        outer.apply(changed, x, train=False), plain.apply(same, x, train=False)
    )


def test_inside_of_scan_each_step_has_its_layer():
    model, x = Scanned(), x_of(2, 3)
    variables = made(model, x)
    new, changed = replace(model, variables, "steps/inner", Scale(), x, rngs=KEY)
    assert changed["params"]["steps"]["inner"]["scale"].shape == (3,)
    expected = x
    for _ in range(3):
        expected = nn.tanh(2 * expected)
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-6)
    # The step as a whole is called in the loop as well.
    new, changed = replace(model, variables, "steps", Scale(), x, rngs=KEY)
    np.testing.assert_allclose(new.apply(changed, x), 8 * x, rtol=1e-6)


@pytest.mark.parametrize("transform", ["remat", "jit"])
def test_one_of_two_equal_blocks_below_a_transform(transform):
    model, x = Lifted(transform), x_of(2, 3)
    variables = made(model, x)
    before = model.apply(variables, x)  # programs of `nn.jit` are kept
    new, changed = replace(model, variables, "second/inner", Scale(), x, rngs=KEY)
    params = changed["params"]
    dense = {"params": params["first"]["inner"]}
    hidden = nn.tanh(2 * nn.tanh(nn.Dense(3).apply(dense, x)))
    expected = nn.Dense(2).apply({"params": params["head"]}, hidden)
    for _ in range(2):
        np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5)
    np.testing.assert_array_equal(model.apply(variables, x), before)
    grads = jax.grad(lambda v: new.apply(v, x).sum())(changed)
    assert grads["params"]["second"]["inner"]["scale"] != 0


def test_a_changed_model_inside_of_another(network):
    model, variables, x = network
    new, changed = replace(
        model, variables, "head", nn.Dense(5), x, rngs=KEY, train=False
    )

    class Outer(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            head = nn.Dense(2, name="head")(x)  # of the same name, one level up
            return self.inner(x, train=False), head

    outer = Outer(new)
    whole = made(outer, x)
    whole = {
        "params": {**whole["params"], "inner": changed["params"]},
        "batch_stats": {"inner": changed["batch_stats"]},
    }
    y, head = outer.apply(whole, x)
    np.testing.assert_array_equal(y, new.apply(changed, x, train=False))
    assert head.shape == (6, 2)


def test_tables_and_intermediates_show_the_new_layer(network):
    model, variables, x = network
    new, changed = replace(model, variables, "head", Scale(), x, rngs=KEY, train=False)
    table = new.tabulate(
        KEY, x, train=False, console_kwargs={"color_system": None, "width": 200}
    )
    (row,) = [line for line in table.splitlines() if " head " in line]
    assert "Scale" in row and "float32[6,4]" in row
    _, found = new.apply(changed, x, train=False, capture_intermediates=True)
    assert len(found["intermediates"]["__call__"]) == 1
    assert found["intermediates"]["head"]["__call__"][0].shape == (6, 4)


def test_abstract_inputs_serve():
    model, x = Stack(), jax.ShapeDtypeStruct((4,), jnp.int32)
    variables = made(model, jnp.zeros(4, jnp.int32))
    _, changed = replace(model, variables, "head", nn.Dense(7), x, rngs=KEY)
    assert changed["params"]["head"]["kernel"].shape == (3, 7)
    assert float(jnp.abs(changed["params"]["head"]["kernel"]).sum()) > 0


# -- lists of layers -----------------------------------------------------------------


def names_of(variables):
    return sorted(variables["params"])


def test_insertion_into_a_list_of_setup_renumbers():
    model, x = Stack(), jnp.arange(4)
    variables = made(model, x)
    new, changed = insert(model, variables, "blocks_1", Scale(), x, rngs=KEY)
    params, old = changed["params"], variables["params"]
    assert names_of(changed) == [*(f"blocks_{i}" for i in range(4)), "embed", "head"]
    assert params["blocks_2"] is old["blocks_1"]
    assert params["blocks_3"] is old["blocks_2"]
    h = old["embed"]["embedding"][:4]
    for i in range(4):
        layer = params[f"blocks_{i}"]
        h = 2 * h if i == 1 else h @ layer["kernel"] + layer["bias"]
        h = jnp.tanh(h)
    expected = h @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5, atol=1e-6)
    back, again = remove(new, changed, "blocks_1", x)
    np.testing.assert_array_equal(back.apply(again, x), model.apply(variables, x))
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_a_layer_is_put_behind_the_last_one():
    model, x = Stack(), jnp.arange(4)
    variables = made(model, x)
    new, changed = insert(model, variables, "blocks_3", Scale(), x, rngs=KEY)
    assert list(changed["params"]["blocks_3"]) == ["scale"]
    assert new.apply(changed, x).shape == (4, 2)


def test_earlier_changes_follow_their_layers():
    model, x = Stack(), jnp.arange(4)
    variables = made(model, x)
    model, variables = replace(model, variables, "blocks_2", Scale(4.0), x, rngs=KEY)
    before = model.apply(variables, x)
    model, variables = insert(model, variables, "blocks_0", Scale(1.0), x, rngs=KEY)
    assert float(variables["params"]["blocks_3"]["scale"]) == 4.0
    model, variables = remove(model, variables, "blocks_0", x)
    np.testing.assert_array_equal(model.apply(variables, x), before)


def test_lists_in_a_nested_sequential_with_statistics():
    class Outer(nn.Module):
        def setup(self):
            self.stem = nn.Sequential([nn.Dense(3), nn.relu, nn.BatchNorm(True)])

        def __call__(self, x):
            return self.stem(x)

    model, x = Outer(), x_of(4, 2)
    variables = made(model, x)
    new, changed = insert(model, variables, "stem/layers_1", Scale(), x, rngs=KEY)
    stem = changed["params"]["stem"]
    assert sorted(stem) == ["layers_0", "layers_1", "layers_3"]
    assert list(changed["batch_stats"]["stem"]) == ["layers_3"]
    # Functions count: what is removed here is the relu.
    new, changed = remove(new, changed, "stem/layers_2", x)
    assert sorted(changed["params"]["stem"]) == ["layers_0", "layers_1", "layers_2"]
    dense = stem["layers_0"]
    expected = 2 * (x @ dense["kernel"] + dense["bias"]) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5)


def test_a_sequential_itself_becomes_another_sequential():
    model, x = nn.Sequential([nn.Dense(3), nn.Dense(2)]), x_of(4, 2)
    new, changed = insert(
        model, made(model, x), "layers_1", nn.LayerNorm(), x, rngs=KEY
    )
    assert type(new) is nn.Sequential and len(new.layers) == 3
    assert new.apply(changed, x).shape == (4, 2)


def test_any_other_layer_is_removed_by_name(network):
    model, variables, x = network
    new, changed = remove(model, variables, "backbone/BatchNorm_0", x, train=False)
    assert list(changed) == ["params"]
    assert list(changed["params"]["backbone"]) == ["Dense_0"]
    dense, head = changed["params"]["backbone"]["Dense_0"], changed["params"]["head"]
    hidden = nn.relu(x @ dense["kernel"] + dense["bias"])
    expected = hidden @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(
        new.apply(changed, x, train=False), expected, rtol=1e-5, atol=1e-6
    )


# -- what is refused -----------------------------------------------------------------


def test_a_path_that_does_not_exist_is_answered_by_the_nearest(network):
    model, variables, x = network
    with pytest.raises(OptionError) as caught:
        replace(
            model, variables, "backbone/Dense_1", nn.Dense(4), x, rngs=KEY, train=False
        )
    assert str(caught.value) == (
        'Nothing is at "backbone/Dense_1".\n'
        "A path has the names from the model to a layer that it calls, as they are in "
        "its variables, joined by `/`.\n"
        'The nearest: "backbone/Dense_0", "backbone", "backbone/Dropout_0".'
    )


def test_a_layer_that_what_follows_does_not_fit_is_refused(network):
    model, variables, x = network
    with pytest.raises(ShapeError) as caught:
        replace(model, variables, "backbone", Block(9), x, rngs=KEY, train=False)
    assert str(caught.value) == (
        "After the change the model needs `params/head/kernel` of shape (9, 2); the "
        "variables hold one of shape (4, 2).\n"
        "What comes to this layer has another shape than before.\n"
        "Change the layers before it so that they return as many features as they did, "
        "or replace the block that holds them and this one."
    )


def test_variables_that_lack_something_are_refused(network):
    model, variables, x = network
    with pytest.raises(MismatchError, match="`batch_stats/backbone/BatchNorm_0/mean`"):
        replace(
            model,
            {"params": variables["params"]},
            "head",
            nn.Dense(3),
            x,
            rngs=KEY,
            train=False,
        )


MISTAKES = {
    "class": (ArgumentTypeError, lambda m, v: (Network, v, "head", m)),
    "layer": (ArgumentTypeError, lambda m, v: (m, v, "head", nn.relu)),
    "bound": (UsageError, lambda m, v: (m.bind(v), v, "head", m)),
    "empty": (OptionError, lambda m, v: (m, v, "", m)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_three_parts(name, network):
    kind, arguments = MISTAKES[name]
    model, variables, x = network
    with pytest.raises(kind) as caught:
        replace(*arguments(model, variables), x, rngs=KEY)
    assert isinstance(caught.value, LinseyError)
    assert caught.value.found and caught.value.why and caught.value.fix


def test_a_method_that_the_new_layer_lacks_is_named():
    model, x = Stack(), jnp.arange(4)
    new, changed = replace(model, made(model, x), "embed", Lookup(), x, rngs=KEY)
    with pytest.raises(UsageError, match="`Lookup` has no method `attend`"):
        new.apply(changed, x, method="score")


class Lookup(nn.Module):
    def __call__(self, x):
        return jnp.zeros((*x.shape, 3))


def test_a_compact_method_has_no_list_to_insert_into(network):
    model, variables, x = network
    with pytest.raises(LinseyError, match="is in no list that a layer could be put"):
        insert(model, variables, "backbone", Scale(), x, rngs=KEY, train=False)
