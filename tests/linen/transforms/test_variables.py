"""`map_variables`, `fold_rngs`, `add_metadata_axis`, `named_call` against Flax."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

import linsey.linen
from tests.compat.agreement import KEY, X, agrees, refuses


def transposed(variables):
    return jax.tree.map(lambda v: v.T, variables)


def signs(variables):
    return jax.tree.map(jnp.sign, variables)


@pytest.mark.parametrize(
    "options",
    [
        {"trans_in_fn": transposed, "trans_out_fn": transposed, "init": True},
        {
            "trans_in_fn": transposed,
            "trans_out_fn": transposed,
            "init": True,
            "mutable": True,
        },
        {"trans_in_fn": signs, "init": True},
    ],
)
@agrees(ulps=8)
def test_map_variables_of_a_class(nn, options):
    class Mapped(nn.map_variables(nn.Dense, "params", **options)):
        pass

    model = nn.map_variables(nn.Dense, "params", **options)(2)
    y, variables = model.init_with_output(KEY, X)
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, X) ** 2))(variables)
    subclass = Mapped(2).init_with_output(KEY, X)
    return y, variables, model.apply(variables, X), gradient, repr(model), subclass


@agrees(ulps=8)
def test_tied_weights(nn):
    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2, use_bias=False)
            z = layer(x)
            run = nn.map_variables(decode, "params", transposed, mutable=False)
            return z, run(layer, z)

    def decode(layer, z):
        return z @ layer.get_variable("params", "kernel")

    y, variables = Autoencoder().init_with_output(KEY, X)
    return y, variables, Autoencoder().apply(variables, X)


@agrees(ulps=8)
def test_map_variables_of_a_function_and_a_method(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = self.negated(x)
            double = functools.partial(jax.tree.map, lambda v: 2 * v)
            half = functools.partial(jax.tree.map, lambda v: v / 2)
            run = nn.map_variables(
                lambda mdl, x: mdl(x), "params", double, half, init=True
            )
            return run(nn.Dense(2), x)

        @functools.partial(
            nn.map_variables,
            mapped_collections="params",
            trans_in_fn=signs,
            init=True,
        )
        def negated(self, x):
            return nn.Dense(3)(x)

    y, variables = Net().init_with_output(KEY, X)
    return y, variables, Net().apply(variables, X)


@agrees(ulps=8)
def test_map_variables_may_make_collections_of_others(nn):
    def to_params(variables):
        return {"params": jax.tree.map(lambda v: v * 2, variables.get("stored", {}))}

    def to_stored(variables):
        return {"stored": jax.tree.map(lambda v: v / 2, variables.get("params", {}))}

    model = nn.map_variables(
        nn.Dense, ["params", "stored"], to_params, to_stored, init=True
    )(2)
    y, variables = model.init_with_output(KEY, X)
    return y, variables, model.apply(variables, X)


@pytest.mark.parametrize("mutable", [True, False])
@agrees(ulps=8)
def test_mapped_state_is_written_through_the_inverse(nn, mutable):
    class Counter(nn.Module):
        @nn.compact
        def __call__(self):
            count = self.variable("state", "count", lambda: jnp.zeros(()))
            if self.is_mutable_collection("state"):
                count.value += 1
            return count.value

    model = nn.map_variables(
        Counter,
        "state",
        functools.partial(jax.tree.map, lambda v: v * 10),
        functools.partial(jax.tree.map, lambda v: v / 10),
        mutable=mutable,
    )()
    given = {"state": {"count": jnp.full((), 3.0)}}
    return model.apply(given), model.apply(given, mutable=["state"])


def test_variables_that_exist_are_not_created_again():
    nn = linsey.linen

    class Counter(nn.Module):
        @nn.compact
        def __call__(self):
            count = self.variable("state", "count", lambda: jnp.zeros(()))
            count.value += 1
            return count.value

    given = {"state": {"count": jnp.full((), 3.0)}}
    for init in (True, False):
        model = nn.map_variables(Counter, "state", init=init, mutable=True)()
        assert model.apply(given, mutable=["state"])[0] == 4.0


@refuses(wording=False)
def test_mapped_variables_are_created_only_if_told(nn):
    return nn.map_variables(nn.Dense, "params", transposed)(2).init(KEY, X)


@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_batch_norm_under_map_variables_is_updated_once(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, momentum=0.5)(x)
            return nn.Dense(2)(x)

    variables = nn.map_variables(Net, "params", signs, init=True)().init(KEY, X)
    model = nn.map_variables(Net, "params", signs)()
    return variables, model.apply(variables, X, mutable=["batch_stats"])


@agrees
def test_fold_rngs(nn):
    class Draw(nn.Module):
        @nn.compact
        def __call__(self):
            bits = lambda mdl: jax.random.bits(mdl.make_rng("noise"), ())  # noqa: E731
            w = self.param("w", nn.initializers.normal(), (2,))
            return w, bits(self), bits(self), nn.fold_rngs(bits)(self), bits(self)

    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            folded = nn.fold_rngs(Draw)
            return folded()(), Draw()(), folded(name="named")()

    return Net().init_with_output({"params": KEY, "noise": jax.random.key(1)})


def test_modules_inside_of_a_folded_one_have_keys_of_their_own():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.Sequential([nn.Dense(3), nn.Dense(3)])
            return nn.fold_rngs(lambda mdl, x: mdl(x))(layers, x)

    first, second = Net().init(KEY, X)["params"].values()
    assert (first["kernel"] != second["kernel"]).all()


@agrees(ulps=8)
def test_add_metadata_axis(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            return nn.Dense(2, kernel_init=init)(x)

    model = nn.add_metadata_axis(
        Net, variable_axes={"params": 0}, metadata_params={nn.PARTITION_NAME: "stack"}
    )()
    return model.init_with_output(KEY, X), repr(model)


@agrees
def test_add_metadata_axis_runs_a_module_once(nn):
    class Count(nn.Module):
        def __call__(self):
            self.sow("state", "seen", 1.0)
            return jax.random.bits(self.make_rng("noise"), (2,))

    model = nn.add_metadata_axis(Count, variable_axes={"params": 0, True: None})()
    keys = {"params": KEY, "noise": KEY}
    return model.init(keys), model.apply({}, rngs=keys, mutable=True)


def test_add_metadata_axis_without_axes_changes_nothing():
    nn = linsey.linen
    assert nn.add_metadata_axis(nn.Dense) is nn.Dense


@agrees(ulps=8)
def test_named_call(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.named_call(lambda mdl, x: nn.Dense(3)(x))(self, x)
            return self.tail(x)

        @nn.named_call
        def tail(self, x):
            return nn.Dense(2)(x)

    return Net().init_with_output(KEY, X)


def test_named_call_of_a_class():
    layer = linsey.linen.named_call(linsey.linen.Dense)(3)
    assert layer.init_with_output(KEY, X)[0].shape == (2, 3)
