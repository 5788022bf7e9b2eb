"""Sharing and adoption: the same object met twice has the same variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses


@agrees
def test_a_module_in_a_field_is_adopted_under_the_name_of_the_field(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    return Wrap(nn.Dense(2)).init_with_output(KEY, X)


@agrees
def test_a_named_module_in_a_field(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x), self.inner.name

    return Wrap(nn.Dense(2, name="given")).init_with_output(KEY, X)


@agrees
def test_preserve_adopted_names_keeps_a_given_name(nn, config):
    class Wrap(nn.Module):
        inner: Any
        other: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x) + self.other(x)

    with config.temp_flip_flag("preserve_adopted_names", True):
        return Wrap(nn.Dense(2, name="given"), nn.Dense(2)).init(KEY, X)


@agrees
def test_a_class_can_preserve_adopted_names(nn):
    class Wrap(nn.Module):
        preserve_adopted_names = True
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    return Wrap(nn.Dense(2, name="given")).init(KEY, X)


@agrees
def test_one_module_in_two_fields_has_one_set_of_parameters(nn):
    class Wrap(nn.Module):
        a: Any
        b: Any

        @nn.compact
        def __call__(self, x):
            return self.b(self.a(x)), self.a is self.b

    layer = nn.Dense(3)
    return Wrap(layer, layer).init_with_output(KEY, X)


@agrees
def test_equal_modules_in_two_fields_are_two(nn):
    class Wrap(nn.Module):
        a: Any
        b: Any

        @nn.compact
        def __call__(self, x):
            return self.b(self.a(x)), self.a is self.b

    return Wrap(nn.Dense(3), nn.Dense(3)).init_with_output(KEY, X)


@agrees
def test_a_module_shared_by_two_children_lives_in_the_first_that_is_bound(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(3)
            return Wrap(shared)(x) + Wrap(shared)(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_an_outer_module_shared_by_two_children(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        shared: Any

        @nn.compact
        def __call__(self, x):
            return Wrap(self.shared)(x) + Wrap(self.shared)(x)

    return Top(nn.Dense(3)).init_with_output(KEY, X)


@agrees
def test_a_module_made_outside_and_used_by_two_children(nn):
    shared = nn.Dense(3)

    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrap(shared)(x) + Wrap(shared)(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_a_module_made_outside_and_assigned_in_setup(nn):
    shared = nn.Dense(3)

    class Top(nn.Module):
        def setup(self):
            self.a = shared
            self.b = shared

        def __call__(self, x):
            return self.b(self.a(x))

    return Top().init_with_output(KEY, X)


@agrees
def test_siblings_of_setup_share_a_module(nn):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        def setup(self):
            self.shared = nn.Dense(3)
            self.a = Wrap(self.shared)
            self.b = Wrap(self.shared)

        def __call__(self, x):
            return self.b(self.a(x))

    return Top().init_with_output(KEY, X)


@agrees
def test_a_module_used_before_it_is_assigned_in_setup(nn):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        def setup(self):
            shared = nn.Dense(3)
            self.a = Wrap(shared)
            self.b = Wrap(shared)
            self.shared = shared

        def __call__(self, x):
            return self.shared(self.b(self.a(x)))

    return Top().init_with_output(KEY, X)


@agrees
def test_an_encoder_shared_by_two_models_through_bind(nn):
    class Top(nn.Module):
        encoder: Any
        head: Any

        def __call__(self, x):
            return self.head(self.encoder(x))

    model = Top(nn.Dense(3), nn.Dense(2))
    variables = model.init(KEY, X)
    bound = model.bind(variables)
    encoder, its_variables = bound.encoder.unbind()
    return encoder.apply(its_variables, X), its_variables, bound.head(bound.encoder(X))


@agrees
def test_modules_in_nested_fields(nn):
    class Block(nn.Module):
        layers: Any

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Block([Block([nn.Dense(3), nn.Dense(3)]), Block((nn.Dense(3),))])
    return model.init_with_output(KEY, X)


@agrees
def test_a_default_module_in_a_field(nn):
    class Wrap(nn.Module):
        inner: Any = nn.Dense(3)

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrap()(x) + Wrap()(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_a_default_factory_makes_modules(nn):
    class Wrap(nn.Module):
        inner: Any = dataclasses.field(default_factory=lambda: nn.Dense(3))

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrap()(x) + Wrap()(x)

    return Wrap().init(KEY, X), Top().init_with_output(KEY, X)


@agrees
def test_a_class_in_a_field_is_called_where_it_is_used(nn):
    class Wrap(nn.Module):
        make: Callable[..., Any] = nn.Dense

        @nn.compact
        def __call__(self, x):
            return self.make(3)(x)

    return Wrap().init_with_output(KEY, X)


@agrees
def test_a_module_in_a_closure_is_adopted_where_it_is_first_used(nn):
    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)

            class Inner(nn.Module):
                @nn.compact
                def __call__(self, x):
                    return layer(x)

            return Inner()(x) + layer(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_modules_passed_as_arguments_stay_where_they_are(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, layer, x):
            return layer(nn.Dense(3)(x))

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return Inner()(layer, x) + Inner()(layer, x)

    return Top().init_with_output(KEY, X)


@agrees
def test_a_method_of_another_module_in_a_field(nn):
    class Wrap(nn.Module):
        fn: Callable[..., Any]

        @nn.compact
        def __call__(self, x):
            return self.fn(x) + nn.Dense(3)(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrap(nn.Dense(3))(x), Wrap(nn.Dense(3).__call__)(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_submodules_of_children_are_reached_from_the_parent(nn):
    class Inner(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def __call__(self, x):
            return self.dense(x)

    class Top(nn.Module):
        def setup(self):
            self.inner = Inner()

        def __call__(self, x):
            return self.inner(x) + self.inner.dense(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_tied_weights_are_read_from_the_variables_of_a_child(nn):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            embed = nn.Embed(5, 3)
            y = embed(jnp.array([1, 2]))
            kernel = embed.variables["params"]["embedding"]
            return embed.attend(x), y @ kernel.T

    return Tied().init_with_output(KEY, X)


@agrees
def test_the_original_object_stays_unbound(nn):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    inner = nn.Dense(3)
    model = Wrap(inner)
    model.init(KEY, X)
    return inner.scope, inner.parent, inner.name, model.scope, model.inner is inner


@agrees
def test_one_object_serves_several_models(nn):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    inner = nn.Dense(3)
    return [
        Wrap(inner).init(KEY, X),
        inner.init(KEY, X),
        Wrap(Wrap(inner)).init(KEY, X),
    ]


@agrees
def test_copies_in_compact_are_submodules_of_their_own(nn):
    class Stack(nn.Module):
        block: Any
        depth: int

        @nn.compact
        def __call__(self, x):
            for _ in range(self.depth):
                x = self.block.copy()(x)
            return x

    return Stack(nn.Dense(3), 2).init(KEY, X)


@agrees
def test_named_copies_in_compact(nn):
    class Stack(nn.Module):
        block: Any

        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = self.block.copy(name=f"block_{i}")(x)
            return x

    return Stack(nn.Dense(3, name="ignored")).init(KEY, X)


@agrees
def test_clones_in_compact_are_unbound(nn):
    class Top(nn.Module):
        block: Any

        @nn.compact
        def __call__(self, x):
            twin = self.block.clone()
            return twin.init(jax.random.key(1), x), twin.parent, self.block(x)

    return Top(nn.Dense(3)).init_with_output(KEY, X)


@agrees
def test_clones_of_a_module_with_modules_in_its_fields(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        block: Any

        @nn.compact
        def __call__(self, x):
            a = self.block.copy()(x)
            b = self.block.copy()(x)
            return a + b

    return Top(Wrap(nn.Dense(3))).init_with_output(KEY, X)


@pytest.mark.parametrize("how", ["clone", "copy"])
@agrees
def test_lists_of_copies_in_setup(nn, how):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    class Stack(nn.Module):
        block: Any

        def setup(self):
            self.blocks = [getattr(self.block, how)() for _ in range(2)]

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    return Stack(nn.Dense(3)).init(KEY, X), Stack(Wrap(nn.Dense(3))).init(KEY, X)


@agrees
def test_modules_in_a_struct_dataclass(nn, struct):
    @struct.dataclass
    class Pair:
        left: Any
        right: Any

    class Top(nn.Module):
        pair: Any

        @nn.compact
        def __call__(self, x):
            return self.pair.left(x) + self.pair.right(x)

    return Top(Pair(nn.Dense(3), nn.Dense(3))).init(KEY, X)


@pytest.mark.parametrize("first", ["a", "b"])
@agrees
def test_fields_are_named_in_their_order_not_in_that_of_their_use(nn, first):
    class Top(nn.Module):
        a: Any
        b: Any

        def __call__(self, x):
            other = {"a": "b", "b": "a"}[first]
            return getattr(self, other)(getattr(self, first)(x))

    layer = nn.Dense(3)
    return Top(layer, layer).init(KEY, X), Top(nn.Dense(3), nn.Dense(3)).init(KEY, X)


def test_a_bound_module_outlives_its_call_only_in_name():
    nn = linsey.linen
    kept = []

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            kept.append(Inner())
            return kept[-1](x)

    Top().init(KEY, X)
    with pytest.raises(errors.InvalidScopeError):
        kept[0](X)


@refuses(wording=False)
def test_a_scope_outlives_its_call_only_in_name(core):
    kept = []
    core.init(kept.append)(KEY)
    return kept[0].param("w", lambda key: jnp.ones(()))


@agrees
def test_share_scope_lifts_the_variables_of_a_child(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x) + self.param("w", nn.initializers.ones, ())

    class Top(nn.Module):
        def setup(self):
            self.inner = Inner()
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return self.inner(x)

    return Top().init_with_output(KEY, X)


@agrees
def test_share_scope_with_a_module_from_outside(nn):
    class Top(nn.Module):
        base: Any

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            return self.base(x) + self.param("extra", nn.initializers.ones, (2,))

    return Top(nn.Dense(2)).init_with_output(KEY, X)


@refuses
def test_share_scope_needs_bound_modules(nn):
    return nn.share_scope(nn.Dense(2), nn.Dense(2))


@agrees
def test_each_method_of_a_name_scope_has_a_level_of_its_own(nn):
    class Net(nn.Module):
        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3)(x)

        @nn.compact_name_scope
        def down(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

        def __call__(self, x):
            return self.down(self.up(self.down(x)))

    return Net().init_with_output(KEY, X)


@agrees
def test_name_scopes_beside_a_compact_method(nn):
    class Net(nn.Module):
        @nn.compact_name_scope
        def block(self, x):
            return nn.Dense(3)(x)

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            return self.block(self.block(x))

    model = Net()
    variables = model.init(KEY, X)
    return (
        variables,
        model.apply(variables, X),
        model.apply(variables, X, method="block"),
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.inner(x) + m.param("kernel", lambda key: 0.0),
        lambda m, x: m.param("kernel", lambda key: 0.0) + m.inner(x),
        lambda m, x: m.other(m.inner(x)),
        lambda m, x: m.kernel(m.inner(x)),
    ],
)
@refuses
def test_modules_in_one_scope_share_the_names(nn, use):
    class Top(nn.Module):
        def setup(self):
            self.inner = nn.Dense(3)
            nn.share_scope(self, self.inner)
            self.other = nn.Dense(3)
            nn.share_scope(self, self.other)
            self.kernel = nn.Dense(3)

        @nn.compact
        def __call__(self, x):
            return use(self, x)

    return Top().init(KEY, X)


@refuses
def test_submodules_of_modules_in_one_scope_share_the_names(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Top(nn.Module):
        def setup(self):
            self.inner = Inner()
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            return self.inner(nn.Dense(3)(x))

    return Top().init(KEY, X)


@agrees
def test_a_module_that_shares_its_scope_may_be_called_again(nn):
    class Top(nn.Module):
        base: Any

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            extra = self.variable("state", "kernel", lambda: 1.0).value
            return self.base(x) + self.base(x) + extra

    class Net(nn.Module):
        def setup(self):
            self.top = Top(nn.Dense(3))

        def __call__(self, x):
            return self.top(self.top(x))

    return Net().init_with_output(KEY, X)


@agrees
def test_names_in_copies_of_unbound_modules(nn):
    class Wrap(nn.Module):
        inner: Any

    def names(module):
        return module.name, [layer.name for layer in module.inner]

    net = Wrap((nn.Dense(3, name="given"), nn.Dense(3)), name="top")
    copies = net.copy(), net.copy(name="other"), net.clone()
    return [(names(copy), copy == net) for copy in copies]
