"""State dicts of PyTorch, written by hand: layouts, names, and what does not fit."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.checkpoint import flatten
from linsey.errors import MismatchError, OptionError
from linsey.weights import load, prove, to_torch
from tests.weights import nets

drawn = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return drawn.normal(size=shape).astype(np.float32)


def near(ours, expected) -> None:
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# -- layouts, by the formulas of PyTorch's documentation -----------------------------


def test_a_linear_layer_computes_x_times_its_weight_transposed():
    state, x = {"weight": array(4, 3), "bias": array(4)}, array(2, 3)
    variables, report = load(nn.Dense(4), state, x)
    near(nn.Dense(4).apply(variables, x), x @ state["weight"].T + state["bias"])
    assert report.is_complete


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_correlates_its_groups(groups):
    layer = nn.Conv(4, (3, 2), padding="VALID", feature_group_count=groups)
    state = {"weight": array(4, 4 // groups, 3, 2), "bias": array(4)}
    x, expected = array(1, 5, 5, 4), np.zeros((1, 3, 4, 4), np.float32)
    size = 4 // groups
    for f, i, j in itertools.product(range(4), range(3), range(4)):
        start = f // size * size
        window = x[0, i : i + 3, j : j + 2, start : start + size]
        kernel = state["weight"][f].transpose(1, 2, 0)
        expected[0, i, j, f] = (window * kernel).sum() + state["bias"][f]
    variables, _ = load(layer, state, x)
    near(layer.apply(variables, x), expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_transposed_convolution_spreads_each_entry_over_its_window(mirrored):
    layer = nn.ConvTranspose(
        2, (3, 2), strides=(2, 2), padding="VALID", transpose_kernel=mirrored
    )
    state = {"weight": array(3, 2, 3, 2), "bias": array(2)}
    x, expected = array(1, 3, 3, 3), np.zeros((1, 7, 6, 2), np.float32)
    for i, j in itertools.product(range(3), range(3)):
        spread = np.einsum("c,cfhw->hwf", x[0, i, j], state["weight"])
        expected[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2] += spread
    variables, _ = load(layer, state, x)
    near(layer.apply(variables, x), expected + state["bias"])


@pytest.mark.parametrize("fused", ["in_proj", "qkv", "apart"])
def test_attention_splits_its_projections_by_heads(fused):
    layer, x = nn.MultiHeadDotProductAttention(2), array(2, 3, 4)
    weights, biases = array(3, 4, 4), array(3, 4)
    out = {"weight": array(4, 4), "bias": array(4)}
    state = {f"out_proj.{name}": value for name, value in out.items()}
    if fused == "in_proj":
        state |= {"in_proj_weight": weights.reshape(12, 4)}
        state |= {"in_proj_bias": biases.reshape(12)}
    elif fused == "qkv":
        state = {f"proj.{name}": value for name, value in out.items()}
        state |= {"qkv.weight": weights.reshape(12, 4), "qkv.bias": biases.reshape(12)}
    else:
        state |= {f"{n}_proj_weight": w for n, w in zip("qkv", weights, strict=True)}
        state |= {"in_proj_bias": biases.reshape(12)}
    q, k, v = (x @ w.T + b for w, b in zip(weights, biases, strict=True))
    parts = []
    for head in range(2):
        columns = slice(2 * head, 2 * head + 2)
        scores = q[..., columns] @ k[..., columns].transpose(0, 2, 1) / np.sqrt(2)
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(odds / odds.sum(-1, keepdims=True) @ v[..., columns])
    expected = np.concatenate(parts, -1) @ out["weight"].T + out["bias"]
    variables, report = load(layer, state, x)
    near(layer.apply(variables, x), expected)
    assert report.is_complete
    back = to_torch(layer, variables, x, like=state)
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)


def recurrent(count: int) -> dict[str, np.ndarray]:
    shapes = {"weight_ih": (3,), "weight_hh": (4,), "bias_ih": (), "bias_hh": ()}
    return {name: array(4 * count, *rest) for name, rest in shapes.items()}


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_a_long_short_term_memory_has_the_gates_i_f_g_o(cell):
    state, x, h, c = recurrent(4), array(2, 3), array(2, 4), array(2, 4)
    sums = x @ state["weight_ih"].T + h @ state["weight_hh"].T
    i, f, g, o = np.split(sums + state["bias_ih"] + state["bias_hh"], 4, axis=1)
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    variables, _ = load(cell(4), state, (c, h), x)
    (found, _), y = cell(4).apply(variables, (c, h), x)
    near(found, new_c)
    near(y, sigmoid(o) * np.tanh(new_c))
    unchanged(cell(4), variables, state, (c, h), x)


def test_a_gated_recurrent_unit_has_the_gates_r_z_n():
    state, x, h = recurrent(3), array(2, 3), array(2, 4)
    of_x = np.split(x @ state["weight_ih"].T + state["bias_ih"], 3, axis=1)
    of_h = np.split(h @ state["weight_hh"].T + state["bias_hh"], 3, axis=1)
    r, z = (sigmoid(a + b) for a, b in zip(of_x[:2], of_h[:2], strict=True))
    n = np.tanh(of_x[2] + r * of_h[2])
    variables, _ = load(nn.GRUCell(4), state, h, x)
    near(nn.GRUCell(4).apply(variables, h, x)[1], (1 - z) * n + z * h)
    unchanged(nn.GRUCell(4), variables, state, h, x)


def test_a_simple_cell_has_one_gate_and_the_sum_of_the_biases():
    state, x, h = recurrent(1), array(2, 3), array(2, 4)
    sums = x @ state["weight_ih"].T + h @ state["weight_hh"].T
    variables, _ = load(nn.SimpleCell(4), state, h, x)
    expected = np.tanh(sums + state["bias_ih"] + state["bias_hh"])
    near(nn.SimpleCell(4).apply(variables, h, x)[1], expected)
    unchanged(nn.SimpleCell(4), variables, state, h, x)


def unchanged(layer, variables, state, *inputs) -> None:
    back = to_torch(layer, variables, *inputs, like=state)
    assert [*back] == [*state]
    for name in state:
        assert back[name].tobytes() == state[name].tobytes(), name
    # Without the two biases their sum is that of ours.
    alone = to_torch(layer, variables, *inputs)
    assert alone.keys() == state.keys()
    again, _ = load(layer, alone, *inputs)
    assert equal(variables, again)


def test_layers_of_a_recurrent_network_are_matched_by_their_order():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.RNN(nn.LSTMCell(4))(x)
            return nn.RNN(nn.LSTMCell(4))(x)

    state = {}
    for index, width in enumerate((4, 4)):
        part = {**recurrent(4), "weight_ih": array(16, width)}
        state |= {f"lstm.{name}_l{index}": value for name, value in part.items()}
    x = array(2, 5, 4)
    variables, report = load(Stack(), state, x)
    assert report.is_complete and len(report.matches) == 2
    sorted_too, _ = load(Stack(), dict(sorted(state.items())), x)
    assert equal(sorted_too, variables)
    back = to_torch(Stack(), variables, x, like=state)
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)


def test_embeddings_and_parameters_of_ones_own_stay_as_they_are():
    class Text(nn.Module):
        @nn.compact
        def __call__(self, x):
            start = self.param("start", nn.initializers.zeros, (1, 1, 3))
            return nn.Embed(5, 3, name="embed")(x) + start

    state = {"start": array(1, 1, 3), "embed.weight": array(5, 3)}
    x = np.array([[1, 4]])
    variables, _ = load(Text(), state, x)
    near(Text().apply(variables, x), state["embed.weight"][x] + state["start"])


def test_a_convolution_of_one_pixel_is_a_linear_layer():
    state, x = {"fc.weight": array(4, 3, 1, 1)}, array(2, 3)
    model = nn.Sequential([nn.Dense(4, use_bias=False)])
    variables, _ = load(model, state, x)
    near(model.apply(variables, x), x @ state["fc.weight"][:, :, 0, 0].T)
    assert to_torch(model, variables, x, like=state)["fc.weight"].shape == (4, 3, 1, 1)


# -- there and back ------------------------------------------------------------------


def equal(a, b) -> bool:
    a, b = flatten(a), flatten(b)
    return a.keys() == b.keys() and all(
        np.asarray(a[p]).tobytes() == np.asarray(b[p]).tobytes() for p in a
    )


@pytest.mark.parametrize("net", nets.EXAMPLES)
def test_variables_come_back_from_pytorch_bit_by_bit(net):
    model, x = net(), nets.example(net)
    variables = nets.random_variables(model, x)
    state = to_torch(model, variables, x)
    found, report = load(model, state, x)
    assert equal(found, variables)
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert [*report.counters] == counters and report.is_complete


def test_like_gives_names_order_dtypes_and_counters_back():
    model, x = nets.Cnn(), nets.example(nets.Cnn)
    state = to_torch(model, nets.random_variables(model, x), x)
    state = {f"module.{name}": state[name] for name in reversed([*state])}
    state["module.bn1.num_batches_tracked"] = np.array(7)
    state["module.fc.weight"] = state["module.fc.weight"].astype(np.float16)
    variables, _ = load(model, state, x)
    back = to_torch(model, variables, x, like=state)
    assert [*back] == [*state]
    for name in state:
        assert back[name].dtype == state[name].dtype
        assert back[name].tobytes() == state[name].tobytes()


def test_updates_that_are_counted_are_their_counter():
    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(True, count_updates=True, name="bn")(x)

    x = array(2, 3)
    arrays = {name: array(3) for name in ("weight", "bias", "running_mean")}
    arrays |= {"running_var": np.ones(3, np.float32)}
    arrays |= {"num_batches_tracked": np.array(7)}
    state = {f"bn.{name}": value for name, value in arrays.items()}
    variables, report = load(Counted(), state, x)
    assert variables["batch_counts"]["bn"]["updates"] == 7 and not report.counters
    assert to_torch(Counted(), variables, x)["bn.num_batches_tracked"] == 7


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train, name="first")(nn.Dense(3, name="fc")(x))
        return nn.BatchNorm(not train, name="second")(x)


def normed(first: int, second: int) -> dict[str, np.ndarray]:
    state = {"fc.weight": array(3, 3), "fc.bias": array(3)}
    for name, count in (("first", first), ("second", second)):
        state |= {f"{name}.{leaf}": array(3) for leaf in ("weight", "bias")}
        state |= {f"{name}.running_mean": array(3)}
        state |= {f"{name}.running_var": np.exp(array(3))}
        state |= {f"{name}.num_batches_tracked": np.array(count)}
    return state


@pytest.mark.parametrize("counts", [(0, 0), (7, 0), (7, 2**31 - 1)])
def test_counters_go_there_and_back_without_the_state_dict_they_come_from(counts):
    state, x = normed(*counts), array(4, 3)
    variables, report = load(Normed(), state, x)
    paths = [f"batch_counts/{name}/updates" for name in ("first", "second")]
    if any(counts):
        assert report.counts == tuple(paths) and not report.counters
        assert "2 counters of updates in `batch_counts`" in str(report)
        assert [int(flatten(variables)[path]) for path in paths] == [*counts]
    else:
        assert "batch_counts" not in variables and not report.counts
        assert len(report.counters) == 2 and "counters of updates, left" in str(report)
    back = to_torch(Normed(), variables, x)
    assert back.keys() == state.keys()
    for name in state:
        assert back[name].dtype == state[name].dtype, name
        assert back[name].tobytes() == state[name].tobytes(), name
    # A tree of Linen that has them is loaded with them.
    again, report = load(Normed(), flatten(variables), x)
    assert equal(again, variables) and report.is_complete


def test_a_module_that_does_not_count_ignores_counters():
    x = array(4, 3)
    variables, _ = load(Normed(), normed(7, 8), x)
    without = {name: tree for name, tree in variables.items() if name != "batch_counts"}
    y, updates = Normed().apply(variables, x, True, mutable=["batch_stats"])
    expected, others = Normed().apply(without, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, expected)
    assert equal(updates, others)
    assert prove((Normed(), variables), (Normed(), without), x).is_equal


def test_a_counter_that_jax_cannot_hold_is_listed():
    _, report = load(Normed(), normed(7, 2**31), array(4, 3))
    names = tuple(f"{name}.num_batches_tracked" for name in ("first", "second"))
    assert report.counters == names and not report.counts
    with jax.enable_x64(True):
        variables, report = load(Normed(), normed(7, 2**31), array(4, 3))
        assert variables["batch_counts"]["second"]["updates"] == 2**31
        assert not report.counters


def test_a_counter_of_no_batch_norm_is_left_out():
    state = {**normed(7, 8), "other.num_batches_tracked": np.array(9)}
    _, report = load(Normed(), state, array(4, 3))
    assert report.counters == ("other.num_batches_tracked",)
    assert len(report.counts) == 2


def test_trees_of_linen_keep_their_layouts():
    model, x = nets.ResNet(), nets.example(nets.ResNet)
    variables = nets.random_variables(model, x)
    found, report = load(model, flatten(variables), x)
    assert equal(found, variables) and report.is_complete
    flat = flatten(variables)
    arrays = {path.replace("layer_", "Block_"): a for path, a in flat.items()}
    mapping = {"Block_0": "layer_0", "Block_1": "layer_1"}
    found, _ = load(model, arrays, x, mapping=mapping)
    assert equal(found, variables)


def test_double_precision_is_kept_where_jax_has_it():
    state, x = {"weight": drawn.normal(size=(4, 3))}, array(2, 3)
    layer = nn.Dense(4, use_bias=False)
    _, report = load(layer, state, x)
    assert report.rounded == ("params/kernel",)
    with jax.enable_x64(True):
        variables, report = load(layer, state, x)
        assert variables["params"]["kernel"].dtype == jnp.float64 and not report.rounded
        back = to_torch(layer, variables, x)
    assert back["weight"].tobytes() == state["weight"].tobytes()


# -- names, order, and what does not fit ----------------------------------------------


class Two(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="first", use_bias=False)(x)
        return nn.Dense(2, name="head", use_bias=False)(x)


X = np.ones((1, 3), np.float32)


def test_a_mapping_says_what_is_what():
    state = {"a.b.weight": array(4, 3), "c.weight": array(2, 4), "extra": array(1)}
    mapping = {"a.b": "first", "c.weight": "params/head/kernel", "extra": None}
    variables, report = load(Two(), state, X, mapping=mapping)
    assert variables["params"]["head"]["kernel"].shape == (4, 2)
    assert report.dropped == ("extra",)
    assert {match.by for match in report.matches} == {"mapping"}


def test_a_mapping_of_what_is_not_there_names_what_is_near():
    state = {"first.weight": array(4, 3), "head.weight": array(2, 4)}
    with pytest.raises(OptionError) as caught:
        load(Two(), state, X, mapping={"heads": "head"})
    assert str(caught.value) == (
        "`mapping` names `heads`.\n"
        "Nothing that is still to be matched has this name or is below it.\n"
        "Did you mean `head.weight`?"
    )


def test_what_does_not_fit_is_listed_with_what_it_most_resembles():
    state = {"first.weight": array(4, 3), "heads.weight": array(5, 4)}
    with pytest.raises(MismatchError) as caught:
        load(Two(), state, X)
    assert str(caught.value) == (
        "Arrays of the module without a value: 1; of the file without a place: 1.\n"
        "  `params/head/kernel` (4, 2): no array in the file corresponds to it; "
        "most like `heads.weight`\n"
        "  `heads.weight` (5, 4): no array in the module corresponds to it; "
        "most like `params/head/kernel`\n"
        "A module with some weights at their initial values gives other results than "
        "the one they come from.\n"
        "Write `strict=False` for new values there, and read the report."
    )
    variables, report = load(Two(), state, X, strict=False)
    names = [rest.name for rest in report.leftovers]
    assert names == ["params/head/kernel", "heads.weight"]
    initial = Two().init(jax.random.key(0), X)
    assert equal(variables["params"]["head"], initial["params"]["head"])
    near(variables["params"]["first"]["kernel"], state["first.weight"].T)


def test_the_order_of_axes_that_would_fit_is_named():
    state = {"first.weight": array(3, 4), "head.weight": array(2, 4)}
    _, report = load(Two(), state, X, strict=False)
    assert report.leftovers[0].why == (
        "the file has shape (3, 4) where (4, 3) is needed, which "
        "`array.transpose(1, 0)` would have"
    )


def test_layers_of_other_names_are_matched_by_order_and_the_report_says_so():
    state = {"net.weight": array(3, 3), "fc.weight": array(2, 3)}
    _, report = load(Two(3), state, X)
    assert [match.by for match in report.matches] == ["order", "order"]
    assert "by order: `net` is `first`" in str(report)
    _, report = load(Two(3), dict(sorted(state.items())), X)
    assert [match.by for match in report.matches] == ["shape", "shape"]


def test_names_and_order_that_contradict_each_other_are_not_guessed():
    model = nn.Sequential([nn.Dense(3, use_bias=False) for _ in range(3)])
    state = {f"layers.{index}.weight": array(3, 3) for index in (0, 2, 4)}
    with pytest.raises(MismatchError, match=r"`params/layers_1/kernel`"):
        load(model, state, X)


def test_a_layer_that_is_missing_is_not_replaced_by_one_of_its_shape():
    model = nn.Sequential([nn.Dense(3, use_bias=False) for _ in range(3)])
    state = {"a.weight": array(3, 3), "b.weight": array(3, 3)}
    _, report = load(model, state, X, strict=False)
    assert not report.matches and len(report.leftovers) == 5


class Three(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name in ("a", "b", "c"):
            x = nn.Dense(3, name=name, use_bias=False)(x)
        return x


def test_in_a_sorted_file_numbers_tell_the_order_and_nothing_else_does():
    numbered = {f"net.{index}.weight": array(3, 3) for index in (0, 10, 2)}
    variables, report = load(Three(), numbered, X)
    assert {match.by for match in report.matches} == {"order"}
    near(variables["params"]["b"]["kernel"], numbered["net.2.weight"].T)
    named = {f"{name}.weight": array(3, 3) for name in ("first", "second", "third")}
    _, report = load(Three(), named, X, strict=False)
    assert not report.matches
    with pytest.raises(MismatchError) as caught:
        load(Three(), named, X)
    assert caught.value.fix == (
        "Say what is what, as `mapping={'first.weight': 'params/a/kernel'}`; or leave "
        "out, by `None`."
    )
    mapping = {"first.weight": "params/a/kernel"}
    _, report = load(Three(), named, X, mapping=mapping, strict=False)
    assert len(report.matches) == 1
    shuffled = {name: named[name] for name in ("third.weight", *named)}
    variables, _ = load(Three(), shuffled, X)  # an order of its own
    near(variables["params"]["a"]["kernel"], named["third.weight"].T)


def test_tied_weights_have_one_array_here_and_two_names_there():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            embed = nn.Embed(5, 3, name="embed")
            return embed.attend(embed(x))

    table, x = array(5, 3), np.array([1])
    state = {"embed.weight": table, "head.weight": table}
    variables, report = load(Tied(), state, x)
    assert report.tied == {"head.weight": "embed.weight"}
    moved = jax.tree.map(lambda a: a + 1, variables)
    back = to_torch(Tied(), moved, x, like=state)
    assert back["head.weight"].tobytes() == back["embed.weight"].tobytes()
    near(back["head.weight"], table + 1)


def test_tied_weights_have_two_arrays_here_and_one_name_there():
    class Untied(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Embed(5, 3, name="embed")(x)
            return nn.Dense(5, use_bias=False, name="head")(x)

    state, x = {"table.weight": array(5, 3)}, np.array([1])
    variables, _ = load(Untied(), state, x, mapping={"table": ("embed", "head")})
    near(variables["params"]["head"]["kernel"], state["table.weight"].T)
    near(variables["params"]["embed"]["embedding"], state["table.weight"])


def test_to_torch_lists_what_like_has_no_name_for():
    variables = Two().init(jax.random.key(0), X)
    like = {"first.weight": array(4, 3), "other.weight": array(7, 4)}
    with pytest.raises(MismatchError) as caught:
        to_torch(Two(), variables, X, like=like)
    assert str(caught.value) == (
        "Arrays without a counterpart in `like`: 1.\n"
        "  `params/head/kernel` (4, 2): no array in the file corresponds to it; "
        "most like `other.weight`\n"
        "They would be missing in the state dict.\n"
        "Say which they are by `mapping`, or leave out `like`."
    )


def test_to_torch_refuses_two_arrays_of_one_name():
    class Standardized(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (3, 2))
            return x @ kernel * self.param("scale", nn.initializers.ones, (1, 2))

    model = nn.Sequential([Standardized()])
    with pytest.raises(MismatchError) as caught:
        to_torch(model, model.init(jax.random.key(0), X), X)
    assert str(caught.value) == (
        "The arrays of `layers_0` have no names in PyTorch of their own: kernel, "
        "scale.\n"
        "There is no layer with the same arrays.\n"
        "Give a state dict that has them as `like`, and a `mapping`."
    )
