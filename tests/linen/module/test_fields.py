"""The fields of modules: what dataclasses can do, and where `parent` and `name` are."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import cloudpickle
import jax.numpy as jnp
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses

T = TypeVar("T")


def names(cls):
    return [field.name for field in dataclasses.fields(cls)]


def late_layer(nn):
    """A module with a field that `setup` assigns."""

    class Net(nn.Module):
        width: int = 2
        layer: Any = dataclasses.field(init=False)

        def setup(self):
            self.layer = nn.Dense(self.width)

        def __call__(self, x):
            return self.layer(x)

    return Net


@agrees
def test_a_field_that_setup_assigns(nn):
    net = late_layer(nn)(3)
    variables = net.init(KEY, X)
    bound = net.bind(variables)
    bound(X)
    unbound, _ = bound.unbind()
    return variables, repr(bound), repr(unbound), bound.layer.features, unbound == net


@agrees
def test_a_field_without_a_value_has_an_equal_one(nn):
    net = late_layer(nn)()
    copies = net.clone(), net.copy(), dataclasses.replace(net)
    same = [copy == net and hash(copy) == hash(net) for copy in copies]
    return repr(net), same, net == net.clone(width=3), hasattr(net, "layer")


@refuses
def test_a_field_without_a_value_cannot_be_read(nn):
    return late_layer(nn)().layer


@agrees
def test_a_field_with_a_default_that_setup_assigns(nn):
    class Net(nn.Module):
        size: int = dataclasses.field(default=3, init=False)
        table: Any = dataclasses.field(default_factory=lambda: [1], init=False)

        def setup(self):
            self.size = 4

        def __call__(self):
            return self.size, self.table

    return Net().apply({}), Net().size, repr(Net())


@refuses
def test_a_field_of_the_constructor_is_not_assigned_in_setup(nn):
    class Net(nn.Module):
        size: int = 3

        def setup(self):
            self.size = 4

        def __call__(self):
            return self.size

    return Net().apply({})


@refuses
def test_the_name_is_not_assigned_in_setup(nn):
    class Net(nn.Module):
        def setup(self):
            self.name = "other"

        def __call__(self):
            return self.name

    return Net().apply({})


@agrees
def test_fields_of_an_abstract_base_that_its_setup_assigns(nn):
    class Base(nn.Module, abc.ABC):
        depth: int
        blocks: Any = dataclasses.field(init=False)
        last: nn.Module | None = dataclasses.field(default=None, init=False)

        @abc.abstractmethod
        def block(self): ...

        def setup(self):
            self.blocks = [self.block() for _ in range(self.depth)]
            self.last = nn.Dense(2)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.last(x)

    class Net(Base):
        width: int = 3
        factory: Callable[..., Any] = nn.Dense

        def block(self):
            return self.factory(self.width)

    with pytest.raises(TypeError, match="abstract"):
        Base(1)
    return names(Net), repr(Net(2)), Net(2).init(KEY, X)


@agrees
def test_the_order_of_fields_is_that_of_classes(nn):
    class A(nn.Module):
        a: int = 1

    class B(A):
        b: int = 2

    class C(A):
        c: int = 3

    class D(B, C):
        a: int = 4
        d: int = 5

    class E(D):
        pass

    listed = [list(cls.__dataclass_fields__) for cls in (A, B, C, D, E)]
    return listed, list(A.__annotations__), repr(E()), E(7, 8).b


@agrees
def test_fields_of_mixins(nn):
    class Plain:
        plain: int = 1

    @dataclasses.dataclass
    class Data:
        data: int = 2

    class Before(Data, nn.Module):
        a: int = 3

    class After(nn.Module, Plain, Data):
        a: int = 4

    return names(Before), names(After), repr(Before(5)), After().plain, After(6, 7).a


@agrees
def test_fields_of_generic_classes_and_protocols(nn):
    class Sized(Protocol):
        size: int

    class A(nn.Module, Generic[T]):
        value: T

    class B(A[int], Sized):
        size: int = 2

    return names(B), repr(A[int](3)), repr(B(1)), B(1) == B(1)


@agrees
def test_fields_by_keyword_only(nn):
    class A(nn.Module):
        a: int = 1
        _: dataclasses.KW_ONLY
        b: int

    class B(A):
        c: int = dataclasses.field(kw_only=True)
        d: int = 2

    class C(nn.Module, kw_only=True):
        e: int
        f: int = 3

    class D(C, kw_only=True):
        g: int = 4

    class E(D):
        h: int = 5

    with pytest.raises(TypeError):
        C(1)
    listed = names(B), names(C), names(D), names(E)
    return listed, repr(B(5, 6, b=7, c=8)), repr(C(e=1)), repr(E(6, e=7, g=8))


@agrees
def test_a_field_may_have_the_name_of_an_attribute_of_modules(nn):
    class A(nn.Module):
        inner: Any
        scope: Any = None

    class B(nn.Module):
        scope: str

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    return names(A), A(1, 2).scope, B("s").scope, B("s").init(KEY, X)


@agrees
def test_the_base_of_all_modules_has_no_fields(nn):
    return dataclasses.is_dataclass(nn.Module), dataclasses.is_dataclass(nn.Dense)


@agrees
def test_a_constructor_of_the_user(nn):
    class Net(nn.Module):
        size: int = 1

        def __init__(self, half):
            self.size = 2 * half
            self.__post_init__()

    return Net(4).size, Net(4).name, repr(Net(4)), Net(4) == Net(4)


@agrees
def test_equality_and_hash_are_those_of_each_class(nn):
    class A(nn.Module):
        a: int = dataclasses.field(default=1, compare=False)
        b: Any = dataclasses.field(default=2, hash=False)

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 5

    class B(A):
        c: int = 3

    equal = A() == A(b=3), B() == B(), B() == B(c=4), B() == B(a=2), A() == B()
    return equal, hash(A()), hash(B(b=[])) == hash(B())


@agrees
def test_bound_modules_are_compared_without_end(nn):
    class Net(nn.Module):
        inner: Any

    bound = Net(nn.Dense(2)).bind({})
    return bound == bound, bound == Net(nn.Dense(2))


def test_bound_modules_of_two_calls_are_not_equal():
    class Net(linsey.linen.Module):
        inner: Any

    net = Net(linsey.linen.Dense(2))
    assert net.bind({}) != net.bind({})


@refuses
def test_a_module_without_a_hash(nn):
    class Net(nn.Module):
        value: Any

    return hash(Net([1]))


@agrees
def test_repr_of_a_bound_module_shows_fields_and_children(nn):
    class Net(nn.Module):
        inner: Any
        parts: Any
        made: Any = dataclasses.field(default_factory=lambda: nn.Dropout(0.5))
        hidden: int = dataclasses.field(default=1, repr=False)

    net = Net(nn.Dropout(0.1), {"k": nn.Dropout(0.2)})
    return repr(net), repr(net.bind({})), repr(net.copy()), repr(net.clone())


SOURCE = """
class Base(nn.Module):
    width: int
    scale: float = 1.0
    table: Any = dataclasses.field(default_factory=lambda: [1])
    layer: Any = dataclasses.field(init=False)
    bias: bool = dataclasses.field(default=True, kw_only=True)

    def setup(self):
        self.layer = nn.Dense(self.width, use_bias=self.bias)

    def __call__(self, x):
        return self.layer(x)
