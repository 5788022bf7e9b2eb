"""`nn.jit` and `nn.remat` against Flax, and `lazy_init` through transforms."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses

SHAPE = jax.ShapeDtypeStruct(X.shape, X.dtype)
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


def mlp(nn):
    class MLP(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.tanh(nn.Dense(self.width)(x)))

    return MLP


def with_state(nn):
    """A module that counts its calls, sows and normalises."""

    class Stateful(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("state", "count", jnp.zeros, ())
            if not self.is_initializing():
                count.value += 1
            x = nn.BatchNorm(use_running_average=False, momentum=0.5)(x)
            self.sow("intermediates", "x", x)
            return x

    return Stateful


def value_and_gradient(model, variables, x):
    def loss(v):
        y = model.apply(v, x)
        return jnp.sum(y**2), y

    return jax.grad(loss, has_aux=True)(variables)


# -- remat ---------------------------------------------------------------------------


@agrees(ulps=8)
def test_remat_of_a_class(nn):
    model = nn.remat(mlp(nn))()
    variables = model.init(KEY, X)
    return variables, value_and_gradient(model, variables, X), repr(model)


@agrees(ulps=8)
def test_remat_computes_what_the_module_computes(nn):
    plain, again = mlp(nn)(), nn.checkpoint(mlp(nn))()
    variables = plain.init(KEY, X)
    return again.init(KEY, X), value_and_gradient(again, variables, X)


def test_remat_computes_again_in_the_backward_pass():
    nn = linsey.linen
    variables = mlp(nn)().init(KEY, X)

    def tanhs(cls: Any, **options: Any) -> int:
        model = nn.remat(cls, **options)()
        loss = lambda v: jnp.sum(model.apply(v, X))  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(variables)).count("tanh")

    save_all = jax.checkpoint_policies.everything_saveable
    assert tanhs(mlp(nn)) == tanhs(mlp(nn), policy=save_all) + 1


@agrees(ulps=8)
def test_remat_with_static_arguments_and_keywords(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train, scale=1.0, *, shift=0.0):
            x = nn.Dense(2)(x)
            return (x * scale + shift) if train else x

    model = nn.remat(Net, static_argnums=(2,))()
    variables = model.init(KEY, X, True)
    return [
        model.apply(variables, X, True, 2.0),
        model.apply(variables, X, False),
        model.apply(variables, X, True, shift=jnp.ones(2)),
    ]


@pytest.mark.parametrize("static", [(2, 3), [2, 3], (-2, -1), (3, 2, 7), (0, 2, 3)])
def test_static_arguments_of_remat_however_they_are_given(static):
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, mode="add", flag=False, *, shift=0.0):
            y = x + 1 if mode == "add" else x * 3
            return y + shift if flag else y

    model = nn.remat(Net, static_argnums=static)()
    calls = {
        ("add", True): 3.0,
        ("mul",): 3.0,
        (): 2.0,
    }
    for args, expected in calls.items():
        names = dict(zip(("mode", "flag"), args, strict=False))
        assert model.apply({}, jnp.ones(()), *args, shift=1.0) == expected
        assert model.apply({}, jnp.ones(()), **names, shift=1.0) == expected
    assert model.apply({}, jnp.ones(()), flag=True, shift=2.0) == 4.0


def test_static_arguments_among_any_number():
    def total(mdl, *args):
        return sum(args[:-1]) if args[-1] else args[0]

    run = linsey.linen.remat(total, static_argnums=-1)
    net = linsey.linen.Dense(1).bind({})
    assert run(net, jnp.ones(()), jnp.ones(()), True) == 2.0
    assert run(net, jnp.ones(()), jnp.ones(()), False) == 1.0


@refuses(wording=False)
def test_remat_without_static_arguments_traces_flags(nn):
    class Net(nn.Module):
        def __call__(self, x, train):
            return x if train else -x

    return nn.remat(Net)().apply({}, X, True)


@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_state_is_written_once_under_remat(nn):
    model = nn.remat(with_state(nn))()
    variables = model.init(KEY, X)

    def loss(params):
        y, updated = model.apply(
            {**variables, "params": params},
            X,
            mutable=["state", "batch_stats", "intermediates"],
        )
        return jnp.sum(y * jnp.arange(3.0)), updated

    return variables, jax.value_and_grad(loss, has_aux=True)(variables["params"])


@agrees(ulps=8)
def test_remat_of_methods_functions_and_set_up_modules(nn):
    class Net(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(3), nn.remat(nn.Dense)(2)

        def __call__(self, x):
            return self.tail(nn.remat(lambda mdl, x: mdl.a(x))(self, x))

        @nn.remat
        def tail(self, x):
            return self.b(self.a(x))

    model = Net()
    variables = model.init(KEY, X)
    return variables, value_and_gradient(model, variables, X)


@agrees(ulps=8)
def test_remat_of_several_methods(nn):
    class Coder(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def once(self, x):
            return self.layer(x)

        def twice(self, x):
            return self.once(self.once(x))

    model = nn.remat(Coder, methods=["once", "twice"])()
    y, variables = model.init_with_output(KEY, X, method="twice")
    return y, variables, model.apply(variables, X, method="once")


@agrees(ulps=8)
def test_names_in_compact_methods_go_on_after_remat(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = nn.remat(lambda mdl, x: nn.Dense(3)(nn.Dense(3)(x)))(self, x)
            return nn.Dense(3)(x)

    return Net().init_with_output(KEY, X)


@agrees
def test_keys_under_remat_are_those_outside(nn):
    class Draw(nn.Module):
        @nn.compact
        def __call__(self, x):
            draw = lambda mdl, x: jax.random.bits(mdl.make_rng("noise"), (2,))  # noqa: E731
            return draw(self, x), nn.remat(draw)(self, x), draw(self, x)

    return Draw().apply({}, X, rngs={"noise": KEY}), nn.remat(Draw)().apply(
        {}, X, rngs={"noise": KEY}
    )


@agrees(ulps=8)
def test_filters_of_remat_hide_collections_and_streams(nn):
    class Look(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.has_variable("state", "a"), self.has_rng("noise")

    seen = []

    def outer(filters):
        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                def look(mdl, x):
                    seen.append((mdl.has_variable("state", "a"), mdl.has_rng("noise")))
                    return x

                return nn.remat(look, **filters)(self, x)

        return Net().apply({"state": {"a": X}}, X, rngs={"noise": KEY})

    outer({})
    outer({"variables": "params"})
    outer({"rngs": "params"})
    return seen


# -- jit -----------------------------------------------------------------------------


@agrees(ulps=8)
def test_jit_of_a_class(nn):
    model = nn.jit(mlp(nn))()
    variables = mlp(nn)().init(KEY, X)
    return (
        jax.tree.map(jnp.shape, model.init(KEY, X)),
        value_and_gradient(model, variables, X),
        repr(model),
    )


@agrees(ulps=8)
def test_jit_with_static_arguments_and_keywords(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train, scale=1.0, *, shift=0.0):
            return (x * scale + shift) if train else x

    model = nn.jit(Net, static_argnums=(2,))()
    return [
        model.apply({}, X, True, 2.0),
        model.apply({}, X, False),
        model.apply({}, X, True, shift=jnp.ones(3)),
        nn.jit(Net, static_argnames="train")().apply({}, X, train=False),
    ]


@agrees(ulps=64)
def test_state_is_written_once_under_jit(nn):
    model = nn.jit(with_state(nn))()
    variables = with_state(nn)().init(KEY, X)
    mutable = ["state", "batch_stats", "intermediates"]
    once = model.apply(variables, X, mutable=mutable)
    return once, model.apply({**variables, **once[1]}, X, mutable=mutable)


@agrees(ulps=8)
def test_jit_of_methods_functions_and_set_up_modules(nn):
    class Net(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(3), nn.jit(nn.Dense)(2)

        def __call__(self, x):
            return self.tail(nn.jit(lambda mdl, x: mdl.a(x))(self, x))

        @nn.jit
        def tail(self, x):
            return self.b(self.a(x))

        def plain(self, x):
            return self.b(self.a(self.a(x)))

    variables = Net().init(KEY, X, method="plain")
    return Net().apply(variables, X), value_and_gradient(Net(), variables, X)


@agrees
def test_immutable_collections_stay_immutable_under_jit(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            flags = [self.is_mutable_collection(c) for c in ("params", "state")]
            return x, [x + f for f in flags], x + self.is_initializing()

    model = nn.jit(Net)()
    return [
        model.apply({}, X),
        model.apply({}, X, mutable=["state"]),
        model.init_with_output(KEY, X),
    ]


def count_traces(nn):
    """A module class and the list that grows with each trace of its call."""
    traces: list[Any] = []

    class Net(nn.Module):
        scale: Any = 1.0

        @nn.compact
        def __call__(self, x):
            traces.append(x.shape)
            return nn.Dense(2)(x) * self.scale

    return nn.jit(Net), traces


def test_equal_modules_share_one_compiled_program():
    Net, traces = count_traces(linsey.linen)
    variables = Net().init(KEY, X)
    assert len(traces) == 1
    for _ in range(3):
        Net().apply(variables, X)
    assert len(traces) == 2
    Net(2.0).apply(variables, X)
    Net(2.0).apply(variables, X)
    assert len(traces) == 3
    Net().apply(variables, X[:1])
    assert len(traces) == 4
    Net().apply(variables, X, mutable=["state"])
    assert len(traces) == 5


def test_equal_layers_inside_a_model_share_one_compiled_program():
    nn = linsey.linen
    traces = []

    @nn.jit
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            traces.append(self.name)
            return nn.Dense(3)(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="b")(Block(name="a")(x))

    class Same(nn.Module):
        def setup(self):
            self.block = Block()

        def __call__(self, x):
            return self.block(self.block(x))

    variables = Net().init(KEY, X)
    assert sorted(variables["params"]) == ["a", "b"]
    traces.clear()
    Same().init(KEY, X)
    assert len(traces) == 2  # creates its parameters, then reads them


def test_keys_do_not_repeat_under_jit():
    nn = linsey.linen

    class Draw(nn.Module):
        @nn.compact
        def __call__(self):
            return jax.random.bits(self.make_rng("noise"), ())

    Jitted = nn.jit(Draw)

    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            one = Jitted()
            return [one(), one(), Jitted()(), Draw()()]

    draws = Net().apply({}, rngs={"noise": KEY})
    assert len({int(d) for d in draws}) == 4
    again = Net().apply({}, rngs={"noise": KEY})
    np.testing.assert_array_equal(draws, again)


def test_donated_arguments_keep_their_meaning():
    nn = linsey.linen

    class Add(nn.Module):
        def __call__(self, x, y):
            return x + y

    x = jnp.ones(3)
    y = nn.jit(Add, donate_argnums=(2,))().apply({}, x, jnp.ones(3))
    np.testing.assert_array_equal(y, 2 * np.ones(3))
    assert not x.is_deleted()


@agrees(ulps=8)
def test_jit_inside_jit_and_inside_jax_jit(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(mlp(nn))(name="inner")(x)

    model = nn.jit(Inner)()
    variables = Inner().init(KEY, X)
    shapes = jax.tree.map(jnp.shape, variables)
    variables = jax.tree.map(jnp.ones_like, variables)
    return shapes, model.apply(variables, X), jax.jit(model.apply)(variables, X)


@agrees(ulps=8)
def test_parameters_made_outside_are_used_inside(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            x = layer(x)
            x = nn.jit(lambda layer, x: layer(x))(layer, x)
            return nn.jit(Wrap)(layer)(x)

    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    return Net().init_with_output(KEY, X)


def test_a_traced_value_cannot_escape_to_the_module_outside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def leak(mdl, x):
                self.put_variable("state", "x", x)
                return x

            return nn.jit(leak)(self, x)

    with pytest.raises(errors.JaxTransformError):
        Net().apply({}, X, mutable=["state"])


@pytest.mark.parametrize("transform", ["jit", "remat"])
@refuses(wording=False)
def test_what_cannot_be_lifted(nn, transform):
    return getattr(nn, transform)(nn.Dense(2))


def test_interceptors_reach_into_compiled_modules_each_time():
    nn = linsey.linen
    Net = nn.jit(mlp(nn))
    variables = Net().init(KEY, X)
    plain = Net().apply(variables, X)
    for _ in range(2):
        seen = []

        def double(next_fun, args, kwargs, context, seen=seen):
            seen.append(context.module.name)
            return 2 * next_fun(*args, **kwargs)

        with nn.intercept_methods(double):
            found = Net().apply(variables, X)
        assert "Dense_1" in seen
        assert not np.allclose(found, plain)
    np.testing.assert_array_equal(Net().apply(variables, X), plain)


def test_an_interceptor_that_is_used_again_compiles_nothing_again():
    nn = linsey.linen
    Net, traces = count_traces(nn)
    variables = Net().init(KEY, X)
    traces.clear()
    double = dataclasses.make_dataclass(  # without a hash
        "Double", [], namespace={"__call__": lambda self, f, args, *_: 2 * f(*args)}
    )()
    for _ in range(2):
        with nn.intercept_methods(double):
            Net().apply(variables, X)
    assert len(traces) == 1


def test_intermediates_of_compiled_modules_are_captured():
    nn = linsey.linen
    model = nn.jit(mlp(nn))()
    variables = model.init(KEY, X)
    only = lambda module, name: module.name == "Dense_0"  # noqa: E731
    for _ in range(2):
        for which, expected in [(True, 3), (only, 1)]:
            _, updated = model.apply(variables, X, capture_intermediates=which)
            assert len(jax.tree.leaves(updated)) == expected


# -- lazy_init -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        ("remat", {}),
        ("vmap", OWN),
        ("remat_scan", {"lengths": (2, 2)}),
        ("fold_rngs", {}),
    ],
)
@agrees
def test_lazy_init_sees_through_transforms(nn, transform, options):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    return getattr(nn, transform)(Layer, **options)().lazy_init(KEY, SHAPE)


@agrees
def test_lazy_init_sees_through_scan(nn):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(3)(x), None

    stacked = nn.scan(Layer, length=2, **OWN)
    shared = nn.scan(
        nn.remat(Layer),
        length=2,
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    return [cls().lazy_init(KEY, SHAPE, None) for cls in (stacked, shared)]


def test_lazy_init_sees_through_jit():
    nn = linsey.linen
    model = nn.jit(with_state(nn))()
    found, expected = model.lazy_init(KEY, SHAPE), model.init(KEY, X)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("transform", ["jit", "remat"])
def test_lazy_init_refuses_what_depends_on_the_input(transform):
    """As in Flax 0.12.8; newer ones take zeros for the input."""
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("w", lambda key: x + 1)

    with pytest.raises(errors.LazyInitError):
        getattr(nn, transform)(Net)().lazy_init(KEY, SHAPE)


def test_lazy_init_runs_without_the_effects():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            jax.debug.print("{}", x)
            return nn.Dense(2)(x)

    assert "params" in Net().lazy_init(KEY, SHAPE)


def test_partial_functions_are_functions_of_a_module():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            run = functools.partial(lambda mdl, x, by: nn.Dense(2)(x) * by, by=2.0)
            return nn.remat(run)(self, x)

    assert Net().init_with_output(KEY, X)[0].shape == (2, 2)


@pytest.mark.parametrize("transform", ["jit", "fold_rngs"])
@agrees(ulps=8)
def test_keys_are_drawn_from_the_scope_of_the_first_module_only(nn, transform):
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x, v):
            return self.make_rng("noise"), x + v.value, self.make_rng("noise")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            v = self.variable("state", "v", jnp.zeros, ())
            inner = getattr(nn, transform)(Noisy)()
            return inner(x, v), inner(x, v), self.make_rng("noise")

    keys = {"params": KEY, "noise": KEY}
    keys, _, last = Net().init_with_output(keys, X)[0]
    return [jax.random.key_data(k) for k in (keys[0], keys[2], last)]
