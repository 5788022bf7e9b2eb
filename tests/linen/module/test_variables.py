"""Variables of modules: declared, read, written, sown, perturbed as in Flax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses


@agrees
def test_a_variable_is_created_once_and_then_read(nn):
    class Counter(nn.Module):
        @nn.compact
        def __call__(self):
            ready = self.has_variable("state", "count")
            count = self.variable("state", "count", lambda: jnp.zeros((), jnp.int32))
            if ready:
                count.value += 1
            return count.value

    model = Counter()
    variables = model.init(KEY)
    seen = []
    for _ in range(2):
        y, updated = model.apply(variables, mutable=["state"])
        variables = {**variables, **updated}
        seen.append(y)
    return seen, variables


@agrees
def test_the_initializer_gets_its_arguments(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            w = self.param("w", lambda key, a, b=1: jnp.full((a,), b), 2, b=3)
            v = self.variable("state", "v", lambda a, b=1: jnp.full((a,), b), 2, b=3)
            return w, v.value

    return Net().init_with_output(KEY)


@agrees
def test_parameters_may_be_any_tree(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.param(
                "w", lambda key: {"a": jnp.ones(2), "b": (jnp.ones(1), 3)}
            )

    model = Net()
    y, variables = model.init_with_output(KEY)
    return y, variables, model.apply(variables)


@agrees
def test_nested_dictionaries_as_values_of_variables(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, value):
            state = self.variable("state", "tree", lambda: {"a": {"b": 1}})
            state.value = value
            return state.value

    model = Net()
    variables = model.init(KEY, {"a": {"b": 2}})
    return variables, model.apply(variables, {"a": {"c": 3}}, mutable=["state"])


@agrees
def test_put_and_get_variables(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            before = self.get_variable("state", "a"), self.get_variable("state", "a", 7)
            self.put_variable("state", "a", jnp.ones(()))
            self.put_variable("state", "a", jnp.zeros(()))
            return before, self.get_variable("state", "a"), self.variables

    return Net().init_with_output(KEY)


@agrees
def test_variables_of_a_module_and_its_children(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2)
            before = dict(layer.variables)
            y = layer(x)
            return before, layer.variables, self.variables, y

    return Net().init_with_output(KEY, X)


@refuses
def test_the_variables_of_an_unbound_module(nn):
    return nn.Dense(2).variables


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("has_variable", ("params", "w")),
        ("get_variable", ("params", "w")),
        ("put_variable", ("params", "w", 1)),
        ("is_mutable_collection", ("params",)),
        ("make_rng", ("params",)),
        ("has_rng", ("params",)),
        ("sow", ("intermediates", "w", 0)),
        ("perturb", ("w", 0)),
        ("is_initializing", ()),
    ],
)
@refuses(wording=False)
def test_an_unbound_module_has_no_variables_and_no_keys(nn, name, args):
    return getattr(nn.Dense(2), name)(*args)


@agrees
def test_mutable_filters(nn, core):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            names = ("params", "state", "cache")
            return [self.is_mutable_collection(name) for name in names]

    filters = [
        False,
        True,
        [],
        "state",
        ["state", "cache"],
        {"state"},
        core.DenyList("params"),
        core.DenyList(["params", "state"]),
    ]
    return [Net().apply({"state": {"a": 1}, "params": {}}, mutable=f) for f in filters]


@refuses
def test_writing_an_immutable_collection(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.variable("state", "a", lambda: 0).value = 1

    return Net().apply({"state": {"a": 0}})


@refuses
def test_putting_into_an_immutable_collection(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.put_variable("params", "a", 1)

    return Net().apply({"params": {"a": 0}}, mutable=["state"])


@refuses
def test_a_parameter_that_is_not_there(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="other")(x)

    return Net().apply({"params": {"Dense_0": {}}}, X)


@refuses
def test_a_parameter_of_a_collection_that_is_not_there(nn):
    return nn.Dense(2).apply({}, X)


@refuses
def test_a_variable_that_is_not_there(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.variable("state", "a", lambda: 0).value

    return Net().apply({"state": {"b": 0}})


@refuses
def test_a_variable_of_a_collection_that_is_not_there(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.variable("state", "a", lambda: 0).value

    return Net().apply({})


@refuses
def test_a_variable_without_initializer_that_is_not_there(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.variable("state", "a").value

    return Net().apply({"state": {"b": 0}}, mutable=["state"])


@agrees
def test_a_variable_without_initializer_that_is_there(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.variable("state", "a").value

    return Net().apply({"state": {"a": 5}})


@refuses
def test_a_parameter_of_another_shape(nn):
    return nn.Dense(2).apply(nn.Dense(2).init(KEY, X), jnp.ones((2, 4)))


@refuses
def test_a_parameter_of_another_width(nn):
    return nn.Dense(4).apply(nn.Dense(2).init(KEY, X), X)


@refuses
def test_a_parameter_whose_shape_only_the_initializer_knows(nn):
    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self):
            return self.param("w", lambda key: jnp.ones((self.width,)))

    return Net(3).apply(Net(2).init(KEY))


@agrees
def test_parameters_may_be_stored_in_another_dtype(nn):
    variables = nn.Dense(2).init(KEY, X)
    half = jax.tree.map(lambda w: w.astype(jnp.float16), variables)
    return nn.Dense(2).apply(half, X)


@agrees
def test_parameters_may_be_numpy_arrays(nn):
    variables = jax.tree.map(np.asarray, nn.Dense(2).init(KEY, X))
    return nn.Dense(2).apply(variables, X)


@agrees
def test_parameters_are_created_where_params_is_mutable(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.Dense(3, name="known")(x))

    known = {"known": nn.Dense(3).init(jax.random.key(7), X)["params"]}
    return Net().apply({"params": known}, X, rngs={"params": KEY}, mutable=["params"])


@agrees
def test_unused_variables_pass_through(nn):
    variables = nn.Dense(2).init(KEY, X)
    extra = {"params": {**variables["params"], "unused": {"w": 1}}, "other": {"a": 1}}
    return nn.Dense(2).apply(extra, X, mutable=True)


@agrees
def test_sow_collects_in_tuples(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stored = []
            for i in range(2):
                stored.append(self.sow("intermediates", "x", x + i))
            layer = nn.Dense(2)
            layer.sow("intermediates", "early", x)
            return layer(x), stored, self.sow("losses", "l2", 1.0)

    model = Net()
    variables = model.init(KEY, X)
    return [
        variables,
        model.apply(variables, X),
        model.apply(variables, X, mutable=["intermediates"]),
        model.apply(variables, X, mutable=["losses"]),
    ]


@agrees
def test_sow_with_a_reduction(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                self.sow("sums", "x", x, init_fn=lambda: 0.0, reduce_fn=jnp.add)
            self.sow("last", "x", x, init_fn=lambda: None, reduce_fn=lambda _, b: b)
            return x

    return Net().init(KEY, X), Net().apply({}, X, mutable=["sums", "last"])


@agrees
def test_sow_goes_on_from_what_is_given(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "x", x)

    given = {"intermediates": {"x": (jnp.zeros(1),)}}
    return Net().apply(given, X, mutable=["intermediates"])


@agrees
def test_sow_in_a_plain_method_and_in_a_shared_module(nn):
    class Inner(nn.Module):
        def __call__(self, x):
            self.sow("intermediates", "x", x)
            return x + 1

    class Net(nn.Module):
        def setup(self):
            self.inner = Inner()

        def __call__(self, x):
            return self.inner(self.inner(x))

    return Net().apply({}, X, mutable=["intermediates"])


def test_sow_under_the_name_of_a_submodule():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(2, name="a")(x)
            self.sow("intermediates", "a", y)
            return y

    with pytest.raises(errors.NameInUseError):
        Net().init_with_output(KEY, X, mutable=True)


@pytest.mark.parametrize("col", ["params", "intermediates"])
@refuses
def test_sow_does_not_append_to_the_variables_of_a_submodule(nn, col):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(2, name="a")(x)
            self.sow(col, "a", y)
            return y

    return Net().init(KEY, X, capture_intermediates=True)


@agrees
def test_sow_under_the_name_of_a_variable_of_another_collection(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.ones, ())
            self.sow("intermediates", "w", w)
            return w

    return Net().init_with_output(KEY, X, mutable=True)


@agrees
def test_perturb_gives_gradients_of_intermediates(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = self.perturb("hidden", nn.Dense(3)(x))
            tree = self.perturb("tree", {"a": x, "b": x})
            return nn.Dense(2)(tree["a"]).sum()

    model = Net()
    variables = model.init(KEY, X)
    by = {"perturbations": variables["perturbations"]}
    loss = lambda by: model.apply({"params": variables["params"], **by}, X)  # noqa: E731
    return (
        variables,
        jax.grad(loss)(by),
        model.apply({"params": variables["params"]}, X),
    )


@agrees
def test_perturb_into_another_collection(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("x", x, collection="bumps")

    return Net().init(KEY, X), Net().apply({"bumps": {"x": jnp.ones_like(X)}}, X)


@refuses
def test_perturb_with_a_collection_that_lacks_the_variable(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("x", x)

    return Net().apply({"perturbations": {"y": X}}, X)


@agrees
def test_boxed_values_are_unboxed_at_the_read(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            init = nn.with_partitioning(nn.initializers.ones, ("a", None))
            w = self.param("w", init, (2, 3))
            boxed = self.param("boxed", init, (2, 3), unbox=False)
            v = self.variable("state", "v", lambda: init(KEY, (2, 3)))
            v.value = v.value + 1
            return w, boxed, v.value

    model = Net()
    y, variables = model.init_with_output(KEY)
    return y, variables, model.apply(variables, mutable=["state"])


@refuses
def test_a_boxed_parameter_of_another_shape(nn):
    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self):
            init = nn.with_partitioning(nn.initializers.ones, ("a",))
            return self.param("w", init, (self.width,))

    return Net(3).apply(Net(2).init(KEY))


@agrees
def test_modules_see_the_streams_they_are_given(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self):
            has = [self.has_rng(name) for name in ("params", "dropout", "other")]
            draws = [
                self.make_rng("dropout"),
                self.make_rng("dropout"),
                self.make_rng(),
            ]
            return has, draws

    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            inner = Inner()
            return inner(), inner(), Inner()(), self.make_rng("dropout")

    rngs = {"params": KEY, "dropout": jax.random.key(1)}
    return (
        Net().apply({}, rngs=rngs),
        Net().init_with_output(rngs),
        Net().apply({}, rngs=KEY),
    )


@agrees
def test_is_initializing(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            return self.is_initializing()

    return Net().init_with_output(KEY), Net().apply({}), Net().apply({}, mutable=True)


@agrees
def test_an_optional_variable_decides_by_its_presence(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            if self.has_variable("cache", "x"):
                return self.get_variable("cache", "x")
            return -1

    return Net().apply({}), Net().apply({"cache": {"x": 3}}), Net().init(KEY)


@agrees
def test_empty_collections_are_not_created(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "x", x)
            return nn.relu(x)

    return Net().init(KEY, X), Net().apply(
        {"params": {}}, X, mutable=["params", "batch"]
    )


def test_a_boxed_parameter_adds_nothing_to_the_program():
    nn = linsey.linen

    def program(kernel_init):
        model = nn.Dense(2, kernel_init=kernel_init)
        variables = nn.meta.unbox(model.init(KEY, X))
        boxed = model.init(KEY, X)
        return [
            str(jax.make_jaxpr(model.apply)(tree, X)) for tree in (variables, boxed)
        ]

    plain = nn.initializers.lecun_normal()
    assert (
        len({*program(plain), *program(nn.with_partitioning(plain, ("a", "b")))}) == 1
    )