"""


def test_a_class_that_came_by_cloudpickle_can_be_subclassed():
    space = {"__name__": "__main__", "nn": linsey.linen, "Any": Any}
    exec(SOURCE, space | {"dataclasses": dataclasses}, space)
    base = cloudpickle.loads(cloudpickle.dumps(space["Base"]))

    class Net(base):
        depth: int = 2

    expected = ["width", "scale", "table", "layer", "bias", "depth", "parent", "name"]
    assert names(Net) == expected
    assert Net(3).table == [1]
    assert Net(3, bias=False).init(KEY, X)["params"]["layer"]["kernel"].shape == (3, 3)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        Net()

    class Wrong(base):
        width: int = 1
        depth: int = 3

    assert repr(Wrong()) == repr(Wrong(1, depth=3))


def test_an_unhashable_field_is_named():
    class Net(linsey.linen.Module):
        value: Any

    with pytest.raises(errors.ArgumentTypeError) as caught:
        hash(Net([1]))
    assert str(caught.value).splitlines() == [
        "Failed to hash Flax Module Net.",
        "The module probably contains unhashable attributes: unhashable type: 'list'.",
        "Use tuples, strings and numbers as fields.",
    ]


@agrees
def test_order_of_fields_where_a_class_repeats_the_name(nn):
    class Layer(nn.Module):
        width: int = 3
        name: str = "layer"

    class Wider(Layer):
        depth: int = 2

    return [[field.name for field in dataclasses.fields(c)] for c in (Layer, Wider)]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.dtype("float16"), "float16"])
@agrees
def test_the_text_of_a_dtype(nn, dtype):
    return repr(nn.Dense(2, param_dtype=dtype))
