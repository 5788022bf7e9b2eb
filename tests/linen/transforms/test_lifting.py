"""What can be lifted and what a lifted module sees, against Flax."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees

STACKED = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
TRANSFORMS = {
    "jit": {},
    "remat": {},
    "vmap": {**STACKED, "in_axes": None, "axis_size": 2},
    "fold_rngs": {},
    "map_variables": {"init": True},
    "remat_scan": {"lengths": (2,)},
    "add_metadata_axis": {"variable_axes": {"params": 0}},
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@agrees(ulps=8, ordered=False)
def test_a_partial_of_a_class_is_lifted_as_the_class(nn, transform):
    part = functools.partial(nn.Dense, 3, use_bias=False)
    lifted = getattr(nn, transform)(part, **TRANSFORMS[transform])

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return lifted()(x) + lifted(dtype=jnp.float32, name="named")(x)

    abstract = jax.eval_shape(Net().init, KEY, X)
    return abstract, lifted.args, lifted.keywords, lifted.func.__name__


@agrees(ulps=8)
def test_partials_of_partials_and_of_lifted_classes(nn):
    inner = functools.partial(nn.Dense, use_bias=False)
    mapped = nn.vmap(functools.partial(inner, dtype=jnp.float32), **STACKED)
    return nn.remat(functools.partial(mapped, features=4))(features=3).init(
        KEY, X[None]
    )


@agrees(ulps=8)
def test_dictionaries_in_fields_are_seen_in_order_inside(nn):
    class Net(nn.Module):
        parts: Any
        plain: Any

        def __call__(self, x):
            return self.inside(x), tuple(self.parts), tuple(self.plain)

        @nn.remat
        def inside(self, x):
            for name in self.parts:
                x = self.parts[name](x)
            return x, jnp.array(list(self.plain.values()))

    model = Net({"z": nn.Dense(3), "y": nn.Dense(3)}, {"b": 1.0, "a": 2.0})
    return model.init_with_output(KEY, X)


def test_keys_without_an_order_stay_as_they_are():
    nn = linsey.linen

    class Net(nn.Module):
        table: Any

        @nn.remat
        def __call__(self, x):
            return x * len(self.table), jnp.array(list(self.table.values()))

    assert Net({"b": 1.0, 2: 3.0}).apply({}, X)[1].tolist() == [1.0, 3.0]


@agrees(ulps=8)
def test_keys_of_what_was_written_are_in_order(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            branch = lambda mdl, x: mdl(x)  # noqa: E731
            self.variable("state", "pair", lambda: {"z": 1.0, "a": 2.0})
            return nn.switch(0, [branch], nn.Dense(2), nn.Dense(3)(x))

    mapped = nn.map_variables(Net, ("state", "params"), init=True, mutable=True)
    models = nn.fold_rngs(Net)(), mapped()
    return [(v := m.init(KEY, X), m.apply(v, X, mutable=True)) for m in models]


@pytest.mark.parametrize("transform", ["jit", "remat"])
@agrees
def test_a_lifted_compact_method_may_be_marked_with_nowrap(nn, transform):
    class Block(nn.Module):
        @getattr(nn, transform)
        @nn.compact
        @nn.nowrap
        def __call__(self, x):
            return nn.Dense(3)(x)

    return Block().init(KEY, X)


def test_a_variable_outside_may_not_have_the_name_of_a_submodule_inside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("n", nn.initializers.ones, ())
            return nn.remat(lambda m, x: nn.Dense(3, name="n")(x))(self, x)

    expected = 'Could not create submodule "n" in Module /: Name in use'
    with pytest.raises(errors.NameInUseError, match=expected):
        Net().init(KEY, X)
