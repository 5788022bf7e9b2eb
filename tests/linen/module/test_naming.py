"""Names of submodules and variables: given, counted and refused as in Flax."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.compat.agreement import KEY, X, agrees, refuses


@agrees
def test_automatic_names_count_each_class_apart(nn):
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.DenseGeneral(4)(nn.Dense(4)(x))
            return nn.Dense(2)(nn.DenseGeneral(3)(nn.Dense(3)(x)))

    return MLP().init(KEY, X)


@agrees
def test_an_explicit_name_leaves_the_count_alone(nn):
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            x = nn.Dense(4, name="middle")(x)
            return nn.Dense(2)(x)

    return MLP().init(KEY, X)


@agrees
def test_modules_made_but_not_called_are_counted(nn):
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.Dense(4)
            return nn.Dense(2)(x)

    return MLP().init(KEY, X)


@agrees
def test_setup_names_by_attribute(nn):
    class MLP(nn.Module):
        def setup(self):
            self.first = nn.Dense(4)
            self.last = nn.Dense(2)

        def __call__(self, x):
            return self.last(self.first(x))

    return MLP().init(KEY, X)


@agrees
def test_an_explicit_name_wins_over_the_attribute(nn):
    class MLP(nn.Module):
        def setup(self):
            self.first = nn.Dense(4, name="renamed")

        def __call__(self, x):
            return self.first(x)

    return MLP().init(KEY, X), repr(MLP().bind({}).first)


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "build",
    [
        lambda d: [d(), d()],
        lambda d: (d(), (d(), [d()])),
        lambda d: {"a": d(), "b": {"c": d()}},
        lambda d: [{"x": d()}, d()],
        lambda d: Pair(d(), [d()]),
        lambda d: {1: d(), "2": d()},
        lambda d: {"a": None, "b": [], "c": d()},
    ],
)
@pytest.mark.parametrize("where", ["setup", "field"])
@agrees
def test_names_in_containers_join_positions_and_keys(nn, build, where):
    def call_all(layers, x):
        leaves = jax.tree_util.tree_leaves(
            layers, is_leaf=lambda v: isinstance(v, nn.Module)
        )
        return sum(layer(x) for layer in leaves)

    class InSetup(nn.Module):
        def setup(self):
            self.layers = build(lambda: nn.Dense(2))

        def __call__(self, x):
            return call_all(_plain(self.layers), x)

    class InField(nn.Module):
        layers: Any

        def __call__(self, x):
            return call_all(_plain(self.layers), x)

    if where == "setup":
        return InSetup().init(KEY, X)
    return InField(build(lambda: nn.Dense(2))).init(KEY, X)


def _plain(tree):
    if hasattr(tree, "items"):
        return [_plain(v) for _, v in sorted(tree.items(), key=lambda kv: str(kv[0]))]
    if isinstance(tree, (list, tuple)):
        return [_plain(v) for v in tree]
    return tree


@agrees
def test_containers_are_frozen_when_assigned(nn):
    class Net(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(2)]
            self.table = {"a": nn.Dense(2), "b": 1}
            self.numbers = [1, [2]]

        def __call__(self, x):
            kinds = [type(v).__name__ for v in (self.layers, self.table, self.numbers)]
            return kinds, type(self.numbers[1]).__name__

    return Net().apply({}, X)


@agrees
def test_fields_that_hold_containers_are_frozen_when_bound(nn):
    class Net(nn.Module):
        widths: Any
        table: Any

        @nn.compact
        def __call__(self):
            return self.widths, self.table

    return Net([1, [2, 3]], {"a": {"b": 1}}).apply({})


@agrees
def test_calling_a_module_again_takes_the_same_names(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Inner()
            return inner(inner(x))

    return Outer().init_with_output(KEY, X)


@agrees
def test_a_compact_method_called_by_a_compact_method_goes_on_counting(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = self.helper(x)
            return nn.Dense(3)(x)

        @nn.compact
        def helper(self, x):
            return nn.Dense(3)(x)

    return Net().init(KEY, X)


@agrees
def test_compact_methods_called_side_by_side_start_anew(nn):
    class Net(nn.Module):
        def __call__(self, x):
            return self.up(x) + self.down(x)

        @nn.compact
        def up(self, x):
            return nn.Dense(3)(x)

        @nn.compact
        def down(self, x):
            return nn.Dense(3)(x)

    return Net().init_with_output(KEY, X)


@agrees
def test_a_module_that_calls_itself_nests(nn):
    class Tree(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            return Tree(self.depth - 1)(x) if self.depth else x

    return Tree(2).init(KEY, X)


@agrees
def test_a_compact_method_that_calls_itself_goes_on_counting(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, times=2):
            x = nn.Dense(3)(x)
            return self(x, times - 1) if times else x

    return Net().init(KEY, X)


@agrees
def test_setup_and_compact_share_the_names(nn):
    class Net(nn.Module):
        def setup(self):
            self.Dense_1 = nn.Dense(3)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.Dense_1(x))

    return Net().init(KEY, X)


@refuses
def test_an_automatic_name_that_is_taken(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3, name="Dense_0")(x)
            return nn.Dense(3)(x)

    return Net().init(KEY, X)


@refuses
def test_a_submodule_twice(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="a")(nn.Dense(3, name="a")(x))

    return Net().init(KEY, X)


@refuses
def test_a_submodule_and_a_parameter(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("a", nn.initializers.ones, ())
            return nn.Dense(3, name="a")(x)

    return Net().init(KEY, X)


@refuses
def test_a_parameter_and_a_submodule(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3, name="a")(x)
            return x + self.param("a", nn.initializers.ones, ())

    return Net().init(KEY, X)


@refuses
def test_a_parameter_twice(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            a = self.param("a", nn.initializers.ones, ())
            return a + self.param("a", nn.initializers.ones, ())

    return Net().init(KEY)


@refuses
def test_a_variable_twice(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.variable("state", "a", lambda: 0)
            return self.variable("state", "a", lambda: 0)

    return Net().init(KEY)


@agrees
def test_variables_of_two_collections_may_have_one_name(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.param("a", nn.initializers.ones, ())
            self.variable("state", "a", jnp.zeros, (2,))

    return Net().init(KEY)


@refuses
def test_a_submodule_in_setup_and_one_in_compact(nn):
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="a")(self.a(x))

    return Net().init(KEY, X)


@refuses
def test_a_parameter_in_setup_and_one_in_compact(nn):
    class Net(nn.Module):
        def setup(self):
            self.w = self.param("a", nn.initializers.ones, ())

        @nn.compact
        def __call__(self):
            return self.param("a", nn.initializers.ones, ())

    return Net().init(KEY)


@refuses
def test_a_name_in_setup_twice(nn):
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = nn.Dense(3, name="a")

        def __call__(self, x):
            return self.b(x)

    return Net().init(KEY, X)


@refuses
def test_a_field_and_a_submodule(nn):
    class Net(nn.Module):
        a: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="a")(self.a(x))

    return Net(nn.Dense(3)).init(KEY, X)


@agrees
def test_assigning_again_in_setup_replaces_a_plain_value(nn):
    class Net(nn.Module):
        def setup(self):
            self.a = 1
            self.a = 2

        def __call__(self):
            return self.a

    return Net().apply({})


@agrees
def test_assigning_a_submodule_under_two_names_is_sharing(nn):
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x)), self.a is self.b, self.b.name

    return Net().init_with_output(KEY, X)


@agrees
def test_a_list_built_up_in_setup(nn):
    class Net(nn.Module):
        depth: int = 2

        def setup(self):
            layers = []
            for _ in range(self.depth):
                layers.append(nn.Dense(3))
            self.layers = layers

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return Net().init(KEY, X)


@agrees
def test_submodules_found_in_a_module_that_setup_makes(nn):
    class Net(nn.Module):
        def setup(self):
            self.body = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])

        def __call__(self, x):
            return self.body(x)

    return Net().init(KEY, X)


@agrees
def test_a_layer_of_setup_that_two_containers_hold(nn):
    class Net(nn.Module):
        def setup(self):
            shared = nn.Dense(3)
            self.body = nn.Sequential([shared, nn.relu])
            self.head = nn.Sequential([shared, nn.tanh])

        def __call__(self, x):
            return self.head(self.body(x))

    return Net().init_with_output(KEY, X)


@agrees
def test_a_named_layer_inside_a_container_of_setup(nn):
    class Net(nn.Module):
        def setup(self):
            self.body = nn.Sequential([nn.Dense(3, name="first"), nn.relu])

        def __call__(self, x):
            return self.body(x)

    return Net().init(KEY, X)


@agrees
def test_layers_made_in_compact_and_passed_to_a_container(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])(x)

    return Net().init(KEY, X)


@agrees
def test_a_named_top_module(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x), self.path, self.name

    return Net(name="top").init_with_output(KEY, X)


@agrees
def test_paths(nn):
    class Leaf(nn.Module):
        @nn.compact
        def __call__(self):
            return self.path

    class Net(nn.Module):
        def setup(self):
            self.leaves = [Leaf(), Leaf(name="named")]

        @nn.compact
        def __call__(self):
            return self.path, [leaf() for leaf in self.leaves], Leaf()()

    return Net().apply({})


@refuses
def test_the_path_of_an_unbound_module(nn):
    return nn.Dense(2).path


@agrees
def test_parent_none_leaves_a_module_unbound(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            outside = nn.Dense(2, parent=None)
            return outside.init_with_output(jax.random.key(1), x)

    return Net().init_with_output(KEY, X)


@agrees
def test_a_name_is_not_part_of_the_tree_of_a_top_module(nn):
    return nn.Dense(2, name="top").init(KEY, X)


@pytest.mark.parametrize("name", ["", "with space", "a/b", "kernel"])
@agrees
def test_any_text_is_a_name(nn, name):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name=name)(x)

    return Net().init(KEY, X)


@agrees
def test_a_class_may_repeat_the_field_name(nn):
    class Layer(nn.Module):
        name: str = "no effect"
        width: int = 3

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x)

    class Narrow(Layer):
        name: str = "none either"

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Narrow(2)(Layer(name="given")(Layer()(x)))

    return Net().init(KEY, X), repr(Layer(4)), Layer(4) == Layer(4, name=None)


Turned = namedtuple("Turned", "right left")


@pytest.mark.parametrize(
    "build",
    [
        lambda d, _: {"z": d, "a": d, "m": [d]},
        lambda d, _: {10: d, 2: d},
        lambda d, _: {"b": {"x": d}, "a": {"y": {"z": d, "w": d}}},
        lambda d, _: Turned(d, [d]),
        lambda d, make: [d if i in (2, 10) else make() for i in range(12)],
    ],
)
@agrees
def test_a_module_under_several_keys_is_named_by_the_first_of_them(nn, build):
    class Net(nn.Module):
        parts: Any

        def setup(self):
            self.others = build(nn.Dropout(0.5), lambda: nn.Dropout(0.1))

        def __call__(self):
            kept = self.parts, self.others
            where = {"is_leaf": lambda value: isinstance(value, nn.Module)}
            return [m.name for m in jax.tree_util.tree_leaves(kept, **where)]

    return Net(build(nn.Dropout(0.5), lambda: nn.Dropout(0.1))).apply({})


@agrees
def test_the_first_field_of_a_dataclass_in_order_of_text_names_a_module(nn, struct):
    @struct.dataclass
    class Parts:
        right: Any
        left: Any

    class Net(nn.Module):
        parts: Any

        def __call__(self):
            return self.parts.right.name, self.parts.left.name

    layer = nn.Dropout(0.5)
    return Net(Parts(layer, layer)).apply({})


@agrees
def test_dictionaries_keep_their_order(nn):
    class Net(nn.Module):
        parts: Any

        def __call__(self):
            return list(self.parts)

    plain = {"z": nn.Dropout(0.5), "a": nn.Dropout(0.5)}
    # Not those of a subclass: Flax sorts their keys.
    return Net(plain).apply({}), Net(OrderedDict(plain)).apply({})


@agrees
def test_modules_made_for_a_module_that_stands_alone_are_its_own(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner[0](x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            alone = Wrap([nn.Dense(3)], parent=None)
            nested = Wrap([Wrap([nn.Dense(3)], parent=None)], parent=None)
            return alone.init(KEY, x), nested.init(KEY, x), nn.Dense(2)(x)

    return Net().init_with_output(KEY, X)


@pytest.mark.parametrize(
    "declare",
    [
        lambda m: m.param(3, lambda key: 0.0),
        lambda m: m.variable("state", 3, int),
        lambda m: m.sow("state", 3, 0),
        lambda m: type(m)(name=3),
    ],
)
@refuses(wording=False)
def test_names_are_text(nn, declare):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return declare(self)

    return Net().init(KEY)


class Settings(Mapping):
    """A mapping that is no dictionary, as those of libraries for configurations."""

    def __init__(self, **values):
        self.values = values

    def __getitem__(self, key):
        return self.values[key]

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __getattr__(self, key):
        return self.values[key]


@agrees
def test_a_mapping_of_the_user_stays_what_it_is(nn):
    class Net(nn.Module):
        settings: Any

        def __call__(self):
            return self.settings.width

    return Net(Settings(width=3)).apply({})
