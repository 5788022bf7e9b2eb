"""`init`, `apply`, `bind`, `lazy_init` and the functions that stand beside them."""

from __future__ import annotations

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from linsey.core.frozen_dict import freeze
from tests.compat.agreement import KEY, X, agrees, assert_same, first_sentence, refuses


def autoencoder(nn):
    class AutoEncoder(nn.Module):
        width: int = 2

        def setup(self):
            self.encoder = nn.Dense(self.width)
            self.decoder = nn.Dense(3)

        def __call__(self, x):
            return self.decode(self.encode(x))

        def encode(self, x, scale=1.0):
            return scale * self.encoder(x)

        def decode(self, z):
            return self.decoder(z)

    return AutoEncoder


@pytest.mark.parametrize("how", ["name", "function", "bound method"])
@agrees
def test_method_may_be_a_name_a_function_or_a_bound_method(nn, how):
    cls = autoencoder(nn)
    model = cls()
    method = {"name": "encode", "function": cls.encode, "bound method": model.encode}[
        how
    ]
    variables = model.init(KEY, X)
    return [
        model.apply(variables, X, method=method),
        model.apply(variables, X, scale=2.0, method=method),
        model.init(KEY, X, method=method),
        model.init_with_output(KEY, X, method=method),
    ]


@agrees
def test_method_may_be_any_function_of_the_module(nn):
    model = autoencoder(nn)()
    variables = model.init(KEY, X)

    def latent(model, x):
        return model.decoder(model.encoder(x)), model.encode(x)

    twice = lambda model, x: model(model(x))  # noqa: E731
    return [
        model.apply(variables, X, method=latent),
        model.apply(variables, X, method=twice),
        model.init(KEY, X, method=latent),
    ]


@agrees
def test_a_method_of_a_submodule(nn):
    model = autoencoder(nn)()
    variables = model.init(KEY, X)
    return model.apply(variables, X, method=lambda m, x: m.encoder(x))


@pytest.mark.parametrize("method", [5, lambda: 0, "no_such_method", "width"])
@refuses(wording=False)
def test_what_is_no_method_is_refused(nn, method):
    model = autoencoder(nn)()
    return model.apply(model.init(KEY, X), X, method=method)


@pytest.mark.parametrize(
    "call", ["init", "apply", "init_with_output", "bind", "lazy_init"]
)
@refuses
def test_the_class_is_no_instance(nn, call):
    return getattr(nn.Dense, call)(KEY, X)


@pytest.mark.parametrize("variables", [{"params": 3}, {1: {}}])
@refuses
def test_what_is_no_variables_is_refused(nn, variables):
    return nn.Dense(2).apply(variables, X)


@pytest.mark.parametrize("variables", [None, 3, [], ({"params": {}},)])
def test_what_is_no_mapping_is_refused_by_name(variables):
    with pytest.raises(errors.ApplyScopeInvalidVariablesTypeError):
        linsey.linen.Dense(2).apply(variables, X)


@refuses
def test_params_inside_params(nn):
    variables = nn.Dense(2).init(KEY, X)
    return nn.Dense(2).apply({"params": variables}, X)


@pytest.mark.parametrize("rngs", [1, "key", {"params": 1}, {1: KEY}, jnp.ones(3)])
@refuses(wording=False)
def test_what_is_no_key_is_refused(nn, rngs):
    return nn.Dense(2).init(rngs, X)


@refuses(wording=False)
def test_init_needs_a_key_for_params(nn):
    return nn.Dense(2).init({"dropout": KEY}, X)


@agrees
def test_init_takes_keys_of_all_kinds(nn):
    model = nn.Dense(2)
    return [
        model.init(KEY, X),
        model.init(jax.random.PRNGKey(0), X),
        model.init({"params": KEY}, X),
        model.init({"params": KEY, "dropout": jax.random.key(1)}, X),
    ]


