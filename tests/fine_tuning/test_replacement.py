"""Layers replaced, inserted and removed: what runs, and on whose variables."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.treex as tx
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
    EVAL,
    KEY,
    Block,
    Dense,
    Lifted,
    Network,
    Scale,
    Scanned,
    Stack,
    made,
    x_of,
)

equal = np.testing.assert_array_equal


@pytest.fixture(scope="module")
def network():
    model, x = Network(), x_of(6, 3)
    return model, made(model, x, train=False), x


def test_the_result_is_that_of_the_model_with_another_head(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"head": nn.Dense(5)}, x, **EVAL)

    class ByHand(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.relu(Block(4, name="backbone")(x, train))
            return nn.Dense(5, name="head")(x)

    by_hand = ByHand().init(KEY, x, train=False)
    assert jax.tree.structure(changed) == jax.tree.structure(by_hand)
    equal(new.apply(changed, x, train=False), ByHand().apply(changed, x, train=False))
    jax.tree.map(equal, changed["params"]["head"], by_hand["params"]["head"])


def test_all_other_arrays_are_the_same_objects(network):
    model, variables, x = network
    _, changed = replace(model, variables, {"head": Dense(2)}, x, **EVAL)
    for collection in ("params", "batch_stats"):
        before = jax.tree.leaves(variables[collection]["backbone"])
        after = jax.tree.leaves(changed[collection]["backbone"])
        assert all(a is b for a, b in zip(after, before, strict=True))
    old, new = (v["params"]["head"]["kernel"] for v in (variables, changed))
    assert old.shape == new.shape and (old != new).any()


def test_the_model_stays_what_it_is(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"head": Dense(5)}, x, **EVAL)
    assert isinstance(new, Network) and new.features == 4
    wider = new.clone(features=7)
    assert made(wider, x, train=False)["params"]["head"]["kernel"].shape == (7, 5)
    y = new.apply(changed, x, train=False)
    for twin in (pickle.loads(pickle.dumps(new)), copy.deepcopy(new), new.copy()):
        equal(twin.apply(changed, x, train=False), y)
    assert model.apply(variables, x, train=False).shape == (6, 2)


@pytest.mark.slow
def test_a_replaced_block_trains_as_the_same_block_written_there(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"backbone": Block(4)}, x, **EVAL)

    def step(model, params):
        def loss(params):
            y, updates = model.apply(
                {**changed, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": KEY},
            )
            return jnp.square(y).sum(), updates

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    jax.tree.map(equal, step(new, changed["params"]), step(model, changed["params"]))


@pytest.mark.slow
def test_layers_of_setup_and_their_other_methods():
    model, x = Stack(), jnp.arange(4)
    layers = {"embed": nn.Embed(9, 3, embedding_init=nn.initializers.ones)}
    new, changed = replace(model, made(model, x), layers, x, rngs=KEY)
    table = changed["params"]["embed"]["embedding"]
    assert table.shape == (9, 3)
    score = new.apply(changed, x, method="score")
    np.testing.assert_allclose(score, table[:4] @ table.T, rtol=1e-5)


def test_changes_compose_in_their_order():
    x, model = x_of(6, 3), Network(3)
    variables = made(model, x, train=False)
    for path, layer in (
        ("backbone", Block(3)),
        ("backbone/Dense_0", Scale(5.0)),
        ("head", Dense(5)),
        ("head", Scale(3.0)),
    ):
        model, variables = replace(model, variables, {path: layer}, x, **EVAL)
    assert list(variables["params"]["head"]) == ["scale"]
    assert list(variables["params"]["backbone"]["Dense_0"]) == ["scale"]
    normal = 5 * x / np.sqrt(1 + 1e-5)
    y = model.apply(variables, x, train=False)
    np.testing.assert_allclose(y, 3 * nn.relu(normal), rtol=1e-5)


def test_a_replaced_block_takes_changes_below_it_along(network):
    model, variables, x = network
    layers = {"backbone/Dense_0": Dense(4, use_bias=False)}
    inner = replace(model, variables, layers, x, **EVAL)
    inner = insert(*inner, {"backbone/scale": Scale()}, x, **EVAL)
    outer, changed = replace(*inner, {"backbone": Block(4)}, x, **EVAL)
    plain, same = replace(model, variables, {"backbone": Block(4)}, x, **EVAL)
    jax.tree.map(equal, changed, same)
    equal(outer.apply(changed, x, train=False), plain.apply(same, x, train=False))


def test_inside_of_scan_each_step_has_its_layer():
    model, x = Scanned(), x_of(2, 3)
    variables = made(model, x)
    new, changed = replace(model, variables, {"steps/inner": Scale()}, x, rngs=KEY)
    assert changed["params"]["steps"]["inner"]["scale"].shape == (3,)
    expected = x
    for _ in range(3):
        expected = nn.tanh(2 * expected)
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-6)
    # The step as a whole is called in the loop as well.
    new, changed = replace(model, variables, {"steps": Scale()}, x, rngs=KEY)
    np.testing.assert_allclose(new.apply(changed, x), 8 * x, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["jit", "remat"])
def test_one_of_two_equal_blocks_below_a_transform(transform):
    model, x = Lifted(transform), x_of(2, 3)
    variables = made(model, x)
    before = model.apply(variables, x)  # programs of `nn.jit` are kept
    layers = {"second/inner": Scale()}
    new, changed = replace(model, variables, layers, x, rngs=KEY)
    params = changed["params"]
    inner, head = params["first"]["inner"], params["head"]
    hidden = nn.tanh(2 * nn.tanh(x @ inner["kernel"] + inner["bias"]))
    expected = hidden @ head["kernel"] + head["bias"]
    for _ in range(2):
        np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5)
    equal(model.apply(variables, x), before)
    grads = jax.grad(lambda v: new.apply(v, x).sum())(changed)
    assert grads["params"]["second"]["inner"]["scale"] != 0


def test_a_changed_model_inside_of_another(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"head": Dense(5)}, x, **EVAL)

    class Outer(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            head = Dense(2, name="head")(x)  # of the same name, one level up
            return self.inner(x, train=False), head

    whole = made(Outer(new), x)
    whole = {
        "params": {**whole["params"], "inner": changed["params"]},
        "batch_stats": {"inner": changed["batch_stats"]},
    }
    y, head = Outer(new).apply(whole, x)
    equal(y, new.apply(changed, x, train=False))
    assert head.shape == (6, 2)


def test_a_changed_model_as_an_object(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"head": Dense(5)}, x, **EVAL)
    y = tx.from_linen(new, changed).eval()(x, train=False)
    equal(y, new.apply(changed, x, train=False))


def test_tables_and_intermediates_show_the_new_layer(network):
    model, variables, x = network
    new, changed = replace(model, variables, {"head": Scale()}, x, **EVAL)
    plain = {"color_system": None, "width": 200}
    table = new.tabulate(KEY, x, train=False, console_kwargs=plain)
    (row,) = [line for line in table.splitlines() if " head " in line]
    assert "Scale" in row and "float32[6,4]" in row
    _, found = new.apply(changed, x, train=False, capture_intermediates=True)
    assert len(found["intermediates"]["__call__"]) == 1
    assert found["intermediates"]["head"]["__call__"][0].shape == (6, 4)


def test_abstract_inputs_serve():
    model, x = Stack(), jax.ShapeDtypeStruct((4,), jnp.int32)
    variables = made(model, jnp.zeros(4, jnp.int32))
    _, changed = replace(model, variables, {"head": Dense(7)}, x, rngs=KEY)
    kernel = changed["params"]["head"]["kernel"]
    assert kernel.shape == (3, 7) and jnp.abs(kernel).sum() > 0


# -- insertion and removal -----------------------------------------------------------


def test_insertion_into_a_list_of_setup_renames_nothing():
    model, x = Stack(), jnp.arange(4)
    variables = made(model, x)
    layers = {"blocks_1/scale": Scale(0.5), "embed/scale": Scale(2.0)}
    new, changed = insert(model, variables, layers, x, rngs=KEY)
    params = changed["params"]
    assert list(params) == list(variables["params"])
    h = 2 * params["embed"]["embedding"][:4]
    for i in range(3):
        layer = params[f"blocks_{i}"]
        h = h @ layer["kernel"] + layer["bias"]
        h = np.tanh(h / 2 if i == 1 else h)
    expected = h @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5, atol=1e-6)
    other, more = replace(new, changed, {"blocks_1/scale": Scale(0.1)}, x, rngs=KEY)
    assert more["params"]["blocks_1"]["scale"]["scale"] == np.float32(0.1)
    assert np.abs(other.apply(more, x) - expected).max() > 1e-2
    # What is inserted follows calls of the layer, not other methods.
    table = params["embed"]["embedding"]
    score = new.apply(changed, x, method="score")
    np.testing.assert_allclose(score, 2 * table[:4] @ table.T, rtol=1e-5)
    back, again = remove(new, changed, list(layers), x)
    equal(back.apply(again, x), model.apply(variables, x))
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_insertion_and_removal_in_a_sequential():
    layers = [Dense(3), nn.relu, nn.BatchNorm(True), Dense(2)]
    model, x = nn.Sequential(layers), x_of(4, 2)
    variables = made(model, x)
    new, changed = insert(model, variables, {"layers_0/norm": Scale()}, x, rngs=KEY)
    new, changed = remove(new, changed, "layers_2", x)
    assert list(changed) == ["params"]
    first, last = changed["params"]["layers_0"], changed["params"]["layers_3"]
    hidden = nn.relu(2 * (x @ first["kernel"] + first["bias"]))
    expected = hidden @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(new.apply(changed, x), expected, rtol=1e-5)


def test_what_has_no_slash_follows_the_model(network):
    model, variables, x = network
    new, changed = insert(model, variables, {"last": Dense(7)}, x, **EVAL)
    y = new.apply(changed, x, train=False)
    layer = {"params": changed["params"]["last"]}
    equal(y, Dense(7).apply(layer, model.apply(variables, x, train=False)))


@pytest.mark.slow
def test_insertion_inside_of_scan_and_below_what_calls_its_base_class():
    class Twice(nn.Dense):
        def __call__(self, inputs):
            return super().__call__(inputs)

    model, x = nn.Sequential([Twice(3), Scanned()]), x_of(2, 3)
    layers = {"layers_0/scale": Scale(), "layers_1/steps/inner/scale": Scale()}
    new, changed = insert(model, made(model, x), layers, x, rngs=KEY)
    params = changed["params"]
    assert params["layers_1"]["steps"]["inner"]["scale"]["scale"].shape == (3,)
    first, inner = params["layers_0"], params["layers_1"]["steps"]["inner"]
    h = 2 * (x @ first["kernel"] + first["bias"])
    for kernel, bias in zip(inner["kernel"], inner["bias"], strict=True):
        h = np.tanh(2 * (h @ kernel + bias))
    np.testing.assert_allclose(new.apply(changed, x), h, rtol=1e-5)


# -- what is refused -----------------------------------------------------------------


def test_a_path_that_does_not_exist_is_answered_by_the_nearest(network):
    model, variables, x = network
    with pytest.raises(OptionError) as caught:
        replace(model, variables, {"backbone/Dense_1": Dense(4)}, x, **EVAL)
    assert str(caught.value) == (
        'Nothing is at "backbone/Dense_1".\n'
        "A path is made of the names that lead from the model to a layer that it "
        "calls, as in its variables, without the collection.\n"
        'The nearest: "backbone/Dense_0", "backbone", "backbone/Dropout_0".'
    )
    with pytest.raises(OptionError, match='The nearest: "backbone"'):
        insert(model, variables, {"back_bone/scale": Scale()}, x, **EVAL)


def test_what_the_next_layer_does_not_fit_is_told_of_both(network):
    model, variables, x = network
    with pytest.raises(ShapeError) as caught:
        replace(model, variables, {"backbone": Block(9)}, x, **EVAL)
    assert str(caught.value) == (
        '`Block` at "backbone" returns (6, 9), where the model had (6, 4); "head" then '
        "needs `kernel` of shape (9, 2), and holds (4, 2).\n"
        "What is not new keeps its variables, which fit what came before.\n"
        'Give "backbone" a layer that returns (6, 4), or replace "head" too: '
        '`replace(model, variables, {"backbone": ..., "head": ...}, ...)`.'
    )
    both = {"backbone": Block(9), "head": Dense(2)}
    new, changed = replace(model, variables, both, x, **EVAL)
    assert new.apply(changed, x, train=False).shape == (6, 2)
    with pytest.raises(ShapeError, match=r'`Dense` at "backbone/up" returns \(6, 9\)'):
        insert(model, variables, {"backbone/up": Dense(9)}, x, **EVAL)


def test_where_the_next_layer_fails_by_itself_a_note_names_both(network):
    model, variables, x = network

    class Rows(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x[0, 0]

    with pytest.raises(LinseyError) as caught:
        replace(model, variables, {"backbone": Rows()}, x, **EVAL)
    note = 'This was raised in "head", after a change of "backbone".'
    assert note in caught.value.__notes__


def test_variables_that_lack_something_are_refused(network):
    model, variables, x = network
    params = {"params": variables["params"]}
    with pytest.raises(MismatchError) as caught:
        replace(model, params, {"head": Dense(3)}, x, **EVAL)
    assert str(caught.value) == (
        "The model needs `batch_stats/backbone/BatchNorm_0/mean` of shape (4,); the "
        "variables hold none.\n"
        "Only what is new is initialised; everything else is taken as it is.\n"
        "Pass all variables of the model, as `init` returned them."
    )
    other = made(Network(5), x, train=False)
    hold = r"bias` of shape \(4,\); the variables hold \(5,\)"
    with pytest.raises(MismatchError, match=hold):
        replace(model, other, {"head": Dense(3)}, x, **EVAL)


def test_what_would_never_be_called_is_refused(network):
    model, variables, x = network

    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Dense(4, name="dense")(x)

    layers = {"backbone": Other(), "backbone/Dense_0": Dense(4)}
    with pytest.raises(OptionError) as caught:
        replace(model, variables, layers, x, **EVAL)
    assert str(caught.value) == (
        'Nothing calls what is new at "backbone/Dense_0".\n'
        "A replaced block does not call the layers of the old one, and what follows a "
        "layer is called if `__call__` of that layer is.\n"
        "Leave this path out, or give one that the changed model calls."
    )


MISTAKES = {
    "a class": (ArgumentTypeError, lambda m, v: (Network, v, {"head": m})),
    "a function": (ArgumentTypeError, lambda m, v: (m, v, {"head": nn.relu})),
    "empty": (OptionError, lambda m, v: (m, v, {"": m})),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_three_parts(name, network):
    kind, arguments = MISTAKES[name]
    model, variables, x = network
    with pytest.raises(kind) as caught:
        replace(*arguments(model, variables), x, **EVAL)
    assert caught.value.found and caught.value.why and caught.value.fix


def test_what_is_bound_is_refused(network):
    model, variables, x = network
    with pytest.raises(ArgumentTypeError) as caught:
        replace(model.bind(variables), variables, {"head": Dense(3)}, x, **EVAL)
    assert str(caught.value) == (
        "The model is `Network`, bound to variables.\n"
        "What is changed is the description of a model, beside its variables: an "
        "unbound module of `linsey.linen`.\n"
        "Pass an instance such as `nn.Dense(10)`; of a bound one, "
        "`module, variables = module.unbind()`."
    )


def test_a_path_that_is_taken_is_refused(network):
    model, variables, x = network
    with pytest.raises(OptionError) as caught:
        insert(model, variables, {"backbone/Dense_0": Scale()}, x, **EVAL)
    assert str(caught.value) == (
        'A layer cannot be put in at "backbone/Dense_0".\n'
        "A layer or a variable has this path already.\n"
        'Call it "backbone/Dense_0_1", or change what is there with `replace`.'
    )


def test_a_method_that_the_new_layer_lacks_is_named():
    class Lookup(nn.Module):
        def __call__(self, x):
            return jnp.zeros((*x.shape, 3))

    model, x = Stack(), jnp.arange(4)
    new, changed = replace(model, made(model, x), {"embed": Lookup()}, x, rngs=KEY)
    with pytest.raises(UsageError) as caught:
        new.apply(changed, x, method="score")
    assert str(caught.value) == (
        '`Lookup`, in place of `Embed` at "embed", has no method `attend`.\n'
        "The model calls this method of the layer.\n"
        "Give it a method `attend`, or derive it from `Embed`."
    )
