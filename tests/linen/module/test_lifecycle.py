"""The life of a module: construction, binding, lazy `setup`, calls, the end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.linen
from tests.compat.agreement import KEY, X, agrees, refuses


@agrees
def test_setup_runs_once_and_when_first_needed(nn):
    seen = []

    class Net(nn.Module):
        def setup(self):
            seen.append("setup")
            self.layer = nn.Dense(2)

        def __call__(self, x):
            seen.append("call")
            return self.layer(self.layer(x)) if x.shape[-1] == 2 else self.layer(x)

    bound = Net().bind(Net().init(KEY, X))
    seen.append("bound")
    repr(bound)
    seen.append("printed")
    bound(X)
    bound(X)
    return seen


@agrees
def test_setup_of_a_child_runs_when_the_child_is_used(nn):
    seen = []

    class Child(nn.Module):
        tag: str

        def setup(self):
            seen.append(self.tag)
            self.layer = nn.Dense(2)

        def __call__(self, x):
            return self.layer(x)

    class Net(nn.Module):
        def setup(self):
            self.used = Child("used")
            self.unused = Child("unused")
            seen.append("set up")

        def __call__(self, x):
            return self.used(x)

    return Net().init(KEY, X), seen


@agrees
def test_an_attribute_of_setup_is_reached_from_outside_after_bind(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)
            self.scale = 3

        def __call__(self, x):
            return self.layer(x)

    model = Net()
    bound = model.bind(model.init(KEY, X))
    return bound.scale, bound.layer(X), bound.layer.name, bound.layer.features


@refuses
def test_an_attribute_of_setup_does_not_exist_on_an_unbound_module(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

    return Net().layer


@refuses
def test_an_attribute_that_nobody_sets(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

        def __call__(self, x):
            return self.layre(x)

    return Net().init(KEY, X)


@agrees
def test_hasattr_and_getattr_with_default(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

        def __call__(self):
            return hasattr(self, "layer"), hasattr(self, "other"), self.get()

        def get(self):
            return getattr(self, "other", 5)

    return Net().apply({}), hasattr(Net(), "layer"), "layer" in dir(Net().bind({}))


@agrees
def test_parameters_may_be_declared_in_setup(nn):
    class Net(nn.Module):
        def setup(self):
            self.w = self.param("w", nn.initializers.lecun_normal(), (3, 2))
            self.count = self.variable("state", "count", lambda: jnp.zeros(()))

        def __call__(self, x):
            self.count.value += 1
            return x @ self.w

    model = Net()
    y, variables = model.init_with_output(KEY, X)
    return y, variables, model.apply(variables, X, mutable=["state"])


@agrees
def test_setup_may_call_its_submodules(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)
            self.start = self.layer(X)

        def __call__(self, x):
            return self.layer(x) + self.start

    return Net().init_with_output(KEY, X)


@agrees
def test_setup_may_call_methods_of_its_module(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)
            self.start = self.double(self.layer(X))

        def double(self, x):
            return 2 * self.layer(x)

        def __call__(self, x):
            return self.double(x) + self.start

    return Net().init_with_output(KEY, X)


@agrees
def test_methods_called_in_setup_may_assign(nn):
    class Net(nn.Module):
        def setup(self):
            self.make()

        def make(self):
            self.layer = nn.Dense(3)

        def __call__(self, x):
            return self.layer(x)

    return Net().init_with_output(KEY, X)


@agrees
def test_setup_of_the_base_class_runs_through_super(nn):
    class Base(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

    class Net(Base):
        def setup(self):
            super().setup()
            self.last = nn.Dense(2)

        def __call__(self, x):
            return self.last(self.first(x))

    return Net().init(KEY, X)


@agrees
def test_setup_is_inherited(nn):
    class Base(nn.Module):
        width: int

        def setup(self):
            self.first = nn.Dense(self.width)

    class Net(Base):
        def __call__(self, x):
            return self.first(x)

    return Net(4).init(KEY, X)


@refuses
def test_assigning_a_field_in_setup(nn):
    class Net(nn.Module):
        width: int = 2

        def setup(self):
            self.width = 3

        def __call__(self):
            return self.width

    return Net().apply({})


@refuses
def test_assigning_outside_of_setup(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.last = x
            return x

    return Net().init(KEY, X)


@refuses
def test_assigning_a_field_of_an_unbound_module_fails_after_it_is_bound(nn):
    model = nn.Dense(2).bind({})
    model.features = 3


@agrees
def test_assigning_an_attribute_of_an_unbound_module(nn):
    model = nn.Dense(2)
    model.features = 3
    return model.init(KEY, X)


@refuses
def test_a_submodule_outside_of_setup_and_compact(nn):
    class Net(nn.Module):
        def __call__(self, x):
            return nn.Dense(2)(x)

    return Net().init(KEY, X)


@refuses
def test_a_parameter_outside_of_setup_and_compact(nn):
    class Net(nn.Module):
        def __call__(self):
            return self.param("w", nn.initializers.ones, ())

    return Net().init(KEY)


@refuses
def test_a_variable_outside_of_setup_and_compact(nn):
    class Net(nn.Module):
        def __call__(self):
            return self.variable("state", "w", lambda: 0).value

    return Net().init(KEY)


@refuses
def test_calling_a_compact_method_of_an_unbound_module(nn):
    return nn.Dense(2)(X)


@refuses(wording=False)
def test_calling_setup_of_an_unbound_module(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)

    return Net().setup()


@agrees
def test_a_plain_method_of_an_unbound_module(nn):
    class Net(nn.Module):
        width: int

        def double(self):
            return 2 * self.width

    return Net(3).double()


@refuses
def test_a_setup_that_fails_reports_its_own_error(nn):
    class Net(nn.Module):
        def setup(self):
            raise ValueError("in setup")

        def __call__(self):
            return 0

    return Net().apply({})


def test_a_setup_that_failed_runs_again():
    nn = linsey.linen
    attempts = []

    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(2)
            attempts.append(len(attempts))
            if len(attempts) == 1:
                raise ValueError("the first time")

        def __call__(self, x):
            return self.layer(x)

    bound = Net().bind({"params": {"layer": nn.Dense(2).init(KEY, X)["params"]}})
    with pytest.raises(ValueError, match="the first time"):
        bound(X)
    assert bound(X).shape == (2, 2)
    assert len(attempts) == 2


@agrees
def test_attribute_errors_in_setup_are_not_hidden(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(self.no_such_field)

        def __call__(self, x):
            return self.layer(x)

    try:
        Net().init(KEY, X)
    except AttributeError as error:
        return "no_such_field" in str(error)


@agrees
def test_post_init_may_change_fields_before_super(nn):
    class Net(nn.Module):
        width: int

        def __post_init__(self):
            self.width = max(self.width, 4)
            self.extra = "extra"
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x), self.extra

    return Net(2).init_with_output(KEY, X)


@agrees
def test_containers_that_post_init_makes_belong_to_each_call(nn):
    class Model(nn.Module):
        def __post_init__(self):
            super().__post_init__()
            object.__setattr__(self, "_layers", {})

        @nn.compact
        def __call__(self, x):
            assert not self._layers
            self._layers["dense"] = nn.Dense(2)
            return self._layers["dense"](x)

    model = Model()
    variables = model.init(KEY, X)
    return model.apply(variables, X), len(model._layers)


def test_post_init_runs_once():
    runs = []

    class Net(linsey.linen.Module):
        width: int

        def __post_init__(self):
            runs.append(self.width)
            super().__post_init__()
            self.extra = "set on the unbound module"

        @linsey.linen.compact
        def __call__(self, x):
            return linsey.linen.Dense(self.width)(x), self.extra

    model = Net(2)
    model.init(KEY, X)
    assert runs == [2]


@agrees
def test_post_init_may_build_a_module_in_a_field(nn):
    class Net(nn.Module):
        width: int
        inner: Any = None

        def __post_init__(self):
            if self.inner is None:
                self.inner = nn.Dense(self.width)
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Net(3)(x)

    return Net(3).init(KEY, X), Top().init(KEY, X)


@refuses
def test_post_init_without_super_is_found_out_by_init(nn):
    class Net(nn.Module):
        def __post_init__(self):
            pass

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    return Net().init(KEY, X)


@refuses
def test_post_init_without_super_is_found_out_by_apply(nn):
    class Net(nn.Module):
        def __post_init__(self):
            pass

        @nn.compact
        def __call__(self, x):
            return x

    return Net().apply({}, X)


@agrees
def test_a_module_is_the_running_one_only_during_its_call(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(Inner()(x))
            try:
                Inner()("no array")
            except Exception:  # noqa: BLE001
                pass
            return nn.Dense(3)(x)

    return Outer().init(KEY, X)


@agrees
def test_an_apply_inside_a_module_stands_alone(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            other = nn.Dense(2, parent=None)
            y = other.apply(other.init(jax.random.key(1), x), x)
            return nn.Dense(2)(x) + y

    return Net().init_with_output(KEY, X)


@agrees
def test_an_apply_of_a_clone_leaves_the_bound_module_alone(nn):
    model = nn.Sequential([nn.BatchNorm(use_running_average=False)])
    variables = model.init(KEY, X)
    bound = model.bind(variables, mutable=True)
    updated = bound.clone(parent=None).apply(variables, X, mutable=True)
    return updated, bound.variables


def test_nothing_of_a_call_stays_alive():
    nn = linsey.linen
    seen = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            seen.append(weakref.ref(self))
            seen.append(weakref.ref(self.scope))
            return nn.Dense(2)(x)

    gc.collect()
    gc.disable()
    try:
        Net().init(KEY, X)
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


def test_tracers_do_not_leak():
    nn = linsey.linen

    class Block(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)
            self.scale = self.param("scale", nn.initializers.ones, ())

        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "x", x)
            return nn.Dense(3)(self.layer(x)) * self.scale

    class Net(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(Block()(x))

    model = Net(Block())
    with jax.check_tracer_leaks():
        variables = jax.jit(model.init)(KEY, X)
        step = jax.jit(jax.grad(lambda v, x: model.apply(v, x).sum()))
        step(variables, X)
        jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]))(variables, X)


@agrees
def test_setup_may_be_called_by_the_user_again(nn):
    class Net(nn.Module):
        size: int = 1

        def setup(self):
            self.double = 2 * self.size

        def __call__(self):
            self.setup()
            return self.double

    bound = Net(2).bind({})
    bound.setup()
    return Net().apply({}), bound.double, bound()


@refuses
def test_the_hint_at_setup_is_for_unbound_modules(nn):
    class Net(nn.Module):
        def __call__(self):
            return self.other

    return Net().apply({})


@pytest.mark.parametrize("method", ["init", "apply", "lazy_init"])
@refuses
def test_what_is_no_key_is_refused_by_the_name_of_the_module(nn, method):
    options = {"variables": {}, "rngs": 3} if method == "apply" else {"rngs": 3}
    return getattr(nn.Dropout(0.5), method)(**options)
