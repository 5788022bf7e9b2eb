"""Lifted modules among others: captured, shared, nested, set up, drawn from."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.compat.agreement import KEY, X, agrees

X3 = jnp.linspace(-1.0, 1.0, 18).reshape(3, 2, 3)
KEYS = {"params": KEY, "dropout": jax.random.key(2)}
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


def block(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            return nn.tanh(nn.Dense(3)(x)), None

    return Block


@agrees(ulps=8)
def test_intermediates_are_captured_inside(nn):
    axes = {"params": 0, "intermediates": 0}
    options = {"variable_axes": axes, "split_rngs": {"params": True}}
    mapped = nn.vmap(block(nn), out_axes=(0, None), **options)()
    scanned = nn.scan(block(nn), length=2, **options)()
    again = nn.remat(block(nn))()
    results = []
    for model, args in ((mapped, (X3,)), (scanned, (X, None)), (again, (X,))):
        variables = model.init(KEY, *args)
        results.append(model.apply(variables, *args, capture_intermediates=True))
    return results


@agrees(ulps=8)
def test_a_filter_chooses_what_is_captured(nn):
    class Net(nn.Module):
        def setup(self):
            self.blocks = [nn.remat(block(nn))() for _ in range(2)]

        def __call__(self, x):
            for layer in self.blocks:
                x, _ = layer(x)
            return x

    variables = Net().init(KEY, X)
    dense = lambda module, name: isinstance(module, nn.Dense)  # noqa: E731
    return variables, Net().apply(variables, X, capture_intermediates=dense)


@agrees(ulps=8)
def test_one_lifted_class_is_lifted_again_and_used_as_it_is(nn):
    once = nn.vmap(nn.Dense, **OWN)
    twice = nn.vmap(once, in_axes=None, axis_size=2, **OWN)
    return [cls(2).init(KEY, X3) for cls in (once, twice, nn.remat(once), once)]


@agrees(ulps=8)
def test_perturbations_of_every_step(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return self.perturb("hidden", nn.Dense(3)(x)), None

    axes = {"params": 0, "perturbations": 0}
    model = nn.scan(Step, variable_axes=axes, split_rngs={"params": True}, length=2)()
    variables = model.init(KEY, X, None)
    loss = lambda v: jnp.sum(model.apply(v, X, None)[0])  # noqa: E731
    return variables, jax.grad(loss)(variables)


@pytest.mark.parametrize("split", [True, False])
@agrees(ulps=8)
def test_dropout_in_steps_and_instances(nn, split):
    class Drop(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            x = nn.remat(nn.Dense)(8)(x)
            return nn.Dropout(0.5)(x, deterministic=False), None

    streams = {"params": False, "dropout": split}
    scanned = nn.scan(Drop, variable_broadcast="params", split_rngs=streams, length=2)()
    mapped = nn.vmap(
        nn.remat(Drop),
        variable_axes={"params": None},
        split_rngs=streams,
        out_axes=(0, None),
    )()
    x = jnp.ones((3, 2, 8))
    return scanned.init_with_output(KEYS, x[0], None), mapped.init_with_output(KEYS, x)


@agrees(ulps=8)
def test_a_function_sees_the_variables_made_so_far(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)

            def inside(module, x):
                y = nn.Dense(2)(x)
                return y, module.variables

            y, seen = nn.remat(inside)(self, x)
            return y, seen, self.variables, nn.Dense(2)(y)

    variables = Net().init(KEY, X)
    return variables, Net().apply(variables, X)


@agrees(ulps=8)
def test_a_lifted_module_shares_the_scope_of_its_owner(nn):
    class Outer(nn.Module):
        def setup(self):
            self.inner = nn.remat(block(nn))()
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return self.inner(x)[0]

    return Outer().init_with_output(KEY, X)


@agrees(ulps=8, ordered=False)
def test_a_module_is_shared_by_two_lifted_ones(nn):
    class Use(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x):
            return self.layer(x) + nn.Dense(3)(x)

    class Inside(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3, name="shared")
            x = nn.remat(Use)(layer)(x)
            return layer(nn.remat(Use)(layer)(x))

    class Outside(nn.Module):
        a: Any
        b: Any

        @nn.compact
        def __call__(self, x):
            return self.b(self.a(x))

    layer = nn.Dense(3)
    fields = Outside(nn.remat(Use)(layer), nn.remat(Use)(layer))
    results = []
    for model in (Inside(), fields):
        variables = model.init(KEY, X)
        results.append((variables, model.apply(variables, X)))
    return results


@agrees(ulps=8)
def test_lifted_modules_in_containers(nn):
    class Net(nn.Module):
        def setup(self):
            many = nn.vmap(nn.Dense, **OWN)
            self.layers = [many(3) for _ in range(2)]
            self.table = {"a": many(3), "b": {"c": nn.remat(nn.Dense)(3)}}

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.table["b"]["c"](self.table["a"](x))

    sequence = nn.Sequential([nn.remat(nn.Dense)(3), nn.tanh, nn.remat(nn.Dense)(2)])
    return Net().init_with_output(KEY, X3), sequence.init_with_output(KEY, X)


@agrees(ulps=8)
def test_mapped_parameters_in_every_step(nn):
    tanh = functools.partial(jax.tree.map, jnp.tanh)

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.map_variables(nn.Dense, "params", tanh, init=True)(3)(x), None

    return nn.scan(Step, length=2, **OWN)().init_with_output(KEY, X, None)


@agrees(ulps=8)
def test_loops_that_are_set_up(nn):
    class Cell(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def __call__(self, carry, x):
            return self.layer(carry) + x, carry

    class Net(nn.Module):
        def setup(self):
            shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
            self.shared = nn.scan(Cell, **shared)()
            self.stacked = nn.scan(Cell, **OWN)()

        def __call__(self, carry, xs):
            return self.stacked(*self.shared(carry, xs))

    return Net().init_with_output(KEY, X, X3)


@agrees(ulps=8)
def test_lifted_methods_that_call_each_other_are_lifted_once(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def once(self, x):
            return self.layer(x)

        def twice(self, x):
            return self.once(self.once(x))

        def __call__(self, x):
            return self.twice(x)

    model = nn.vmap(Net, methods=["once", "twice", "__call__"], **OWN)()
    variables = model.init(KEY, X3)
    return [
        variables,
        model.apply(variables, X3),
        model.apply(variables, X3, method="once"),
        model.apply(variables, X3, method=model.twice),
    ]


@agrees(ulps=8)
def test_values_are_sown_in_the_branch_that_runs(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            layer(x)

            def yes(layer, x):
                layer.sow("intermediates", "seen", x)
                return layer(x)

            def no(layer, x):
                layer.sow("intermediates", "seen", 2 * x)
                return x

            return nn.cond(x[0, 0] > 0, yes, no, layer, x)

    variables = Net().init(KEY, X)
    return variables, Net().apply(variables, X, mutable=["intermediates"])


@agrees(ulps=256)  # Flax's own variance is that far from the exact one
def test_instances_share_synchronized_statistics(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            return nn.BatchNorm(False, axis_name="batch", momentum=0.5)(x)

    model = nn.vmap(
        Net,
        variable_axes={"params": None, "batch_stats": None},
        split_rngs={"params": False},
        axis_name="batch",
    )()
    variables = model.init(KEY, X3)
    return variables, model.apply(variables, X3, mutable=["batch_stats"])


@agrees(ulps=8)
def test_paths_inside_are_those_outside(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def inside(module, x):
                layer = nn.Dense(2)
                return layer(x), [len(layer.path), len(module.path)]

            return nn.remat(inside)(self, x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Net()(x)

    return Top().init_with_output(KEY, X)
