"""Lifted transforms of plain functions of a scope, on Flax and on linsey."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.core
from linsey.core import lift as core_lift
from tests.compat.agreement import KEY, X, agrees, refuses

X3 = jnp.linspace(-1.0, 1.0, 18).reshape(3, 2, 3)
KEYS = {"params": KEY, "noise": jax.random.key(1)}
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


def dense(scope, x, features=3):
    """A layer as a function of a scope."""
    init = jax.nn.initializers.lecun_normal()
    kernel = scope.param("kernel", init, (x.shape[-1], features))
    return x @ kernel


def bits(scope, name="noise"):
    """The bits of the next key of a stream."""
    return jax.random.key_data(scope.make_rng(name))


def count(scope):
    """Counts in the collection `state`."""
    n = scope.variable("state", "n", lambda: jnp.zeros((), jnp.int32))
    n.value = n.value + 1
    return n.value


# -- by hand -------------------------------------------------------------------------


def packed(fn):
    """A function of a scope and an input, that a lifted one calls with them."""

    def lifted(scope_fn, repack_fn, variables, rngs, *args):
        scopes = scope_fn(variables, rngs)
        return fn(scopes, *args), repack_fn(scopes)

    return lifted


def noisy(scope, x):
    """A layer that counts its calls and adds noise."""
    return dense(scope, x) + jax.random.normal(scope.make_rng("noise")) * count(scope)


@agrees
@pytest.mark.parametrize("into", [["params", "state"], ["params", True], [True]])
@pytest.mark.parametrize("out", [["params", "state"], [True]])
def test_packed_functions_create_and_change_variables(core, lift, into, out):
    lifted = lift.pack(packed(noisy), into, out, [["params", "noise"]])
    y, variables = core.init(lifted)(KEYS, X)
    return y, variables, core.apply(lifted, mutable="state")(variables, X, rngs=KEYS)


@agrees
def test_groups_of_a_packed_function(core, lift):
    seen = []

    def fn(scope_fn, repack_fn, variables, rngs, x):
        names = [[sorted(of_scope) for of_scope in group] for group in rngs]
        seen.append((variables, names))
        first, second = scope_fn(variables, rngs)
        y = noisy(first, noisy(second, x))
        groups = repack_fn((first, second))
        seen.append(groups)
        return y, groups

    def model(scope, x):
        scopes = scope.push("a"), scope.push("b")
        return lift.pack(fn, ["params"], ["state", "params"], ["noise", True])(
            scopes, x
        )

    return core.init(model)(KEYS, X), seen


@agrees
def test_a_packed_function_may_write_less(core, lift):
    def fn(scope_fn, repack_fn, variables, rngs):
        scope = scope_fn(variables, rngs, "other")
        is_mutable = scope.is_mutable_collection("state")
        return is_mutable, repack_fn(scope)

    lifted = lift.pack(fn, [True], [True], [])
    given = {"state": {"n": jnp.zeros((), jnp.int32)}}
    return core.apply(lifted, mutable=["state", "other"])(given)


@agrees
def test_packed_functions_take_keyword_arguments_and_nested_scopes(core, lift):
    def fn(scope_fn, repack_fn, variables, rngs, x, *, factor):
        outer, inner = scopes = scope_fn(variables, rngs)
        return factor * dense(outer, dense(inner, x)), repack_fn(scopes)

    def model(scope, x):
        lifted = lift.pack(fn, [True], [True], [True], enable_kwargs=True)
        return lifted((scope, scope.push("in")), x, factor=2)

    return core.init(model)(KEYS, X)


@agrees(ulps=2)
def test_a_transform_made_of_a_packed_function(core, lift):
    def mapped(scope_fn, repack_fn, variables, rngs, x):
        def run(rngs, x):
            scope = scope_fn(variables, rngs)
            return dense(scope, x) + jax.random.normal(scope.make_rng("noise"))

        keys = jax.tree.map(lambda key: jax.random.split(key, 3), rngs)
        return jax.vmap(run)(keys, x), ()

    lifted = lift.pack(mapped, ["params"], [], ["noise"])
    given = {"params": {"kernel": jnp.eye(3)}}
    return core.apply(lifted)(given, X3, rngs=KEYS)


# -- maps and loops ------------------------------------------------------------------


@agrees(ulps=4)
def test_vmap(core, lift):
    def model(scope, x):
        own = lift.vmap(dense, **OWN)(scope.push("own"), x)
        same = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        return lift.vmap(dense, **same)(scope.push("same"), own)

    y, variables = core.init(model)(KEY, X3)
    return y, variables, core.apply(model)(variables, X3)


@agrees(ulps=4)
def test_vmap_over_several_scopes(core, lift):
    def both(scopes, x):
        return dense(scopes["a"], x) + dense(scopes["b"], x)

    def model(scope, x):
        scopes = {name: scope.push(name) for name in "ab"}
        return lift.vmap(both, **OWN)(scopes, x)

    return core.init(model)(KEY, X3)


@agrees(ulps=4)
def test_a_scope_and_its_child_together(core, lift):
    def both(scopes, x):
        return dense(scopes[0], x) + dense(scopes[1], x)

    def model(scope, x):
        return lift.vmap(both, **OWN)((scope, scope.push("child")), x)

    return core.init(model)(KEY, X3)


@agrees
def test_streams_of_vmap(core, lift):
    def model(scope):
        results = []
        for split in (True, False):
            mapped = lift.vmap(
                lambda scope, i: (bits(scope), bits(scope)),
                variable_axes={},
                split_rngs={"noise": split},
            )
            results.append(mapped(scope.push(f"split_{split}"), jnp.arange(3)))
        return results, bits(scope)

    return core.apply(model)({}, rngs=KEYS)


@agrees(ulps=8)
def test_scan(core, lift):
    def step(scope, carry, x):
        return jnp.tanh(dense(scope, carry) + x), carry

    def model(scope, x, xs):
        x, _ = lift.scan(step, **OWN)(scope.push("stacked"), x, xs)
        shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        return lift.scan(step, **shared)(scope.push("shared"), x, xs)

    y, variables = core.init(model)(KEY, X, X3)
    return y, variables, core.apply(model)(variables, X, X3)


@agrees
def test_state_that_is_carried_and_stacked(core, lift):
    def step(scope, carry, x):
        stacked = scope.variable("stack", "x", lambda: 0)
        stacked.value = x
        return carry + count(scope), x

    def model(scope, xs):
        loop = scope.push("loop")
        count(loop.push("child"))
        loop.put_variable("state", "n", jnp.zeros((), jnp.int32))
        options = {"variable_carry": "state", "variable_axes": {"stack": 0}}
        return lift.scan(step, **options)(loop, 0, xs)

    return core.apply(model, mutable=["state", "stack"])({}, jnp.arange(3))


@agrees
def test_streams_of_scan(core, lift):
    def model(scope, split):
        step = lambda scope, c, _: (c, (bits(scope), bits(scope)))  # noqa: E731
        scanned = lift.scan(step, split_rngs={"noise": split}, length=3)
        return scanned(scope.push("loop"), 0, None)[1], bits(scope)

    return [core.apply(model)({}, split, rngs=KEYS) for split in (True, False)]


@agrees
def test_while_loop(core, lift):
    def model(scope):
        count(scope)

        def condition(scope, carry):
            return scope.get_variable("state", "n") < 4

        def body(scope, carry):
            return carry + count(scope.rewound())

        return lift.while_loop(condition, body, scope, 0, carry_variables="state")

    return core.apply(model, mutable="state")({})


@agrees(ulps=8)
def test_remat_scan(core, lift):
    def model(scope, x):
        return lift.remat_scan(dense, lengths=(2, 2))(scope, x)

    y, variables = core.init(model)(KEY, X)
    return y, variables, core.apply(model)(variables, X)


# -- compilation ---------------------------------------------------------------------


@agrees(ulps=4)
def test_remat(core, lift):
    def model(scope, x):
        y = lift.remat(dense)(scope.push("a"), x)
        return lift.checkpoint(dense, static_argnums=1)(scope.push("b"), y, 2)

    y, variables = core.init(model)(KEY, X)
    loss = lambda v: jnp.sum(core.apply(model)(v, X) ** 2)  # noqa: E731
    return y, variables, jax.grad(loss)(variables)


def test_jit():
    compiled = core_lift.jit(dense, static_argnums=2)

    def model(scope, x):
        return compiled(scope.push("b"), compiled(scope.push("a"), x, 3), 2)

    def plain(scope, x):
        return dense(scope.push("b"), dense(scope.push("a"), x, 3), 2)

    y, variables = linsey.core.init(model)(KEY, X)
    expected = linsey.core.apply(plain)(variables, X)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    assert {k: v["kernel"].shape for k, v in variables["params"].items()} == {
        "a": (3, 3),
        "b": (3, 2),
    }


def test_state_under_jit_and_remat():
    def model(scope):
        compiled, again = core_lift.jit(count), core_lift.remat(count)
        a = scope.push("a")
        return [compiled(a), again(a.rewound()), compiled(a.rewound())]

    counts, updated = linsey.core.apply(model, mutable="state")({})
    assert [int(n) for n in counts] == [1, 2, 3]
    assert updated == {"state": {"a": {"n": 3}}}


def test_keys_after_jit_go_on_where_those_inside_ended():
    def model(scope):
        compiled = core_lift.jit(bits)
        return [compiled(scope), bits(scope), compiled(scope), bits(scope)]

    draws = linsey.core.apply(model)({}, rngs=KEYS)
    assert len({draw.tobytes() for draw in map(np.asarray, draws)}) == 4
    again = linsey.core.apply(model)({}, rngs=KEYS)
    np.testing.assert_array_equal(again, draws)


# -- branches ------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
@agrees
def test_cond_and_switch(core, lift, index):
    def model(scope):
        count(scope)

        def stay(scope):
            return scope.get_variable("state", "n")

        def go(scope):
            return count(scope.rewound())

        chosen = lift.cond(index == 0, stay, go, scope)
        return chosen, lift.switch(index, [stay, go], scope)

    return core.apply(model, mutable="state")({})


# -- derivatives ---------------------------------------------------------------------


@agrees(ulps=4)
def test_vjp(core, lift):
    def model(scope, x):
        y, backward = lift.vjp(dense, scope, x)
        return y, backward(jnp.ones_like(y))

    _, variables = core.init(dense)(KEY, X)
    return core.init(model)(KEY, X), core.apply(model)(variables, X)


@agrees(ulps=4)
def test_vjp_of_several_scopes(core, lift):
    def both(scopes, x):
        return dense(scopes["a"], x) * dense(scopes["b"], x)

    def model(scope, x):
        scopes = {name: scope.push(name) for name in "ab"}
        y, backward, aux = lift.vjp(
            lambda s, x: (both(s, x), 2 * x), scopes, x, has_aux=True
        )
        return y, backward(jnp.ones_like(y)), aux

    _, variables = core.init(model)(KEY, X)
    return core.apply(model)(variables, X)


@agrees(ulps=4)
def test_value_and_grad(core, lift):
    def loss(scope, x, y):
        return jnp.sum(dense(scope, x) * y), x

    def model(scope, x):
        return lift.value_and_grad(loss, scope, x, jnp.ones(3), has_aux=True)

    return core.init(model)(KEY, X)


@agrees(ulps=4)
def test_jvp(core, lift):
    _, variables = core.init(dense)(KEY, X)
    ones = jax.tree.map(jnp.ones_like, variables)

    def model(scope, x):
        return lift.jvp(dense, scope, (x,), (jnp.ones_like(x),), ones)

    return core.apply(model)(variables, X)


@agrees(ulps=4)
def test_custom_vjp(core, lift):
    def forward(scope, x):
        return lift.vjp(dense, scope, x)

    def backward(back, cotangent):
        return tuple(jax.tree.map(jnp.sign, back(cotangent)))

    run = lift.custom_vjp(dense, forward, backward)
    _, variables = core.init(run)(KEY, X)
    loss = lambda v, x: jnp.sum(core.apply(run)(v, x) ** 2)  # noqa: E731
    return variables, jax.grad(loss, (0, 1))(variables, X)


# -- what a function sees ------------------------------------------------------------


@agrees
def test_map_variables(core, lift):
    transpose = functools.partial(jax.tree.map, lambda v: v.T)

    def model(scope, x):
        run = lift.map_variables(dense, "params", transpose, transpose, init=True)
        return run(scope, x, 2)

    y, variables = core.init(model)(KEY, X)
    return y, variables, core.apply(model)(variables, X)


@agrees
def test_swap_collection(core, lift):
    def model(scope):
        return lift.swap_collection(count, "state", "other")(scope)

    return core.apply(model, mutable=["state", "other"])(
        {"other": {"n": jnp.full((), 3, jnp.int32)}}
    )


def test_fold_rngs():
    def draw(scope):
        return bits(scope), bits(scope.push("child"))

    def model(scope):
        folded = core_lift.fold_rngs(draw)
        same = scope.push("same")
        return folded(scope.push("a")), folded(same), folded(same), bits(scope)

    draws = jax.tree.leaves(linsey.core.apply(model)({}, rngs=KEYS))
    assert len({np.asarray(d).tobytes() for d in draws}) == len(draws)


@pytest.mark.parametrize("transform", ["remat", "jit", "fold_rngs"])
def test_what_no_filter_selects_is_hidden(transform):
    seen = []

    def look(scope):
        seen.append(
            {
                *(f"reads {c}" for c in given if scope.has_variable(c, "a")),
                *(f"writes {c}" for c in given if scope.is_mutable_collection(c)),
                *(f"draws {s}" for s in KEYS if scope.has_rng(s)),
            }
        )

    def model(scope):
        lifted = getattr(core_lift, transform)
        lifted(look)(scope)
        lifted(look, variables="params", rngs="noise")(scope)

    given = {"state": {"a": 1}, "params": {"a": 2}}
    linsey.core.apply(model, mutable="state")(given, rngs=KEYS)
    everything = {"reads state", "reads params", "writes state"}
    assert seen[0] == everything | {"draws noise", "draws params"}
    assert seen[1] == {"reads params", "draws noise"}


@refuses(wording=False)
def test_the_scope_inside_is_invalid_afterwards(core, lift):
    kept = []

    def model(scope):
        lift.remat(lambda scope: kept.append(scope))(scope)
        kept[0].push("a")

    return core.apply(model, mutable=True)({})


@agrees
def test_groups_of_collections(core, lift):
    xs = {"params": 1, "state": 2, "cache": 3}
    filters = ["params", core.DenyList("cache"), True]
    return [
        lift.group_collections(xs, filters),
        lift.group_collections(xs, [False, True]),
        lift.in_filter(core.DenyList(["a"]), "b"),
        lift.union_filters("a", ["b"]),
        lift.intersect_filters(True, "a"),
        lift.subtract_filters(True, "a"),
        lift.is_filter_empty([]),
    ]