@agrees
def test_init_with_mutable(nn, core):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "x", x)
            self.variable("state", "n", jnp.zeros, ())
            return nn.Dense(2)(x)

    filters = [True, ["params"], core.DenyList("params"), "params"]
    results = []
    for mutable in filters:
        try:
            results.append(Net().init_with_output(KEY, X, mutable=mutable))
        except Exception as error:  # noqa: BLE001
            results.append(type(error).__name__)
    return results


@agrees
def test_apply_returns_a_pair_exactly_if_mutable_is_not_false(nn):
    model = nn.Dense(2)
    variables = model.init(KEY, X)
    filters = [False, [], True, "state", ["params"]]
    return [model.apply(variables, X, mutable=f) for f in filters]


@agrees
def test_arguments_pass_through(nn):
    class Echo(nn.Module):
        @nn.compact
        def __call__(self, a, *rest, b=1, **more):
            return a, rest, b, more

    return Echo().apply({}, 1, 2, 3, b=4, c=5), Echo().init_with_output(KEY, "text")


@agrees(ordered=False)
def test_variables_may_be_frozen_or_plain(nn, core):
    model = nn.Dense(2)
    variables = model.init(KEY, X)
    frozen = core.freeze(variables)
    mixed = {"params": core.freeze(variables["params"])}
    return [
        model.apply(frozen, X),
        model.apply(mixed, X),
        model.apply(frozen, X, mutable=["params"]),
        model.apply(mixed, X, mutable=True),
    ]


@agrees(ordered=False)
def test_results_are_frozen_if_the_flag_is_set(nn, core, config):
    model = autoencoder(nn)()
    with config.temp_flip_flag("return_frozendict", True):
        variables = model.init(KEY, X)
        rest, params = variables.pop("params")
        return variables, rest, params, model.apply(variables, X, mutable=["params"])


@agrees
def test_init_and_apply_under_jit_and_eval_shape(nn):
    model = autoencoder(nn)()
    variables = jax.jit(model.init)(KEY, X)
    shapes = jax.eval_shape(model.init, KEY, X)
    return (
        variables,
        jax.jit(model.apply)(variables, X),
        jax.tree.map(jnp.shape, shapes),
    )


def test_what_apply_returns_shares_nothing_writable_with_its_input():
    class Net(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self):
            self.put_variable("state", "a", 1)

    given = {"state": {"a": 0, "nested": {"b": 2}}, "params": {"w": 3}}
    _, updated = Net().apply(given, mutable=["state"])
    assert updated == {"state": {"a": 1, "nested": {"b": 2}}}
    updated["state"]["nested"]["b"] = "changed"
    updated["state"]["c"] = "new"
    assert given == {"state": {"a": 0, "nested": {"b": 2}}, "params": {"w": 3}}


def test_immutable_collections_are_not_copied():
    class Net(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self):
            return self.scope.variables()["params"]

    params = {"w": {"a": 1}}
    assert Net().apply({"params": params}, mutable=["state"])[0] is params


