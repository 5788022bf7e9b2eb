"""All modules with sizes that are not known until the program runs (`jax.export`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import linsey.linen as nn
from tests.laws.table import CASES, normal

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", CASES)
def test_the_size_of_the_batch_may_be_symbolic(name):
    case = CASES[name]
    variables = jax.eval_shape(case.init)
    (batch,) = export.symbolic_shape("batch")
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), case.args
    )
    y, _ = jax.eval_shape(case.apply, variables, *args)
    assert all(leaf.shape[0] == batch for leaf in jax.tree.leaves(y))


def masked(x):
    mask = nn.make_causal_mask(x[..., 0])
    return nn.MultiHeadDotProductAttention(2)(x, mask=mask)


def with_lengths(x):
    rnn = nn.RNN(nn.GRUCell(4), reverse=True, keep_order=True, return_carry=True)
    return rnn(x, seq_lengths=jnp.full(x.shape[:1], 2))[1]


LAYERS = {
    "masked": masked,
    "lengths": with_lengths,
    "two ways": lambda x: nn.Bidirectional(
        nn.RNN(nn.GRUCell(2)), nn.RNN(nn.GRUCell(2))
    )(x),
    "strided": lambda x: nn.Conv(4, (3,), strides=2)(x),
    "circular": lambda x: nn.Conv(4, (3,), padding="CIRCULAR")(x),
    "reflected": lambda x: nn.Conv(4, (3,), padding="REFLECT")(x),
    "causal": lambda x: nn.Conv(4, (3,), padding="CAUSAL")(x),
    "transposed": lambda x: nn.ConvTranspose(4, (3,), (2,))(x),
    "counted": lambda x: nn.avg_pool(x, (2,), (2,), "SAME", count_include_pad=False),
    "largest": lambda x: nn.max_pool(x, (2,), (2,), "SAME"),
    "dropped": lambda x: nn.Dropout(0.5, (1,), deterministic=False)(x),
}


COPIED = "lengths", "circular", "reflected", "counted"


class Layer(nn.Module):
    name_of_layer: str

    @nn.compact
    def __call__(self, x):
        return LAYERS[self.name_of_layer](x)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", LAYERS)
def test_lengths_may_be_symbolic(name):
    x, layer = normal(2, 5, 4), Layer(name)
    keys = {"params": KEY, "dropout": KEY}
    variables = jax.jit(layer.init)(keys, x)
    b, n = export.symbolic_shape("b, n", constraints=["n >= 2"])

    def apply(x):
        return layer.apply(variables, x, rngs={"dropout": KEY})

    shapes = jax.ShapeDtypeStruct((b, n, 4), jnp.float32)
    exported = export.export(jax.jit(apply))(shapes)
    if name in COPIED:  # the others compute the same as with known sizes
        np.testing.assert_allclose(exported.call(x), apply(x), atol=1e-5)


def test_the_largest_of_windows_has_a_gradient_at_symbolic_lengths():
    (n,) = export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((1, n, 2), jnp.float32)
    gradient = jax.grad(lambda x: nn.max_pool(x, (2,), (2,)).sum())
    assert jax.eval_shape(gradient, x).shape == x.shape
