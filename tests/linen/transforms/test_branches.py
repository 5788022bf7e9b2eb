"""`nn.cond` and `nn.switch` against Flax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses


def two_ways(nn):
    """A module that chooses one of two layers."""

    class TwoWays(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(2), nn.Dense(2)

        def __call__(self, which, x):
            if self.is_initializing():
                return self.a(x) + self.b(x)
            return nn.cond(
                which, lambda mdl, x: mdl.a(x), lambda mdl, x: mdl.b(x), self, x
            )

    return TwoWays


@pytest.mark.parametrize("which", [True, False])
@agrees(ulps=8)
def test_cond_chooses_a_layer(nn, which):
    model = two_ways(nn)()
    variables = model.init(KEY, which, X)
    loss = lambda v: jnp.sum(model.apply(v, which, X) ** 2)  # noqa: E731
    return variables, model.apply(variables, which, X), jax.grad(loss)(variables)


@agrees(ulps=8)
def test_cond_by_a_traced_condition(nn):
    model = two_ways(nn)()
    variables = model.init(KEY, True, X)
    run = jax.jit(model.apply)
    return run(variables, X[0, 0] > 0, X), run(variables, X[0, 0] < 0, X)


@pytest.mark.parametrize("index", [0, 1, 2, 7])
@agrees(ulps=8)
def test_switch_chooses_a_layer(nn, index):
    class Ways(nn.Module):
        def setup(self):
            self.ways = [nn.Dense(2) for _ in range(3)]

        def __call__(self, index, x):
            if self.is_initializing():
                return [way(x) for way in self.ways]
            branches = [lambda mdl, x, i=i: mdl.ways[i](x) for i in range(3)]
            return nn.switch(index, branches, self, x)

    variables = Ways().init(KEY, index, X)
    return variables, Ways().apply(variables, index, X)


@pytest.mark.parametrize("which", [True, False])
@agrees(ulps=8)
def test_branches_write_state(nn, which):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, which, x):
            self.variable("state", "yes", lambda: jnp.zeros(()))
            self.variable("state", "no", lambda: jnp.zeros(()))

            def count(name):
                def branch(mdl, x):
                    old = mdl.get_variable("state", name)
                    mdl.put_variable("state", name, old + 1)
                    return x

                return branch

            return nn.cond(which, count("yes"), count("no"), self, x)

    variables = Net().init(KEY, which, X)
    return variables, Net().apply(variables, which, X, mutable=["state"])


@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_batch_norm_in_a_branch_is_updated_if_it_runs(nn):
    class Net(nn.Module):
        def setup(self):
            self.norm = nn.BatchNorm(use_running_average=False, momentum=0.5)

        def __call__(self, which, x):
            if self.is_initializing():
                return self.norm(x)
            return nn.cond(which, lambda mdl, x: mdl.norm(x), lambda mdl, x: x, self, x)

    variables = Net().init(KEY, True, X)
    return [
        Net().apply(variables, which, X, mutable=["batch_stats"])
        for which in (True, False)
    ]


@agrees
def test_branches_draw_keys(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, which):
            def draw(mdl):
                return jax.random.bits(mdl.make_rng("noise"), ())

            def draw_twice(mdl):
                draw(mdl)
                return draw(mdl)

            one = nn.cond(which, draw, draw_twice, self)
            return one, jax.random.bits(self.make_rng("noise"), ())

    return [Net().apply({}, which, rngs={"noise": KEY}) for which in (True, False)]


@agrees(ulps=8)
def test_operands_may_be_trees_and_none(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, which, pair):
            first = nn.cond(
                which,
                lambda mdl, pair: pair["a"],
                lambda mdl, pair: pair["b"] * 2,
                self,
                pair,
            )
            return first, nn.cond(which, lambda mdl: 1.0, lambda mdl: 2.0, self)

    return [Net().apply({}, w, {"a": X, "b": X}) for w in (True, False)]


def test_several_modules():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, which, x):
            layers = {"a": nn.Dense(2), "b": nn.Dense(2)}
            if self.is_initializing():
                return [layers["a"](x), layers["b"](x)]
            ways = [lambda layers, x, i=i: layers[i](x) for i in "ab"]
            return nn.cond(which, *ways, layers, x)

    both, variables = Net().init_with_output(KEY, True, X)
    for which, expected in zip((True, False), both, strict=True):
        found = Net().apply(variables, which, X)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@agrees
def test_filters_hide_collections_and_streams(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, filters):
            def look(mdl):
                return mdl.has_variable("state", "a") + 2 * mdl.has_rng("noise")

            return nn.cond(True, look, look, self, **filters)

    given, rngs = {"state": {"a": X}}, {"noise": KEY}
    options = [{}, {"variables": "params"}, {"rngs": "params"}]
    return [Net().apply(given, filters, rngs=rngs) for filters in options]


@refuses(wording=False)
def test_branches_must_return_the_same_structure(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.cond(True, lambda m, x: x, lambda m, x: (x, x), self, x)

    return Net().apply({}, X)


@refuses(wording=False)
def test_branches_must_write_the_same_variables(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.cond(
                True, lambda m, x: nn.Dense(2)(x), lambda m, x: x[:, :2], self, x
            )

    return Net().init(KEY, X)


@agrees(ulps=8)
def test_bound_methods_may_be_branches(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def way(self, x):
            return self.layer(x)

        def __call__(self, x):
            return nn.cond(True, self.way, self.way, self, x)

    return Net().init_with_output(KEY, X)


@refuses(wording=False)
def test_a_class_is_no_branch(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.cond(True, nn.Dense, nn.Dense, self, x)

    return Net().init(KEY, X)


def test_a_value_of_a_branch_cannot_escape_to_the_module_outside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def leak(mdl, x):
                self.put_variable("state", "x", x)
                return x

            return nn.cond(x[0, 0] > 0, leak, lambda mdl, x: x, self, x)

    with pytest.raises(errors.JaxTransformError):
        Net().apply({}, X, mutable=["state"])
