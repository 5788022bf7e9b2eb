"""`nn.vmap` against Flax: trees, names, bits, outputs, state, gradients, refusals."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses

X3 = jnp.linspace(-1.0, 1.0, 18).reshape(3, 2, 3)
KEYS = {"params": KEY, "noise": jax.random.key(1)}
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
SHARED = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}


def noisy(nn):
    """A module with parameters, state, sown values and a stream of its own."""

    class Noisy(nn.Module):
        width: int = 2

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(self.width)(x)
            noise = jax.random.bits(self.make_rng("noise"), (2,))
            if self.is_mutable_collection("state"):
                count = self.variable("state", "count", jnp.zeros, ())
                count.value += 1
            self.sow("intermediates", "y", y)
            return y, noise

    return Noisy


@pytest.mark.parametrize("options", [OWN, SHARED])
@agrees(ulps=4)
def test_parameters_of_its_own_or_shared(nn, options):
    model = nn.vmap(nn.Dense, **options)(2)
    y, variables = model.init_with_output(KEY, X3)
    return y, variables, model.apply(variables, X3), repr(model)


@pytest.mark.parametrize("axis", [0, 1, -1])
@agrees(ulps=4)
def test_the_axis_of_the_variables(nn, axis):
    mapped = nn.vmap(nn.Dense, variable_axes={"params": axis}, split_rngs={True: True})
    model = mapped(2)
    y, variables = model.init_with_output(KEY, X3)
    return y, variables, model.apply(variables, X3)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "variable_axes",
    [
        {True: 0},
        {"params": 0, "state": None},
        {"params": 0, "state": 0, "intermediates": 0},
        {("params", "state"): 0, "intermediates": 1},
        {"params": 0},
    ],
)
@pytest.mark.parametrize("split", [True, False])
@agrees(ulps=4)
def test_each_collection_and_each_stream_has_its_rule(nn, variable_axes, split):
    streams = {"params": True, "noise": split}
    mapped = nn.vmap(noisy(nn), variable_axes=variable_axes, split_rngs=streams)
    y, variables = mapped().init_with_output(KEYS, X3)
    keys = {"noise": jax.random.key(2)}
    mutable = ["state", "intermediates"]
    return (
        y,
        variables,
        mapped().apply(variables, X3, rngs=keys),
        mapped().apply(variables, X3, rngs=keys, mutable=mutable),
    )


@agrees
def test_filters_of_axes_may_deny(nn, core):
    mapped = nn.vmap(
        noisy(nn),
        variable_axes={"params": None, core.DenyList("params"): 0},
        split_rngs={"params": False, core.DenyList("params"): True},
    )
    return mapped().init(KEYS, X3)


@agrees(ulps=4)
def test_axes_of_arguments_and_results(nn):
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x, pair):
            return nn.Dense(2)(x + pair["a"]), pair["b"] * 2

    mapped = nn.vmap(
        Both,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(1, {"a": None, "b": 0}),
        out_axes=(1, 0),
    )
    x = jnp.swapaxes(X3, 0, 1)
    return mapped().init_with_output(KEY, x, {"a": X[0], "b": jnp.arange(3)})


@agrees(ulps=4)
def test_an_ensemble_maps_no_argument(nn):
    mapped = nn.vmap(nn.Dense, in_axes=None, out_axes=-1, axis_size=3, **OWN)
    y, variables = mapped(2).init_with_output(KEY, X)
    return y, variables, mapped(2).apply(variables, X)


@refuses
def test_the_size_cannot_be_guessed(nn):
    mapped = nn.vmap(nn.Dense, in_axes=None, **OWN)
    return mapped(2).init(KEY, X)


@refuses
def test_an_axis_that_a_variable_has_not(nn):
    mapped = nn.vmap(lambda m, x: x, axis_size=3, variable_axes={"state": 0})
    layer = nn.Dense(2).bind({"state": {"scalar": jnp.zeros(())}})
    return mapped(layer, X3)


@refuses
def test_the_sizes_must_agree(nn):
    class Add(nn.Module):
        def __call__(self, a, b):
            return a + b

    return nn.vmap(Add)().apply({}, jnp.ones((2, 3)), jnp.ones((3, 3)))


def test_keyword_arguments_are_not_mapped():
    nn = linsey.linen

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x, *, by, note):
            return x * by

    y = nn.vmap(Scale)().apply({}, X3, by=jnp.arange(3.0), note="static")
    np.testing.assert_array_equal(y, X3 * jnp.arange(3.0))


@agrees(ulps=8)
def test_gradients_of_variables_with_an_axis(nn):
    model = nn.vmap(nn.Dense, **OWN)(2)
    variables = model.init(KEY, X3)
    return jax.grad(lambda v: jnp.sum(model.apply(v, X3) ** 2))(variables)


@agrees(ulps=4)
def test_inside_a_model_names_count_as_ever(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            Many = nn.vmap(nn.Dense, **OWN)
            x = Many(3)(x)
            x = nn.Dense(3)(x)
            x = Many(3)(x)
            return nn.vmap(nn.Dense, **SHARED)(2, name="named")(x)

    y, variables = Net().init_with_output(KEY, X3)
    return y, variables, Net().apply(variables, X3)


@agrees(ulps=4)
def test_a_lifted_class_in_setup_called_twice(nn):
    class Net(nn.Module):
        def setup(self):
            self.many = nn.vmap(nn.Dense, **OWN)(3)
            self.block = [nn.vmap(nn.Dense, **SHARED)(3) for _ in range(2)]

        def __call__(self, x):
            for layer in self.block:
                x = layer(x)
            return self.many(self.many(x))

    y, variables = Net().init_with_output(KEY, X3)
    return y, variables, Net().apply(variables, X3)


@agrees(ulps=4)
def test_a_function_of_a_module(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2)
            mapped = nn.vmap(lambda layer, x: layer(x), **OWN)
            return mapped(layer, x)

    y, variables = Net().init_with_output(KEY, X3)
    return y, variables, Net().apply(variables, X3)


@agrees(ulps=4)
def test_a_method_of_the_module_itself(nn):
    class Net(nn.Module):
        @functools.partial(nn.vmap, **OWN)
        @nn.compact
        def __call__(self, x):
            b = self.param("b", nn.initializers.ones, (2,))
            return nn.Dense(2)(nn.Dense(3)(x)) + b

    y, variables = Net().init_with_output(KEY, X3)
    return y, variables, Net().apply(variables, X3)


@agrees(ulps=4)
def test_several_methods_with_options_of_their_own(nn):
    class Coder(nn.Module):
        def setup(self):
            self.encoder = nn.Dense(2)
            self.decoder = nn.Dense(3)

        def __call__(self, x):
            return self.decode(self.encode(x))

        def encode(self, x):
            return self.encoder(x)

        def decode(self, z):
            return self.decoder(z)

    methods = {
        "__call__": OWN,
        "encode": {**OWN, "in_axes": 1, "out_axes": 1},
        "decode": OWN,
    }
    model = nn.vmap(Coder, methods=methods)()
    y, variables = model.init_with_output(KEY, X3)
    return (
        y,
        variables,
        model.apply(variables, jnp.swapaxes(X3, 0, 1), method="encode"),
        model.apply(variables, X3[..., :2], method="decode"),
    )


@agrees(ulps=4)
def test_a_list_of_methods(nn):
    class Coder(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def once(self, x):
            return self.layer(x)

        def twice(self, x):
            return self.once(self.once(x))

    model = nn.vmap(Coder, methods=["once", "twice"], **OWN)()
    y, variables = model.init_with_output(KEY, X3, method="twice")
    return y, variables, model.apply(variables, X3, method="once")


@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_batch_norm_inside_with_and_without_a_named_axis(nn):
    class Net(nn.Module):
        axis_name: Any

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2)(x)
            return nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(x)

    mapped = nn.vmap(
        Net,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_name="batch",
    )
    variables = mapped(None).init(KEY, X3)
    return (
        variables,
        mapped(None).apply(variables, X3, mutable=["batch_stats"]),
        mapped("batch").apply(variables, X3, mutable=["batch_stats"]),
    )


@agrees(ulps=4)
def test_two_levels(nn):
    inner = nn.vmap(
        nn.Dense, variable_axes={"params": 1}, split_rngs={"params": True}, in_axes=1
    )
    outer = nn.vmap(inner, **OWN)
    y, variables = outer(2).init_with_output(KEY, X3)
    return y, variables, repr(outer(2))


@agrees(ulps=4)
def test_a_module_shared_between_inside_and_outside(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            x = layer(x)
            x = nn.vmap(lambda mdl, x: mdl(x), **SHARED)(layer, x)
            return layer(x)

    y, variables = Net().init_with_output(KEY, X3)
    return y, variables, Net().apply(variables, X3)


@agrees(ulps=4)
def test_a_module_passed_as_a_field(nn):
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            x = layer(x)
            return nn.vmap(Wrap, **SHARED)(layer)(x)

    alone = nn.vmap(Wrap, **OWN)(nn.Dense(2))
    return Net().init_with_output(KEY, X3), alone.init_with_output(KEY, X3)


@agrees(ulps=4, ordered=False)
def test_a_module_as_an_argument(nn):
    class Apply(nn.Module):
        @nn.compact
        def __call__(self, layer, x):
            return layer(x) + nn.Dense(3)(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return nn.vmap(Apply, in_axes=(None, 0), **OWN)()(layer, x)

    return Net().init_with_output(KEY, X3)


def test_several_modules_at_once():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            modules = {"a": nn.Dense(3), "b": nn.Dense(2)}
            return nn.vmap(lambda m, x: m["b"](m["a"](x)), **OWN)(modules, x)

    shapes = jax.tree.map(jnp.shape, Net().init(KEY, X3)["params"])
    assert shapes["Dense_0"]["kernel"] == (3, 3, 3)
    assert shapes["Dense_1"]["kernel"] == (3, 3, 2)


@agrees(ulps=4)
def test_metadata_gets_the_axis(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            return nn.Dense(2, kernel_init=init)(x)

    results = []
    for axis in (0, 1):
        mapped = nn.vmap(
            Net,
            variable_axes={"params": axis},
            split_rngs={"params": True},
            metadata_params={nn.PARTITION_NAME: "many"},
        )
        y, variables = mapped().init_with_output(KEY, X3)
        results += [y, variables, mapped().apply(variables, X3)]
    return results


@pytest.mark.parametrize("transform", ["vmap", "scan"])
@agrees
def test_a_box_may_change_the_rank_of_its_value(nn, core, struct, transform):
    class Mean(struct.PyTreeNode, core.meta.AxisMetadata):
        value: Any

        def unbox(self):
            return self.value

        def replace_boxed(self, value):
            return self.replace(value=value)

        def add_axis(self, index, params):
            return self.replace(value=jnp.mean(self.value, axis=index))

        def remove_axis(self, index, params):
            shape = (*self.value.shape[:index], 3, *self.value.shape[index:])
            return self.replace(value=jnp.broadcast_to(self.value[..., None], shape))

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            value = self.variable("aux", "v", lambda: Mean(jnp.full(2, 3.0)))
            return (x, value.value) if transform == "scan" else x + value.value

    model = getattr(nn, transform)(Layer, variable_axes={"aux": 1})()
    args = (0.0, X3) if transform == "scan" else (X3[:, :, :2],)
    y, variables = model.init_with_output(KEY, *args)
    return y, variables["aux"]["v"].value, model.apply(variables, *args)


@agrees
def test_collections_that_are_not_named_cannot_be_seen(nn):
    class Reader(nn.Module):
        def __call__(self, x):
            return x + 1, self.has_variable("state", "a"), self.has_rng("noise")

    mapped = nn.vmap(Reader, variable_axes={"params": 0}, out_axes=(0, None, None))
    given = {"state": {"a": jnp.ones(3)}}
    return mapped().apply(given, X3, rngs={"noise": KEY})


@refuses(wording=False)
def test_a_stream_that_is_not_named_cannot_be_drawn_from(nn):
    mapped = nn.vmap(nn.Dense, variable_axes={"params": 0})
    return mapped(2).init(KEY, X3)


@refuses(wording=False)
def test_what_depends_on_the_axis_cannot_be_shared(nn):
    mapped = nn.vmap(
        nn.Dense, variable_axes={"params": None}, split_rngs={"params": True}
    )
    return mapped(2).init(KEY, X3)


@pytest.mark.parametrize("target", [3, None, "Dense"])
@refuses(wording=False)
def test_what_cannot_be_lifted(nn, target):
    return nn.vmap(target)(KEY)


@refuses(wording=False)
def test_an_instance_cannot_be_lifted(nn):
    return nn.vmap(nn.Dense(2))


@refuses(wording=False)
def test_a_module_cannot_be_returned(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(lambda mdl, x: nn.Dense(2), **OWN)(self, x)

    return Net().init(KEY, X3)


def test_an_unbound_module_cannot_be_mapped():
    nn = linsey.linen
    with pytest.raises(errors.CallCompactUnboundModuleError):
        nn.vmap(lambda mdl, x: mdl(x), **OWN)(nn.Dense(2), X3)


@agrees(ulps=4)
def test_axes_may_differ_on_the_way_in_and_out(nn, lift):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            v = self.variable("state", "v", jnp.zeros, (2,))
            v.value = v.value + x
            return v.value

    axes = [{"state": lift.Out(0)}, {"state": 0}]
    x = jnp.arange(6.0).reshape(3, 2)
    given = {"state": {"v": jnp.ones((3, 2))}}
    return [
        nn.vmap(Net, variable_axes=a)().apply(given, x, mutable=["state"]) for a in axes
    ]


def test_a_value_of_one_instance_cannot_escape_to_the_module_outside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def leak(mdl, x):
                self.put_variable("state", "x", x)
                return x

            return nn.vmap(leak, variable_axes={"state": 0})(self, x)

    with pytest.raises(errors.JaxTransformError):
        Net().apply({}, X3, mutable=["state"])
