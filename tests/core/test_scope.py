"""The functional core: plain functions of a scope, on Flax and on linsey."""

from __future__ import annotations

import threading

import flax.core
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.core
from linsey import errors
from linsey.core import scope as core_scope
from tests.compat.agreement import KEY, X, agrees, refuses

KEYS = {"params": KEY, "noise": jax.random.key(1)}


def dense(scope, x, features):
    """A layer as a function of a scope."""
    init = jax.nn.initializers.lecun_normal()
    kernel = scope.param("kernel", init, (x.shape[-1], features))
    return x @ kernel + scope.param("bias", jax.nn.initializers.zeros, (features,))


def mlp(scope, x):
    """Two layers in child scopes."""
    hidden = scope.child(dense, "hidden")(x, 3)
    return scope.child(dense, "out")(jnp.tanh(hidden), 2)


@agrees
def test_init_and_apply(core):
    y, variables = core.init(mlp)(KEY, X)
    return y, variables, core.apply(mlp)(variables, X)


@agrees
def test_apply_returns_what_may_be_written(core):
    def count(scope):
        n = scope.variable("state", "n", lambda: 0)
        if scope.is_mutable_collection("state"):
            n.value += 1
        return n.value

    given = {"state": {"n": 1}, "other": {"m": 2}}
    filters = [False, True, "state", ["other"], core.DenyList("state"), []]
    return [core.apply(count, mutable=f)(given) for f in filters], given


@agrees(ordered=False)
def test_frozen_variables(core):
    variables = core.freeze(core.init(mlp)(KEY, X)[1])
    return core.apply(mlp)(variables, X), core.apply(mlp, mutable=True)(variables, X)[1]


@agrees
def test_automatic_names_of_children(core):
    def model(scope, x):
        x = scope.child(dense)(x, 3)
        x = scope.child(dense)(x, 3)
        x = scope.child(dense, prefix="layer_")(x, 3)
        return scope.child(lambda scope, x: dense(scope, x, 2), "named")(x)

    return core.init(model)(KEY, X)[1]


@agrees
def test_a_child_called_twice_shares_its_variables(core):
    def model(scope, x):
        layer = scope.child(dense, "layer", features=3)
        return layer(layer(x))

    y, variables = core.init(model)(KEY, X)
    return y, variables, core.apply(model)(variables, X)


@agrees
def test_pushed_scopes(core):
    def model(scope, x):
        first = scope.push("first")
        again = scope.push("first", reuse=True)
        second, third = scope.push(prefix="block"), scope.push(prefix="block")
        a = first.param("w", lambda key: 1)
        return [a, again.get_variable("params", "w"), second.name, third.name]

    return core.init(model)(KEY, X)


@refuses(wording=False)
def test_a_name_is_taken_once(core):
    def model(scope):
        scope.push("a")
        scope.push("a")

    return core.apply(model)({})


@refuses(wording=False)
def test_a_parameter_is_declared_once(core):
    def model(scope):
        scope.param("a", lambda key: 1)
        scope.param("a", lambda key: 1)

    return core.init(model)(KEY)


@refuses(wording=False)
def test_a_child_and_a_parameter_cannot_share_a_name(core):
    def model(scope):
        scope.param("a", lambda key: 1)
        scope.child(mlp, "a")

    return core.init(model)(KEY)


@agrees
def test_variables_of_different_collections_may_share_a_name(core):
    def model(scope):
        a = scope.param("a", lambda key: 1)
        return a, scope.variable("state", "a", lambda: 2).value

    return core.init(model)(KEY)


@agrees
def test_reading_and_writing(core):
    def model(scope):
        seen = [scope.has_variable("state", "a"), scope.get_variable("state", "a")]
        seen.append(scope.get_variable("state", "a", 5))
        scope.put_variable("state", "a", jnp.ones(2))
        scope.put_variable("state", "tree", {"b": {"c": 1}})
        scope.put_variable("state", "tree", {"b": {"d": 2}})
        seen.append(scope.get_variable("state", "tree"))
        seen.append(scope.variables())
        child = scope.push("child")
        seen.append(child.has_variable("state", "a"))
        child.put_variable("state", "a", 3)
        return seen

    return core.apply(model, mutable=["state"])({})