@agrees
def test_modules_that_use_their_scope_may_be_called_again(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.scope.variable("state", "count", jnp.zeros, ())
            count.value += 1
            w = self.scope.param("w", nn.initializers.ones, (3,))
            return self.scope.child(lambda scope, x: w * x, "inner")(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Inner()
            return inner(inner(x))

    return Net().init_with_output(KEY, X)


@agrees
def test_a_module_in_a_scope_leaves_the_names_of_the_scope_taken(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.scope.param("w", nn.initializers.ones, (3,)) * x

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            scale = lambda scope, x: scope.param("s", nn.initializers.ones, (3,)) * x  # noqa: E731
            x = self.scope.child(scale, prefix="scale")(x)
            x = Inner(parent=self.scope)(x)
            return self.scope.child(scale, prefix="scale")(x)

    return Net().init_with_output(KEY, X)


@agrees
def test_bind_and_unbind(nn):
    model = autoencoder(nn)()
    variables = model.init(KEY, X)
    bound = model.bind(variables)
    again, its_variables = bound.unbind()
    return [
        bound(X),
        bound.encode(X),
        bound.encoder(X),
        bound.variables,
        its_variables,
        again.scope,
        again == model,
        again.apply(its_variables, X),
    ]


@agrees
def test_a_bound_module_keeps_state_and_keys(nn):
    class Counter(nn.Module):
        @nn.compact
        def __call__(self):
            count = self.variable("state", "count", lambda: 0)
            count.value += 1
            return count.value, self.make_rng("noise")

    variables = {"state": {"count": 4}}
    bound = Counter().bind(variables, rngs={"noise": KEY}, mutable=["state"])
    return bound(), bound(), bound.variables, variables


@refuses
def test_unbind_of_an_unbound_module(nn):
    return nn.Dense(2).unbind()


@agrees
def test_unbind_of_a_child_goes_back_to_a_whole_model(nn):
    class Net(nn.Module):
        inner: Any

        def setup(self):
            self.head = nn.Dense(2)

        def __call__(self, x):
            return self.head(self.inner(x))

    model = Net(autoencoder(nn)())
    variables = model.init(KEY, X)
    child, its_variables = model.bind(variables).inner.unbind()
    head, head_variables = model.bind(variables).head.unbind()
    return [
        child.apply(its_variables, X),
        child.name,
        its_variables,
        head.apply(head_variables, X),
        repr(head),
    ]


@agrees
def test_clone_changes_fields(nn):
    model = nn.Dense(2)
    wide = model.clone(features=5, use_bias=False)
    named = model.clone(name="a")
    return wide.init(KEY, X), model.features, repr(wide), named.name


@agrees
def test_clone_of_a_bound_module_is_unbound(nn):
    model = autoencoder(nn)(2)
    bound = model.bind(model.init(KEY, X))
    twin = bound.clone()
    return twin.scope, twin == model, twin.init(jax.random.key(1), X)


@agrees
def test_init_and_apply_of_functions(nn):
    model = autoencoder(nn)()
    make = nn.init(lambda m, x: m.encode(x), model)
    both = nn.init_with_output(lambda m, x: m.encode(x), model)
    variables = make(KEY, X)
    run = nn.apply(lambda m, x, s=1: s * m.encode(x), model)
    changed = nn.apply(lambda m, x: m.encode(x), model, mutable=["params"])
    seen = nn.apply(lambda m, x: m(x), model, capture_intermediates=True)
    full = model.init(KEY, X)
    return [
        variables,
        both(KEY, X),
        run(variables, X),
        run(variables, X, s=2),
        changed(variables, X),
        seen(full, X),
    ]


@agrees(ordered=False)
def test_lazy_init_needs_only_shapes(nn):
    model = autoencoder(nn)()
    abstract = jax.ShapeDtypeStruct(X.shape, X.dtype)
    return [
        model.lazy_init(KEY, abstract),
        model.lazy_init({"params": KEY}, X),
        model.lazy_init(KEY, abstract, method=lambda m, x: m.encode(x)),
    ]


def test_lazy_init_gives_the_bits_of_init():
    model = autoencoder(linsey.linen)()
    abstract = jax.ShapeDtypeStruct(X.shape, X.dtype)
    variables = jax.tree.map(lambda w: w, model.init(KEY, X))
    assert_same(variables, model.lazy_init(KEY, abstract))


def test_lazy_init_does_not_compute_the_call():
    def explode(x):
        raise AssertionError("computed")

    class Net(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            out = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return linsey.linen.Dense(2)(jax.pure_callback(explode, out, x))

    found = Net().lazy_init(KEY, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert found["params"]["Dense_0"]["kernel"].shape == (3, 2)


def test_lazy_init_of_a_value_that_depends_on_the_input():
    """As in Flax 0.12.8; newer ones take zeros for the input."""

    class Net(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            return self.param("w", lambda key: x.mean())

    with pytest.raises(errors.LazyInitError):
        Net().lazy_init(KEY, jax.ShapeDtypeStruct((2, 3), jnp.float32))


@agrees
def test_capture_intermediates(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.helper(nn.Dense(2)(x))

        def helper(self, x):
            return {"a": x, "b": (x, 1)}

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Inner()
            return inner(x)["a"] + inner(x)["a"]

    model = Net()
    variables = model.init(KEY, X)
    named = lambda module, name: name == "helper" or isinstance(module, nn.Dense)  # noqa: E731
    return [
        model.apply(variables, X, capture_intermediates=True),
        model.apply(variables, X, capture_intermediates=named),
        model.apply(
            variables, X, capture_intermediates=True, mutable=["intermediates"]
        ),
        model.apply(variables, X, capture_intermediates=True, mutable=["other"]),
        model.init(KEY, X, capture_intermediates=True),
        model.init_with_output(KEY, X, capture_intermediates=named),
    ]


@agrees
def test_capture_intermediates_asks_about_every_method(nn):
    model = autoencoder(nn)()
    variables = model.init(KEY, X)
    everything = lambda module, name: True  # noqa: E731
    return model.apply(variables, X, capture_intermediates=everything)


def test_modules_and_jax_transforms_do_not_mix():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("state", "count", jnp.zeros, ())

            @jax.jit
            def inner(x):
                count.value = x.sum()
                return x

            return inner(x)

    with pytest.raises(errors.JaxTransformError):
        Net().init(KEY, X)


def test_creating_parameters_inside_a_jax_transform():
    class Net(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            return jax.jit(lambda x: linsey.linen.Dense(2)(x))(x)

    variables = linsey.linen.Dense(2).init(KEY, X)
    Net().apply({"params": {"Dense_0": variables["params"]}}, X)
    with pytest.raises(errors.JaxTransformError):
        Net().init(KEY, X)


@agrees
def test_drawing_keys_inside_a_jax_transform(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jax.jit(lambda x: self.make_rng("params"))(x)

    return Net().init_with_output(KEY, X)


@agrees
def test_reading_parameters_inside_a_jax_transform(nn):
    class Net(nn.Module):
        def setup(self):
            self.w = self.param("w", nn.initializers.ones, (3, 2))

        def __call__(self, x):
            return jax.vmap(lambda row: row @ self.w)(x)

    return Net().init_with_output(KEY, X)


def test_frozen_variables_are_read_in_place():
    model = linsey.linen.Dense(2)
    frozen = freeze(model.init(KEY, X))
    assert_same(model.apply(frozen, X), model.apply(frozen.unfreeze(), X))


@agrees
def test_merge_param(nn):
    return nn.merge_param("a", None, 1), nn.merge_param("a", False, None)


@pytest.mark.parametrize("pair", [(None, None), (1, 2)])
@refuses
def test_merge_param_wants_exactly_one(nn, pair):
    return nn.merge_param("a", *pair)


def changing(change):
    """An interceptor that changes what methods return."""
    return lambda run, args, kwargs, context: change(run(*args, **kwargs))


@agrees
def test_the_interceptor_that_is_opened_last_is_nearest_to_the_method(nn):
    class Same(nn.Module):
        def __call__(self, x):
            return x

    double = nn.intercept_methods(changing(lambda y: 2 * y))
    with double, nn.intercept_methods(changing(lambda y: y + 1)):
        inside = Same()(3)
    double = nn.intercept_methods(changing(lambda y: 2 * y))
    with nn.intercept_methods(changing(lambda y: y + 1)), double:
        return inside, Same()(3), Same().apply({}, 3, capture_intermediates=True)


@agrees
def test_interceptors_see_the_methods_of_the_user(nn):
    seen = []

    def look(run, args, kwargs, context):
        seen.append((type(context.module).__name__, context.method_name))
        return run(*args, **kwargs)

    class Net(nn.Module):
        def setup(self):
            self.norm = nn.GroupNorm(1)

        @nn.compact_name_scope
        def part(self, x):
            return nn.Dropout(0.5, deterministic=True)(x)

        @property
        def one(self):
            return 1

        @staticmethod
        def same(x):
            return x

        @nn.nowrap
        def hidden(self, x):
            return x

        def shown(self, x):
            return self.hidden(x)

        def __call__(self, x):
            return self.part(self.norm(self.same(self.shown(x)))) + self.one

    with nn.intercept_methods(look):
        Net().init(KEY, X)
    return seen


def test_interceptors_see_no_functions_of_the_library():
    seen = set()

    def look(run, args, kwargs, context):
        seen.add(context.method_name)
        return run(*args, **kwargs)

    nn = linsey.linen
    models = nn.RNN(nn.SimpleCell(2)), nn.WeightNorm(nn.Dense(2))
    with nn.intercept_methods(look):
        for model in models:
            jax.eval_shape(model.init, KEY, X[None])
    assert seen == {"__call__"}


def test_a_submodule_may_be_the_method():
    class Net(linsey.linen.Module):
        head: Any

        @linsey.linen.compact
        def __call__(self, x):
            return self.head(x) + 1.0

    net = Net(linsey.linen.Dense(3))
    variables = net.init(KEY, X, method="head")
    y = net.apply(variables, X, method="head")
    np.testing.assert_array_equal(y + 1.0, net.apply(variables, X))


@pytest.mark.parametrize("call", ["init", "init_with_output", "apply", "lazy_init"])
@refuses
def test_a_module_without_a_call(nn, call):
    class Net(nn.Module):
        def other(self, x):
            return x

    return getattr(Net(), call)(KEY if call != "apply" else {}, X)


@agrees
def test_unbind_gives_back_an_equal_module(nn):
    class Net(nn.Module):
        sub: Any
        more: Any = ()

        @nn.compact
        def __call__(self, x):
            return self.sub(x)

    layer = nn.Dropout(0.5, deterministic=True)
    net = Net(Net(layer), (layer, {"a": layer}))
    bound = net.bind({})
    bound(X)
    unbound = bound.unbind()[0]
    names = unbound.name, unbound.sub.name, unbound.more[1]["a"].name
    return unbound == net, names, unbound.more[0] is unbound.more[1]["a"]


@refuses
def test_params_inside_params_beside_others(nn):
    variables = {"params": {"params": {"kernel": X}, "batch_stats": {}}}
    return nn.Dense(2).apply(variables, X)


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.make_rng("a"),
        lambda m: m.has_rng("a"),
        lambda m: m.has_variable("a", "b"),
        lambda m: m.get_variable("a", "b"),
        lambda m: m.put_variable("a", "b", 0),
        lambda m: m.sow("a", "b", 0),
        lambda m: m.perturb("a", 0),
        lambda m: m.is_mutable_collection("a"),
        lambda m: m.is_initializing(),
        lambda m: m.variables,
        lambda m: m.path,
    ],
)
def test_what_an_unbound_module_cannot_do_is_said_as_programs_match_it(ask):
    with pytest.raises(ValueError) as theirs:
        ask(flax.linen.Dense(2))
    with pytest.raises(ValueError) as ours:
        ask(linsey.linen.Dense(2))
    assert first_sentence(ours.value) == first_sentence(theirs.value)


def test_bind_takes_a_key():
    dropout = linsey.linen.Dropout(0.5, deterministic=False)
    one = dropout.bind({}, rngs=KEY)
    np.testing.assert_array_equal(one(X), dropout.bind({}, rngs={"params": KEY})(X))


@pytest.mark.parametrize("method", ["__call__", "run"])
@agrees(refused=True)
def test_a_name_scope_of_an_unbound_module_says_so(nn, method):
    class Model(nn.Module):
        @nn.compact_name_scope
        def __call__(self, x):
            return x

        @nn.compact_name_scope
        def run(self, x):
            return x

    return getattr(Model(), method)(X)
