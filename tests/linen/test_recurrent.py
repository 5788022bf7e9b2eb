"""Recurrent cells and layers against Flax and against loops over time."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors import ShapeError
from linsey.errors.layers import InputRankError
from tests.linen.differential import assert_close, assert_same_bits, normal

LIBRARIES = (flax.linen, nn)
KEY = jax.random.key(0)
X = normal(2, 5, 3)
LENGTHS = jnp.array([4, 2])


def quick_init(key, shape, dtype):
    """An initializer with little to compile, the same bits traced or not."""
    seed = jax.random.key_data(key)[1]
    numbers = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + seed
    return (numbers >> 20).astype(dtype).reshape(shape) / 4096 - 0.5


QUICK = {"kernel_init": quick_init, "recurrent_kernel_init": quick_init}
CELLS = {
    "LSTMCell": QUICK | {"bias_init": quick_init},
    "OptimizedLSTMCell": QUICK | {"bias_init": quick_init},
    "SimpleCell": QUICK | {"bias_init": quick_init},
    "GRUCell": QUICK | {"bias_init": quick_init},
    "MGUCell": QUICK | {"activation_bias_init": quick_init},
}


def cells(name="LSTMCell", features=4, **fields):
    """The cell of Flax and ours, with initializers that need no compiling."""
    fields = CELLS.get(name, {}) | {"carry_init": quick_init} | fields
    return [getattr(lib, name)(features, **fields) for lib in LIBRARIES]


def rnns(name="SimpleCell", **fields):
    """An RNN of each library."""
    both = zip(LIBRARIES, cells(name), strict=True)
    return [lib.RNN(cell, **fields) for lib, cell in both]


def assert_trees_close(expected, found, ulps=64):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert_close(a, b, ulps)


def assert_same(layers, *inputs, **call):
    """Both layers have the same variables and compute the same from the same inputs."""
    results = [layer.init_with_output(KEY, *inputs, **call) for layer in layers]
    (expected, variables), (found, ours) = results
    assert_same_bits(variables, ours)
    assert_trees_close(expected, found)
    return variables


# -- cells -----------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {}) for name in CELLS),
        ("SimpleCell", {"residual": True}),
        ("MGUCell", {"reset_gate": False}),
        ("GRUCell", {"gate_fn": nn.hard_sigmoid, "activation_fn": nn.relu}),
        ("LSTMCell", {"dtype": jnp.bfloat16}),
        ("GRUCell", {"param_dtype": jnp.float16}),
    ],
)
def test_cells_equal_those_of_flax(name, fields):
    theirs, ours = cells(name, **fields)
    x = X[:, 0]
    carry = theirs.initialize_carry(KEY, x.shape)
    assert_same_bits(carry, ours.initialize_carry(KEY, x.shape))
    variables = assert_same((theirs, ours), carry, x)

    def gradient(cell):
        def loss(variables, carry, x):
            leaves = jax.tree.leaves(cell.apply(variables, carry, x))
            return sum(jnp.sum(jnp.square(leaf.astype("f4"))) for leaf in leaves)

        return jax.grad(loss, argnums=(0, 1, 2))(variables, carry, x)

    if not fields:
        assert_trees_close(gradient(theirs), gradient(ours), ulps=256)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["LSTMCell", "SimpleCell", "MGUCell"])
def test_initial_values_of_cells_are_those_of_flax(name):
    trees = []
    for lib in LIBRARIES:
        cell = getattr(lib, name)(4)
        carry = cell.initialize_carry(KEY, (4,))
        trees.append((carry, jax.jit(cell.init)(KEY, carry, jnp.ones(4))))
    assert_same_bits(*trees)


def test_the_lstm_in_two_products_is_the_lstm():
    _, plain = cells("LSTMCell")
    _, joined = cells("OptimizedLSTMCell")
    carry = plain.initialize_carry(KEY, (2, 3))
    variables = plain.init(KEY, carry, X[:, 0])
    assert_same_bits(variables, joined.init(KEY, carry, X[:, 0]))
    assert_trees_close(
        plain.apply(variables, carry, X[:, 0]), joined.apply(variables, carry, X[:, 0])
    )


@pytest.mark.slow
def test_convolutional_cells_equal_those_of_flax():
    layers = [
        lib.ConvLSTMCell(2, (3,), carry_init=quick_init, use_bias=False)
        for lib in LIBRARIES
    ]
    x = normal(2, 4, 3)
    carry = layers[0].initialize_carry(KEY, x.shape)
    assert_same_bits(carry, layers[1].initialize_carry(KEY, x.shape))
    assert_same(layers, carry, x)


def test_cells_tell_the_number_of_their_feature_axes():
    for lib in LIBRARIES:
        assert lib.LSTMCell(4).num_feature_axes == 1
        assert lib.GRUCell(4).num_feature_axes == 1
        assert lib.ConvLSTMCell(4, (3, 3)).num_feature_axes == 3


@pytest.mark.parametrize("lib", LIBRARIES, ids=["flax", "linsey"])
def test_the_base_class_leaves_both_to_the_cell(lib):
    cell = lib.RNNCellBase()
    with pytest.raises(NotImplementedError):
        cell.initialize_carry(KEY, (3,))
    with pytest.raises(NotImplementedError):
        _ = cell.num_feature_axes


# -- the layer -------------------------------------------------------------------------

CALLS = {
    "plain": {},
    "carry": {"return_carry": True},
    "reverse": {"reverse": True, "return_carry": True},
    "reverse in order": {"reverse": True, "keep_order": True},
    "lengths": {"seq_lengths": LENGTHS, "return_carry": True},
    "lengths without carry": {"seq_lengths": LENGTHS},
    "reverse lengths": {"seq_lengths": LENGTHS, "reverse": True, "return_carry": True},
    "reverse lengths in order": {
        "seq_lengths": LENGTHS,
        "reverse": True,
        "keep_order": True,
        "return_carry": True,
    },
    "time major": {"time_major": True, "return_carry": True},
    "time major lengths": {
        "time_major": True,
        "reverse": True,
        "seq_lengths": jnp.array([1, 2, 2, 1, 1]),
        "return_carry": True,
    },
    "key": {"init_key": jax.random.key(3), "return_carry": True},
    "initial carry": {"initial_carry": normal(2, 4)},
}


@pytest.mark.thinned(6)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_scans_equal_those_of_flax(call):
    assert_same(rnns(), X, **call)


@pytest.mark.parametrize("name", ["reverse lengths in order", "time major lengths"])
def test_options_can_be_given_to_the_constructor(name):
    call = dict(CALLS[name])
    lengths = call.pop("seq_lengths")
    assert_same(rnns(**call), X, seq_lengths=lengths)


@pytest.mark.parametrize("shape", [(5, 3), (2, 2, 5, 3)])
def test_scans_take_any_batch_axes(shape):
    assert_same(rnns("GRUCell", unroll=2), normal(*shape), return_carry=True)


@pytest.mark.slow
def test_scans_of_convolutional_cells_equal_those_of_flax():
    layers = [
        lib.RNN(lib.ConvLSTMCell(2, (3,), carry_init=quick_init), return_carry=True)
        for lib in LIBRARIES
    ]
    assert_same(layers, normal(2, 3, 4, 3), seq_lengths=jnp.array([3, 1]))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (3, 2)])
def test_lengths_of_another_batch_are_refused(shape):
    layer = nn.RNN(nn.GRUCell(2))
    text = r"`seq_lengths` of `RNN` has shape .*, the batch has shape \(2,\)"
    for options in ({}, {"return_carry": True}, {"reverse": True}):
        with pytest.raises(ShapeError, match=text):
            layer.init(KEY, X, seq_lengths=jnp.ones(shape, int), **options)
    layer.init(KEY, X, seq_lengths=jnp.array([1]), return_carry=True)  # all alike


def test_a_scan_is_a_loop_over_time():
    _, layer = rnns("GRUCell")
    (carry, y), variables = layer.init_with_output(KEY, X, return_carry=True)
    cell = {"params": variables["params"]["cell"]}
    h = layer.cell.initialize_carry(jax.random.key(0), (2, 3))
    for t in range(X.shape[1]):
        h, expected = layer.cell.apply(cell, h, X[:, t])
        assert_close(expected, y[:, t])
    assert_close(h, carry)


def test_gradients_of_scans_equal_those_of_flax():
    theirs, ours = rnns("LSTMCell")
    variables = theirs.init(KEY, X)

    def gradient(layer):
        def loss(variables, x):
            (c, h), y = layer.apply(
                variables, x, seq_lengths=LENGTHS, return_carry=True
            )
            return jnp.sum(c) + jnp.sum(h * h) + jnp.sum(y * y)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, X)

    assert_trees_close(gradient(theirs), gradient(ours), ulps=256)


def test_an_empty_sequence_gives_the_initial_carry():
    _, layer = rnns("GRUCell", return_carry=True)
    h = normal(2, 4)
    (carry, _), _ = layer.init_with_output(
        KEY, X, initial_carry=h, seq_lengths=jnp.array([0, 5])
    )
    assert_close(h[0], carry[0], ulps=0)


def test_lengths_with_several_batch_axes():
    _, layer = rnns("GRUCell", return_carry=True)
    x = normal(2, 2, 5, 3)
    lengths = jnp.array([[1, 2], [3, 5]])
    (carry, y), _ = layer.init_with_output(KEY, x, seq_lengths=lengths)
    for index in np.ndindex(2, 2):
        assert_close(y[*index, lengths[index] - 1], carry[index], ulps=0)


def counting_cell(lib):
    """A cell with state and noise, on the module class of a library."""

    class Cell(lib.RNNCellBase):
        @lib.compact
        def __call__(self, carry, x):
            steps = self.variable("stats", "steps", jnp.zeros, (), jnp.int32)
            steps.value += 1
            noise = jax.random.normal(self.make_rng("noise"), x.shape)
            scale = self.param("scale", lib.initializers.ones, (), jnp.float32)
            return carry + 1, scale * x + noise

        def initialize_carry(self, rng, input_shape):
            return jnp.zeros((), jnp.int32)

        num_feature_axes = 1

    return Cell()


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_variables_and_streams_of_a_cell_are_handled_as_in_flax(split, reverse):
    found = []
    for lib in LIBRARIES:
        layer = lib.RNN(
            counting_cell(lib),
            variable_axes={"stats": 0},
            split_rngs={"noise": split},
            reverse=reverse,
            return_carry=True,
        )
        variables = {
            "params": {"cell": {"scale": jnp.ones(())}},
            "stats": {"cell": {"steps": jnp.arange(5)}},
        }
        found.append(layer.apply(variables, X, rngs={"noise": KEY}, mutable=["stats"]))
    assert_trees_close(*found)


def test_state_can_be_handed_from_step_to_step():
    found = []
    for lib in LIBRARIES:
        layer = lib.RNN(
            counting_cell(lib), variable_carry="stats", split_rngs={"noise": True}
        )
        variables = {
            "params": {"cell": {"scale": jnp.ones(())}},
            "stats": {"cell": {"steps": jnp.array(7)}},
        }
        found.append(layer.apply(variables, X, rngs={"noise": KEY}, mutable=["stats"]))
    assert_trees_close(*found)
    assert found[1][1]["stats"]["cell"]["steps"] == 12


def test_names_inside_other_modules_are_those_of_flax():
    trees = []
    for lib in LIBRARIES:

        class Model(lib.Module):
            @lib.compact
            def __call__(self, x, lib=lib):
                def rnn():
                    return lib.RNN(lib.GRUCell(2))

                x = lib.RNN(lib.SimpleCell(3), name="first")(x)
                return lib.Bidirectional(rnn(), rnn())(x)

        trees.append(Model().init(KEY, X))
    assert_same_bits(*trees)


def test_a_scan_needs_an_axis_of_time():
    for lib in LIBRARIES:
        with pytest.raises(IndexError):
            lib.RNN(lib.GRUCell(4)).init(KEY, jnp.ones(3))
    with pytest.raises(InputRankError, match="time, features"):
        nn.RNN(nn.GRUCell(4)).init(KEY, jnp.ones(3))


@pytest.mark.parametrize("lengths", [None, jnp.array([0, 3]), jnp.array([4, 1])])
@pytest.mark.parametrize("time_major", [True, False])
def test_sequences_are_flipped_as_in_flax(lengths, time_major):
    x = normal(4, 2, 3) if time_major else normal(2, 4, 3)
    found = [
        lib.recurrent.flip_sequences(x, lengths, 1, time_major) for lib in LIBRARIES
    ]
    assert_same_bits(*found)


# -- both directions -------------------------------------------------------------------


def bidirectional(**fields):
    both = zip(LIBRARIES, rnns("LSTMCell"), rnns("SimpleCell"), strict=True)
    return [lib.Bidirectional(forward, back, **fields) for lib, forward, back in both]


BOTH_WAYS = {
    "lengths": ({}, {"seq_lengths": LENGTHS, "reverse": True}),
    "key": ({"return_carry": True}, {"init_key": jax.random.key(3)}),
    "time major": ({"time_major": True}, {"return_carry": True}),
    "initial carry": (
        {"merge_fn": jnp.add},
        {"initial_carry": ((normal(2, 4),) * 2, normal(2, 4))},
    ),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("case", BOTH_WAYS)
def test_both_directions_equal_those_of_flax(case):
    fields, call = BOTH_WAYS[case]
    assert_same(bidirectional(**fields), X, **call)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_has_the_size_of_its_carry_as_in_flax(name):
    h = jnp.ones((2, 7))
    carry = (jnp.ones((2, 1)), h) if "LSTM" in name else h
    shapes = []
    for cell in cells(name, features=5):
        made = jax.eval_shape(cell.init_with_output, KEY, carry, X[:, 0])
        shapes.append(jax.tree.map(jnp.shape, made))
    assert shapes[0] == shapes[1]
    assert shapes[1][0][1] == (2, 7)


def test_outputs_and_parameters_of_several_dtypes_are_joined_as_in_flax():
    half, found = {"dtype": jnp.float16, "param_dtype": jnp.float16}, []
    for lib in LIBRARIES:
        half["recurrent_kernel_init"] = lib.initializers.ones  # in any precision
        both = lib.RNN(lib.SimpleCell(3, **half)), lib.RNN(lib.SimpleCell(3))
        y = jax.eval_shape(lib.Bidirectional(*both).init_with_output, KEY, X)[0]
        cell, carry = lib.OptimizedLSTMCell(3), (jnp.ones(3),) * 2
        params = jax.eval_shape(cell.init, KEY, carry, X[0, 0])["params"]
        mixed = {"params": params | {"hf": cast(params["hf"], jnp.bfloat16)}}
        found.append((y, jax.eval_shape(cell.apply, mixed, carry, X[0, 0])))
    assert found[0] == found[1]
    assert found[0][0].dtype == jnp.float32


def cast(tree, dtype):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


def test_a_layer_takes_its_size_from_the_first_carry():
    h = jnp.ones((2, 7))
    layer = nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.LSTMCell(5)))
    y, _ = jax.eval_shape(
        lambda x: layer.init_with_output(KEY, x, initial_carry=(h, (h, h))), X
    )
    assert y.shape == (2, 5, 14)


@pytest.mark.parametrize("name", [*CELLS, "ConvLSTMCell"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_carries_keep_their_dtype(name, lengths):
    # Flax gives the wider one to `scan`, which refuses it.
    window = [(2,)] if name == "ConvLSTMCell" else []
    layer = nn.RNN(getattr(nn, name)(4, *window), return_carry=True)
    with jax.enable_x64(True):
        x = jnp.ones((2, 5, *[3] * len(window), 3), jnp.float64)
        (carry, y), _ = jax.eval_shape(
            lambda x: layer.init_with_output(KEY, x, seq_lengths=lengths), x
        )
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(carry)} == {"float32"}
    assert y.dtype == "float64"