@agrees
def test_what_a_scope_knows_about_itself(core):
    def model(scope):
        child = scope.push("a").push("b")
        return [
            scope.path,
            child.path,
            scope.path_text,
            child.path_text,
            child.name,
            child.parent.name,
            child.root is scope,
            child.has_flag("train"),
            child.get_flag("train", None),
            child.get_flag("other", 7),
            child.name_reserved("x"),
            child.is_collection_empty("params"),
            scope.name_reserved("a"),
            scope.has_rng("noise"),
            scope.has_rng("other"),
            scope.is_mutable_collection("params"),
            scope.is_mutable_collection("state"),
        ]

    return core.apply(model, mutable="state", flags={"train": True})({}, rngs=KEYS)


def test_a_flag_that_is_not_set():
    with pytest.raises(ValueError, match="'train' is not set"):
        linsey.core.apply(lambda scope: scope.get_flag("train"))({})


@agrees
def test_keys_count_up_at_every_place(core):
    def draw(scope):
        bits = lambda s, name: jax.random.key_data(s.make_rng(name))  # noqa: E731
        child = scope.push("child")
        again = scope.push("child", reuse=True)
        return [
            bits(scope, "noise"),
            bits(scope, "noise"),
            bits(scope, "params"),
            bits(scope, "unknown"),
            bits(child, "noise"),
            bits(again, "noise"),
            bits(child.rewound(), "noise"),
            bits(child.rewound(rewind_rngs=True), "noise"),
            bits(scope.push("other"), "noise"),
        ]

    return core.apply(draw)({}, rngs=KEYS)


@refuses(wording=False)
def test_a_stream_that_is_not_there(core):
    return core.apply(lambda scope: scope.make_rng("noise"))({})


@agrees
def test_initializers_are_called_only_to_create(core):
    calls = []

    def init(key):
        calls.append("called")
        return jnp.ones(2)

    def model(scope):
        return scope.param("w", init), scope.variable("s", "v", init, KEY).value

    _, variables = core.init(model)(KEY)
    n = len(calls)
    core.apply(model)({**variables, "params": {"w": jnp.zeros(2)}})
    return n


@agrees
def test_an_initializer_may_take_tuples_of_arrays(core):
    def model(scope):
        pair = scope.param("a", jax.nn.initializers.ones, (2,)), jnp.ones(2)
        return scope.param("sum", lambda key, pair: pair[0] + pair[1], pair)

    _, variables = core.init(model)(KEY)
    return core.apply(model)(variables), jax.jit(core.apply(model))(variables)


@refuses
def test_a_parameter_of_another_shape(core):
    return core.apply(dense)({"params": {"kernel": jnp.ones((3, 2))}}, X, 4)


@refuses
def test_a_parameter_that_is_not_there(core):
    return core.apply(dense)({"params": {"other": 1}}, X, 4)


@refuses
def test_a_collection_that_is_not_there(core):
    return core.apply(lambda scope: scope.variable("state", "a").value)({})


@refuses
def test_a_variable_that_is_not_there(core):
    model = lambda scope: scope.variable("state", "a", lambda: 0).value  # noqa: E731
    return core.apply(model)({"state": {"b": 0}})


@refuses
def test_writing_what_may_not_be_written(core):
    model = lambda scope: scope.put_variable("state", "a", 1)  # noqa: E731
    return core.apply(model, mutable="params")({"state": {"a": 0}})


@pytest.mark.parametrize(
    "variables", [{"params": 1}, {1: {}}, {"params": {"params": {}}}]
)
@refuses
def test_what_is_no_variables(core, variables):
    return core.apply(lambda scope: None)(variables)


@pytest.mark.parametrize("rngs", [3, {"params": 3}, {3: KEY}, jnp.ones(5), None])
@refuses(wording=False)
def test_what_is_no_key(core, rngs):
    return core.init(lambda scope: None)(rngs)


@pytest.mark.parametrize("mutable", [3, {"a": 1}.items])
@refuses(wording=False)
def test_what_is_no_filter(core, mutable):
    model = lambda scope: scope.is_mutable_collection("params")  # noqa: E731
    return core.apply(model, mutable=mutable)({"params": {}})


@refuses(wording=False)
def test_a_scope_is_invalid_after_its_call(core):
    kept = []
    core.apply(kept.append)({"params": {"a": 1}})
    return kept[0].put_variable("params", "a", 2)


@pytest.mark.parametrize("use", ["push", "reserve", "param", "make_rng", "child"])
@refuses(wording=False)
def test_an_invalid_scope_refuses_everything(core, use):
    kept = []
    core.apply(kept.append, mutable=True)({"params": {"a": 1}}, rngs=KEYS)
    arguments = {
        "push": ("b",),
        "reserve": (1,),
        "param": ("b", lambda key: 1),
        "make_rng": ("noise",),
        "child": (mlp, "b"),
    }
    return getattr(kept[0], use)(*arguments[use])


