"""Keys of values that are static arguments."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey._static import static_key


@dataclasses.dataclass
class Config:
    size: Any = 1


@dataclasses.dataclass(frozen=True)
class Frozen:
    size: Any = 1


@dataclasses.dataclass(eq=False)
class Thing:
    size: Any = 1


Pair = collections.namedtuple("Pair", "a b")
first = functools.partial(nn.relu)

SAME = [
    lambda: {"k", "j"},
    lambda: [1, {2}, {"a": [3.0]}],
    lambda: np.arange(3),
    lambda: jnp.arange(3.0),
    lambda: Config([1]),
    lambda: Frozen([1]),
    lambda: nn.Dense(2, kernel_init=nn.initializers.ones),
    lambda: nn.WeightNorm(nn.Dense(2)),
    lambda: float("nan"),
    lambda: slice(1, None),
    lambda: bytearray(b"ab"),
    lambda: collections.OrderedDict(a=1),
    lambda: first,
    lambda: np.dtype("float32"),
]


@pytest.mark.parametrize("make", SAME)
def test_values_that_are_built_alike_have_equal_keys(make):
    one, two = static_key(make()), static_key(make())
    assert one == two
    assert hash(one) == hash(two)


OTHERS = [
    (1, 1.0, True, np.int32(1), np.float32(1)),
    (0.0, -0.0, 0j),
    ((1,), [1], (1.0,), {1}, Pair(1, 1)),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # programs see the order
    (Config(1), Config(1.0), Frozen(1), Frozen(1.0), Frozen(Frozen(1))),
    (Thing(), Thing()),
    (nn.Dense(1), nn.Dense(True), nn.Dense(1, name="a"), nn.Dense(1.0)),
    (np.ones(2), np.ones((2, 1)), np.ones(2, np.float32), jnp.ones(2)),
    (lambda: 0, lambda: 0),
]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("values", OTHERS)
def test_values_that_differ_for_a_program_have_other_keys(values):
    assert len(set(map(static_key, values))) == len(values)


def test_a_value_that_was_changed_has_another_key():
    for value, change in [
        (Config([1]), lambda v: v.size.append(2)),
        (np.zeros(2), lambda v: v.fill(1)),
        ({"a": [1]}, lambda v: v["a"].append(2)),
    ]:
        before = static_key(value)
        change(value)
        assert static_key(value) != before


def test_a_bound_module_is_equal_to_itself_only():
    bound, other = nn.Dense(2).bind({}), nn.Dense(2).bind({})
    assert static_key(bound) == static_key(bound)
    assert static_key(bound) != static_key(other)


def test_what_is_no_constant_is_refused():
    with pytest.raises(TypeError, match="traced"):
        jax.make_jaxpr(lambda x: static_key([x]))(1.0)
