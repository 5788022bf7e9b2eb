"""The full text of every error of layers, provoked through the public interface."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.core.nn
import linsey.core.spmd
import linsey.linen as nn
from linsey import core
from linsey.errors import LinseyError
from linsey.linen.experimental import layers_with_named_axes

KEY = jax.random.key(0)
X = jnp.ones((1, 4, 4))
IMAGE = jnp.ones((1, 4, 4, 3))
QUERY = jnp.ones((1, 2, 1, 4))
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
with_axes = nn.partitioning

PROGRAMS: dict[str, tuple[type[Exception], Callable[[], object]]] = {}


def mistake(name: str, caught_as: type[Exception], program: Callable[[], object]):
    """Register a program under what is wrong, with what programs for Flax catch."""
    assert name not in PROGRAMS
    PROGRAMS[name] = caught_as, program


def init(layer, *inputs, **options):
    return layer.init({"params": KEY, "dropout": KEY}, *inputs, **options)


def scoped(function, *args, **options):
    """Run a layer of `core.nn`."""
    return core.init(lambda scope: function(scope, *args, **options))(KEY)


# -- convolution and pooling ---------------------------------------------------------

mistake("too few axes", ValueError, lambda: init(nn.Conv(2, (3, 3)), X[0]))
mistake("a scalar", ValueError, lambda: init(nn.Dense(2), jnp.ones(())))
mistake(
    "padding of another form",
    ValueError,
    lambda: init(nn.Conv(2, (3, 3), padding=(1,)), IMAGE),
)
mistake(
    "padding of another name",
    RuntimeError,
    lambda: init(nn.ConvTranspose(2, (3,), padding="REFLECT"), X),
)
mistake(
    "causal padding over two axes",
    ValueError,
    lambda: init(nn.Conv(2, (3, 3), padding="CAUSAL"), IMAGE),
)
mistake(
    "named padding of a dilated input",
    ValueError,
    lambda: init(nn.Conv(2, (3, 3), input_dilation=(2, 1)), IMAGE),
)
mistake(
    "one stride for two axes",
    ValueError,
    lambda: init(nn.Conv(2, (3, 3), strides=(2,)), IMAGE),
)
mistake(
    "a mask of another shape",
    ValueError,
    lambda: init(nn.Conv(4, (3,), mask=jnp.ones((3, 3))), X),
)
mistake(
    "groups that do not divide the inputs",
    AssertionError,
    lambda: init(nn.Conv(4, (3, 3), feature_group_count=2), IMAGE),
)
mistake(
    "groups of a local convolution",
    NotImplementedError,
    lambda: init(nn.ConvLocal(4, (3,), feature_group_count=2), X),
)
mistake(
    "pooling with a stride too few",
    AssertionError,
    lambda: nn.max_pool(IMAGE, (2, 2), strides=(2,)),
)
mistake(
    "pooling with a number for strides",
    TypeError,
    lambda: nn.max_pool(IMAGE, (2, 2), strides=2),
)
mistake("pooling over a number", TypeError, lambda: nn.max_pool(IMAGE, 2))
mistake(
    "pooling over too many axes",
    AssertionError,
    lambda: nn.max_pool(IMAGE, (2, 2, 2, 2)),
)

# -- linear maps and tables ----------------------------------------------------------

mistake(
    "an axis that is not there",
    IndexError,
    lambda: init(nn.DenseGeneral(2, axis=3), X[0]),
)
mistake(
    "batch axes that do not lead",
    ValueError,
    lambda: init(nn.DenseGeneral(2, batch_dims=(1, 2)), IMAGE),
)
mistake(
    "an equation without arrow",
    ValueError,
    lambda: init(nn.Einsum((2, 3), "ab,bc"), jnp.ones((3, 2))),
)
mistake(
    "an equation of one operand",
    ValueError,
    lambda: init(nn.Einsum((2, 3), "ab->a"), jnp.ones((3, 2))),
)
mistake(
    "an equation with too many axes",
    ValueError,
    lambda: init(nn.Einsum((2, 3), "ab,bcd->acd"), jnp.ones((3, 2))),
)
mistake("an integer dtype", ValueError, lambda: init(nn.Dense(2, dtype=int), X))
mistake("numbers that are no integers", ValueError, lambda: init(nn.Embed(5, 2), X))
mistake(
    "numbers that are no integers, with named axes",
    ValueError,
    lambda: init(layers_with_named_axes.Embed(5, 2), X),
)
mistake(
    "numbers that are no integers, in the core",
    ValueError,
    lambda: linsey.core.nn.Embedding(jnp.ones((5, 2))).lookup(X),
)

# -- attention -----------------------------------------------------------------------

mistake(
    "features that the heads do not divide",
    AssertionError,
    lambda: init(nn.MultiHeadDotProductAttention(3, qkv_features=8), X),
)
mistake(
    "one einsum function of two",
    ValueError,
    lambda: nn.dot_product_attention(
        QUERY, QUERY, QUERY, qk_attn_weights_einsum=jnp.einsum
    ),
)
mistake(
    "an einsum function and a precision",
    ValueError,
    lambda: nn.dot_product_attention_weights(
        QUERY, QUERY, precision="highest", einsum=jnp.einsum
    ),
)
mistake(
    "two einsum functions and a precision",
    ValueError,
    lambda: nn.dot_product_attention(
        QUERY,
        QUERY,
        QUERY,
        precision="highest",
        qk_attn_weights_einsum=jnp.einsum,
        attn_weights_value_einsum=jnp.einsum,
    ),
)
mistake(
    "values without keys",
    ValueError,
    lambda: init(nn.MultiHeadDotProductAttention(2), X, inputs_v=X),
)
mistake(
    "keys in two arguments",
    ValueError,
    lambda: init(nn.MultiHeadDotProductAttention(2), X, X, inputs_kv=X),
)
mistake(
    "a mask that does not broadcast",
    ValueError,
    lambda: nn.dot_product_attention(QUERY, QUERY, QUERY, mask=jnp.ones((3, 4))),
)
mistake(
    "keys of another rank",
    AssertionError,
    lambda: nn.dot_product_attention_weights(QUERY, QUERY[0]),
)
mistake(
    "masks of two ranks",
    AssertionError,
    lambda: nn.combine_masks(jnp.ones(2), jnp.ones((1, 2))),
)


def decode_three_elements():
    layer = nn.MultiHeadDotProductAttention(2, decode=True)
    return layer.apply(init(layer, X), X[:, :3], mutable=["cache"])


mistake("three elements for the cache", ValueError, decode_three_elements)
mistake(
    "attention over the batch axis",
    ValueError,
    lambda: scoped(
        linsey.core.nn.multi_head_dot_product_attention, X, X, 2, attention_axis=0
    ),
)
mistake(
    "a cache in the core",
    NotImplementedError,
    lambda: scoped(
        linsey.core.nn.multi_head_dot_product_attention, X, X, 2, cache=True
    ),
)

# -- other layers --------------------------------------------------------------------

mistake("a scan over no time", ValueError, lambda: init(nn.RNN(nn.GRUCell(2)), X[0, 0]))
mistake(
    "a cell without a first carry",
    NotImplementedError,
    lambda: nn.RNNCellBase().initialize_carry(KEY, (1, 2)),
)
mistake(
    "a cell without a number of axes",
    NotImplementedError,
    lambda: nn.RNNCellBase().num_feature_axes,
)
mistake(
    "a rate that is no probability",
    ValueError,
    lambda: init(nn.Dropout(1.5, deterministic=False), X),
)
mistake(
    "a rate of attention dropout that is no probability",
    ValueError,
    lambda: init(nn.MultiHeadAttention(2, dropout_rate=1.5, deterministic=False), X),
)


def decode_too_much():
    layer = nn.MultiHeadAttention(num_heads=2, decode=True)
    variables = init(layer, X)
    variables["cache"]["cache_index"] += 4
    layer.apply(variables, X[:, :1], mutable=["cache"])


mistake("a full cache", Exception, decode_too_much)
mistake(
    "a mask without an axis for the heads",
    ValueError,
    lambda: init(
        nn.MultiHeadAttention(2), jnp.ones((3, 4, 4)), mask=jnp.ones((3, 4, 4))
    ),
)
mistake(
    "dropout along an axis that is not there",
    IndexError,
    lambda: init(nn.Dropout(0.5, broadcast_dims=(3,), deterministic=False), X),
)
mistake("an empty chain", ValueError, lambda: init(nn.Sequential([]), X))
mistake(
    "a chain of one layer that is no list",
    ValueError,
    lambda: nn.Sequential(nn.Dense(2)),
)
mistake(
    "too few axes to merge",
    ValueError,
    lambda: nn.BatchApply(lambda x: x)(jnp.ones(3)),
)
mistake(
    "a spectral norm of what is no matrix",
    ValueError,
    lambda: init(
        nn.SpectralNorm(nn.Conv(4, (3,)), error_on_non_matrix=True),
        X,
        update_stats=True,
    ),
)
mistake(
    "two numbers for the groups",
    ValueError,
    lambda: scoped(linsey.core.nn.group_norm, X, 2, 2),
)
mistake(
    "groups that do not divide the channels",
    ValueError,
    lambda: scoped(linsey.core.nn.group_norm, X, 3),
)

# -- names of axes -------------------------------------------------------------------

mistake(
    "one name for two axes",
    ValueError,
    lambda: nn.logical_to_mesh_axes(("in", "in"), ()),
)
mistake(
    "rules that are no sequence",
    ValueError,
    lambda: nn.logical_to_mesh_axes(("batch",), {"batch": "data"}),
)
mistake(
    "rules that contradict each other",
    ValueError,
    lambda: linsey.core.spmd.composite_rules((("batch", "data"),), (("batch", "x"),)),
)
mistake(
    "a name without a rule",
    ValueError,
    lambda: nn.with_logical_constraint(
        jnp.ones((2, 3)),
        ("batch", "embed"),
        (("batch", "data"),),
        MESH,
        nn.spmd.RulesFallback.RAISE_ERROR,
    ),
)
mistake(
    "names without a mesh",
    ValueError,
    lambda: linsey.core.spmd.shard_value(X, ("data", None, None), (), None),
)


class Scale(nn.Module):
    """A parameter whose axis has a name."""

    name_of_axis: str = "embed"

    @nn.compact
    def __call__(self, x):
        make, axes = nn.initializers.ones, (self.name_of_axis,)
        return x * with_axes.param_with_axes("scale", make, (4,), axes=axes)


mistake(
    "other names than the stored ones",
    ValueError,
    lambda: Scale("other").apply(init(Scale(), X), X, mutable=True),
)
mistake(
    "what is no names among names",
    AssertionError,
    lambda: Scale().apply(
        {**init(Scale(), X), "params_axes": {"scale_axes": 3}}, X, mutable=True
    ),
)
mistake(
    "what is no names, taken out",
    AttributeError,
    lambda: with_axes.get_axis_names({"scale_axes": 3}),
)
mistake(
    "names outside of a module",
    AssertionError,
    lambda: with_axes.param_with_axes("a", nn.initializers.ones, (3,), axes=("b",)),
)


# -- the laws ------------------------------------------------------------------------

TEXTS = (Path(__file__).parent / "layer_error_messages.txt").read_text()
MESSAGES = dict(entry.split("\n", 1) for entry in TEXTS.rstrip("\n").split("\n\n"))


def provoked(name: str) -> LinseyError:
    with pytest.raises(LinseyError) as caught:
        PROGRAMS[name][1]()
    return caught.value


def test_every_text_has_a_program():
    assert MESSAGES.keys() == PROGRAMS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_full_text(name):
    error = provoked(name)
    assert f"{type(error).__name__}: {error}" == MESSAGES[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_error_has_three_parts_is_caught_as_in_flax_and_travels(name):
    error = provoked(name)
    assert all((error.found, error.why, error.fix))
    assert isinstance(error, PROGRAMS[name][0])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
