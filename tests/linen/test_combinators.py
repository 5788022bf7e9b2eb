"""Sequential against Flax: trees, what flows between layers, and misuse."""

from __future__ import annotations

import collections
from typing import NamedTuple

import flax.linen
import jax.numpy as jnp
import pytest

import linsey.linen as nn
from linsey.errors.base import OptionError
from tests.linen.differential import KEYS, assert_close, assert_same_bits, normal

LIBRARIES = (flax.linen, nn)


class Pair(NamedTuple):
    first: float
    second: float


def chain(lib):
    return lib.Sequential(
        [
            lib.Dense(2),
            lib.relu,
            lambda x: lib.Dense(x.shape[-1] + 1)(x),
            lib.Dense(4, name="named"),
        ]
    )


def shared(lib):
    layer = lib.Dense(3)
    return lib.Sequential((layer, lib.tanh, layer))


def inner(lib):
    class Model(lib.Module):
        @lib.compact
        def __call__(self, x):
            return lib.Sequential([lib.Sequential([lib.Dense(2)]), lib.Dense(3)])(x)

    return Model()


def in_setup(lib):
    class Model(lib.Module):
        def setup(self):
            self.body = lib.Sequential([lib.Dense(2), lib.relu, lib.Dense(3)])

        def __call__(self, x):
            return self.body(x)

    return Model()


@pytest.mark.parametrize("build", [chain, shared, inner, in_setup])
def test_sequential_has_the_tree_of_flax(build):
    x = normal(2, 3)
    (expected, theirs), (found, ours) = (
        build(lib).init_with_output(KEYS, x) for lib in LIBRARIES
    )
    assert_same_bits(theirs, ours)
    assert_close(expected, found)
    assert_close(expected, build(nn).apply(theirs, x))


@pytest.mark.parametrize(
    "layers",
    [
        [lambda x: (x, 2 * x), lambda a, b: {"u": a, "v": b}, lambda u, v: u - v],
        [lambda x: [x, x], len],
        [lambda x: Pair(x, 3.0), lambda *args: args],
        [lambda x: collections.OrderedDict(u=x), lambda **kwargs: list(kwargs)],
        [
            lambda x: flax.core.freeze({"u": x}),
            lambda *args, **kw: (len(args), len(kw)),
        ],
        [lambda x, scale=1.0: x * scale, lambda x: x + 1],
    ],
)
def test_outputs_become_arguments_as_in_flax(layers):
    kwargs = {"scale": 3.0} if len(layers) == 2 and layers[0].__defaults__ else {}
    expected, found = (
        lib.Sequential(layers).apply({}, 2.0, **kwargs) for lib in LIBRARIES
    )
    assert found == expected


def test_a_first_layer_may_take_nothing():
    assert nn.Sequential([lambda: 3, lambda x: x + 1]).apply({}) == 4


def test_layers_must_be_a_sequence():
    for layers in (nn.Dense(2), (layer for layer in ())):
        with pytest.raises(OptionError, match="must be a sequence") as error:
            nn.Sequential(layers)
        assert isinstance(error.value, ValueError)


def test_a_chain_needs_a_layer():
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="Empty Sequential module"):
            lib.Sequential([]).init(KEYS, jnp.ones(3))
