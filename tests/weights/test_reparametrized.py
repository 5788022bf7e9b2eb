"""What PyTorch keeps in another form: converted, or refused by its name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.checkpoint import flatten
from linsey.errors import MismatchError
from linsey.weights import load, to_torch

drawn = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return drawn.normal(size=shape).astype(np.float32)


class Fc(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="fc")(x)


X = array(2, 3)
OLD = ("fc.weight_g", "fc.weight_v")
NEW = tuple(f"fc.parametrizations.weight.original{index}" for index in (0, 1))


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), ()])
@pytest.mark.parametrize("names", [OLD, NEW])
def test_a_weight_is_its_length_times_its_direction(names, shape):
    axes = {(4, 1): 1, (1, 3): 0, (): None}[shape]
    g, v = np.exp(array(*shape)), array(4, 3)
    state = {"fc.bias": array(4), names[0]: np.asarray(g), names[1]: v}
    weight = g * v / np.sqrt((v * v).sum(axes, keepdims=bool(shape)))
    variables, report = load(Fc(), state, X)
    assert report.is_complete
    found = Fc().apply(variables, X)
    np.testing.assert_allclose(found, X @ weight.T + state["fc.bias"], 1e-5, 1e-6)
    back = to_torch(Fc(), variables, X, like=state)
    assert [*back] == [*state]
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)


@pytest.mark.parametrize("names", [OLD, NEW])
def test_a_weight_that_changed_gets_a_new_length_and_direction(names):
    state = {"fc.bias": array(4), names[0]: array(4, 1), names[1]: array(4, 3)}
    variables, _ = load(Fc(), state, X)
    moved = jax.tree.map(lambda a: 3 * a + 1, variables)
    back = to_torch(Fc(), moved, X, like=state)
    assert {n: a.dtype for n, a in back.items()} == dict.fromkeys(state, np.float32)
    again, _ = load(Fc(), back, X)
    for path, expected in flatten(moved).items():
        np.testing.assert_allclose(flatten(again)[path], expected, 1e-6, err_msg=path)


def refused(module, state, *inputs) -> str:
    with pytest.raises(MismatchError) as caught:
        load(module, state, *inputs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "call"),
    [
        (("weight_orig", "weight_u", "weight_v"), "remove_spectral_norm(layer)"),
        (
            tuple(f"parametrizations.weight.{n}" for n in ("original", "0._u", "0._v")),
            "remove_parametrizations(layer, name)",
        ),
    ],
)
def test_a_spectral_norm_is_refused_by_its_name(names, call):
    arrays = array(4, 3), array(4), array(3)
    state = {"fc.bias": array(4)}
    state |= {f"fc.{name}": a for name, a in zip(names, arrays, strict=True)}
    text = refused(Fc(), state, X)
    for name in names:
        assert f"`fc.{name}`" in text
    assert "`spectral_norm`" in text and call in text


def test_biases_of_keys_and_values_are_refused_by_their_names():
    x = array(2, 3, 4)
    layer = nn.MultiHeadDotProductAttention(2)
    state = {
        "in_proj_weight": array(12, 4), "in_proj_bias": array(12),
        "bias_k": array(1, 1, 4), "bias_v": array(1, 1, 4),
        "out_proj.weight": array(4, 4), "out_proj.bias": array(4),
    }  # fmt: skip
    text = refused(layer, state, x)
    assert "`bias_k` (1, 1, 4): `add_bias_kv` of `MultiheadAttention`" in text
    assert "`bias_v` (1, 1, 4): `add_bias_kv` of `MultiheadAttention`" in text

    class Own(nn.Module):  # as the message says
        @nn.compact
        def __call__(self, x):
            bias = self.param("bias_k", nn.initializers.zeros, (1, 1, 4))
            return nn.Dense(4, name="key")(x) + bias

    state = {"bias_k": array(1, 1, 4), "key.weight": array(4, 4), "key.bias": array(4)}
    assert load(Own(), state, x)[1].is_complete


def test_a_projection_of_a_recurrent_layer_is_refused_by_its_name():
    state = {
        "lstm.weight_ih_l0": array(16, 3), "lstm.weight_hh_l0": array(16, 2),
        "lstm.bias_ih_l0": array(16), "lstm.bias_hh_l0": array(16),
        "lstm.weight_hr_l0": array(2, 4),
    }  # fmt: skip
    text = refused(nn.RNN(nn.LSTMCell(4)), state, array(2, 5, 3))
    assert "`lstm.weight_hr_l0` (2, 4): `proj_size` of `LSTM`" in text


def test_a_transposed_convolution_in_groups_is_refused_with_their_number():
    class Up(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.ConvTranspose(6, (3, 3), name="up")(x)

    state = {"up.weight": array(4, 3, 3, 3), "up.bias": array(6)}
    text = refused(Up(), state, array(1, 5, 5, 4))
    assert "the file has shape (4, 3, 3, 3) where (4, 6, 3, 3) is needed" in text
    assert "as with `groups=2` in PyTorch" in text

    class Parts(nn.Module):  # as the message says
        @nn.compact
        def __call__(self, x):
            parts = [
                nn.ConvTranspose(3, (3, 3), use_bias=False, name=f"up{index}")(part)
                for index, part in enumerate(jnp.split(x, 2, -1))
            ]
            return jnp.concatenate(parts, -1)

    halves = np.split(state["up.weight"], 2)
    parts = {f"up{index}.weight": half for index, half in enumerate(halves)}
    assert load(Parts(), parts, array(1, 5, 5, 4))[1].is_complete


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.BatchNorm(True, name="bn")(nn.Dense(3, name="fc")(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.scan(
            Block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=2,
        )
        return block(name="layers")(x, None)[0]


def test_layers_that_are_stacked_are_refused_and_loaded_one_by_one():
    blocks = [
        {
            "fc.weight": array(3, 3), "fc.bias": array(3),
            "bn.weight": array(3), "bn.bias": array(3),
            "bn.running_mean": array(3), "bn.running_var": np.exp(array(3)),
        }
        for _ in range(2)
    ]  # fmt: skip
    state = {
        f"layers.{index}.{name}": a
        for index, block in enumerate(blocks)
        for name, a in block.items()
    }
    text = refused(Scanned(), state, X)
    assert (
        "`params/layers/fc/kernel` (2, 3, 3): `nn.scan` or `nn.vmap` stacks 2" in text
    )
    assert (
        "`batch_stats/layers/bn/mean` (2, 3): `nn.scan` or `nn.vmap` stacks 2" in text
    )
    assert "join them by `jax.tree.map(lambda *a: jnp.stack(a, 0), *layers)`" in text
    # As the message says:
    layers = [load(Block(), block, X)[0] for block in blocks]
    joined = jax.tree.map(lambda *a: jnp.stack(a, 0), *layers)
    variables = {name: {"layers": tree} for name, tree in joined.items()}
    expected = X
    for layer in layers:
        expected, _ = Block().apply(layer, expected)
    found = Scanned().apply(variables, X)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)