@agrees
def test_bind_gives_a_scope_to_work_with(core):
    scope = core.bind({"params": {"a": 1}}, rngs=KEYS, mutable=["state"])
    scope.put_variable("state", "b", 2)
    with scope.temporary() as same:
        inside = same is scope, scope.get_variable("params", "a")
    return inside, scope.invalid, scope.mutable_variables()


@agrees(ordered=False)
def test_lazy_init_of_a_function(core):
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    return core.lazy_init(mlp)(KEY, shape), core.lazy_init(mlp)(KEY, X)


def test_lazy_init_of_a_value_that_depends_on_the_input():
    def model(scope, x):
        return scope.param("w", lambda key: x + 1)

    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    with pytest.raises(errors.LazyInitError):
        linsey.core.lazy_init(model)(KEY, shape)
    try:
        variables = flax.core.lazy_init(model)(KEY, shape)
    except flax.errors.LazyInitError:
        return
    # Newer ones take zeros for the input that nobody gave.
    np.testing.assert_array_equal(variables["params"]["w"], np.ones_like(X))


def test_lazy_init_may_depend_on_values_that_are_there():
    def model(scope, x, y):
        return scope.param("w", lambda key: 2 * x + y.shape[0])

    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    for core in (linsey.core, flax.core):
        variables = core.lazy_init(model)(KEY, X, shape)
        np.testing.assert_array_equal(variables["params"]["w"], 2 * X + len(X))


def test_frozen_variables_that_may_change_have_sorted_keys():
    def model(scope, x):
        return scope.get_variable("params", "b")

    frozen = {"params": {"w": X, "b": X}}
    for core in (linsey.core, flax.core):
        apply = core.apply(model, mutable=True)
        _, updates = apply({"params": core.freeze(frozen["params"])}, X)
        assert list(updates["params"]) == ["b", "w"]
        assert list(apply(frozen, X)[1]["params"]) == ["w", "b"]


def test_writing_from_inside_a_jax_transform():
    def model(scope, x):
        return jax.jit(lambda x: scope.put_variable("state", "x", x))(x)

    with pytest.raises(errors.JaxTransformError):
        linsey.core.apply(model, mutable="state")({}, X)


@agrees
def test_reading_from_inside_a_jax_transform(core):
    def model(scope, x):
        return jax.vmap(lambda row: row @ scope.get_variable("params", "kernel"))(x)

    return core.apply(model)({"params": {"kernel": jnp.ones((3, 2))}}, X)


def test_immutable_collections_are_used_in_place():
    given = {"params": {"a": {"b": 1}}, "state": {"c": {"d": 2}}}

    def model(scope):
        return scope.variables()["params"], scope.variables()["state"]

    (params, state), _ = linsey.core.apply(model, mutable="state")(given)
    assert params is given["params"]
    assert state == given["state"]
    assert state is not given["state"]
    assert state["c"] is not given["state"]["c"]


def test_threads_do_not_see_each_other():
    start = threading.Barrier(4)
    results = {}

    def work(i: int) -> None:
        start.wait()
        for _ in range(5):
            y, _ = linsey.core.init(mlp)(jax.random.key(i), X)
        results[i] = y

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, y in results.items():
        expected, _ = linsey.core.init(mlp)(jax.random.key(i), X)
        np.testing.assert_array_equal(y, expected)
    assert len(results) == 4


@agrees
def test_variables_that_are_references(core):
    def model(scope):
        v = scope.variable("state", "v", lambda: jnp.zeros(()))
        v.value = v.value + 1
        return v.value, v.is_mutable(), v.name, v.collection

    return core.apply(model, mutable="state")({})


def test_the_class_of_variables_is_public():
    def model(scope):
        scope.put_variable("state", "v", 1)
        v = core_scope.Variable(scope, "state", "v")
        v.value += 1
        return v.value, v.is_mutable()

    found, _ = linsey.core.apply(model, mutable="state")({})
    assert found == (2, True)


def test_an_error_says_where():
    def model(scope):
        scope.push("encoder").push("layer").param("w", lambda key: 1)

    with pytest.raises(errors.ScopeCollectionNotFound, match="/encoder/layer"):
        linsey.core.apply(model)({})
