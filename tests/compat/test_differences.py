"""Where linsey differs from Flax on purpose: what Flax does, and what linsey does.

`docs/compatibility.md` lists these and the differences that are tested elsewhere.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors

LIBRARIES = {"flax": flax.linen, "linsey": linsey.linen}
KEY = jax.random.key(0)
# Newer Flax agrees with linsey.
FLAX_KEEPS_OBJECTS = tuple(map(int, flax.__version__.split(".")[:3])) <= (0, 12, 8)


def batch_norm(nn, **options):
    return nn.BatchNorm(use_running_average=False, **options)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def jitted_dropout(nn, runs_before: int) -> np.ndarray:
    """The mask of a compiled dropout layer, after others ran in the same process."""

    class Noise(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(nn.Dropout)(0.5, deterministic=False)(x)

    x = jnp.ones(64)
    for i in range(runs_before):
        Noise().apply({}, jnp.ones(3 + i), rngs={"dropout": KEY})
    return np.asarray(Noise().apply({}, x, rngs={"dropout": KEY}))


def test_keys_inside_jit_do_not_depend_on_what_ran_before():
    first = jitted_dropout(linsey.linen, runs_before=0)
    np.testing.assert_array_equal(first, jitted_dropout(linsey.linen, runs_before=3))


def test_training_without_batch_stats_is_an_error():
    x = normal(0, 8, 3)
    norm = batch_norm(flax.linen)
    params = norm.init(KEY, x)["params"]
    _, made_anew = norm.apply({"params": params}, x, mutable=["batch_stats"])
    assert "batch_stats" in made_anew  # and thrown away at each step

    norm = batch_norm(linsey.linen)
    with pytest.raises(errors.MissingBatchStatsError, match="batch_stats"):
        norm.apply({"params": params}, x, mutable=["batch_stats"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_variance_is_accurate_at_any_offset(library):
    x = 3000 + 0.01 * normal(0, 4096, 2)
    norm = batch_norm(LIBRARIES[library], use_scale=False, use_bias=False)
    variables = norm.init(KEY, x)
    y, _ = norm.apply(variables, x, mutable=["batch_stats"])
    exact = np.float64(x).var(axis=0)
    expected = np.sqrt(exact / (exact + 1e-5))
    close = np.allclose(np.float64(y).std(axis=0), expected, rtol=0.01)
    assert close == (library == "linsey")


@pytest.mark.parametrize("library", LIBRARIES)
def test_masked_parts_are_weighted_by_what_they_count(library):
    x = normal(0, 2, 4, 3)  # (parts, batch, features)
    mask = jnp.array([[True] * 4, [True, False, False, False]])[..., None]
    norm = batch_norm(LIBRARIES[library], axis_name="parts", momentum=0.0)
    variables = norm.init(KEY, x[0])
    _, updates = jax.vmap(
        lambda x, mask: norm.apply(variables, x, mask=mask, mutable=["batch_stats"]),
        out_axes=(0, None),
        axis_name="parts",
    )(x, mask)
    whole = x.reshape(8, 3)[mask.reshape(8)]
    close = np.allclose(
        updates["batch_stats"]["mean"], np.float64(whole).mean(axis=0), atol=1e-6
    )
    assert close == (library == "linsey")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("batch", ["masked", "empty", "not finite"])
def test_a_batch_without_values_leaves_the_averages_alone(library, batch):
    x = normal(0, 4, 3)
    norm = batch_norm(LIBRARIES[library])
    variables = norm.init(KEY, x)
    mask = None
    if batch == "masked":
        mask = jnp.zeros((4, 1), bool)
    elif batch == "empty":
        x = x[:0]
    else:
        x = x.at[0].set(jnp.nan)
    _, updates = norm.apply(variables, x, mask=mask, mutable=["batch_stats"])
    kept = jax.tree.map(
        np.array_equal, updates["batch_stats"], variables["batch_stats"]
    )
    assert jax.tree.all(kept) == (library == "linsey")


def test_a_traced_flag_is_named():
    norm = linsey.linen.BatchNorm()
    x = normal(0, 4, 3)
    variables = norm.init(KEY, x, use_running_average=True)

    def evaluate(flag):
        return norm.apply(variables, x, use_running_average=flag)

    with pytest.raises(errors.TracedFlagError, match="use_running_average"):
        jax.jit(evaluate)(True)


def test_an_input_with_other_channels_is_named():
    norm = linsey.linen.BatchNorm(use_running_average=True)
    variables = norm.init(KEY, normal(0, 2, 5, 5, 3))
    with pytest.raises(errors.FeatureShapeChangedError, match="3"):
        norm.apply(variables, normal(0, 2, 3, 5, 5))


def test_an_axis_name_that_is_not_bound_is_named():
    norm = batch_norm(linsey.linen, axis_name="devices")
    x = normal(0, 4, 3)
    variables = norm.init(KEY, x)
    with pytest.raises(errors.UnboundAxisNameError, match="devices"):
        norm.apply(variables, x, mutable=["batch_stats"])


def gradient_of(nn, kind: str) -> jax.Array:
    """The output, and its gradients for `x`, of two layers in one module."""

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Sequential([nn.Dense(3), nn.Dense(2)])
            if kind == "vjp":
                y, back = nn.vjp(lambda m, x: m(x), inner, x)
                return y, back(jnp.ones_like(y))[1]
            if kind == "jvp":
                return nn.jvp(lambda m, x: m(x), inner, (x,), (jnp.ones_like(x),), {})
            forward = nn.custom_vjp(
                lambda m, x: m(x),
                lambda m, x: nn.vjp(lambda m, x: m(x), m, x),
                lambda back, g: back(g),
            )
            return forward(inner, x), None

    x = normal(0, 2, 3)
    y, gradient = Module().init_with_output(KEY, x)[0]
    layers = nn.Sequential([nn.Dense(3), nn.Dense(2)])
    assert y.shape == layers.init_with_output(KEY, x)[0].shape
    return gradient


@pytest.mark.parametrize("kind", ["vjp", "jvp", "custom_vjp"])
def test_derivatives_of_a_module_with_modules(kind):
    with pytest.raises(NotImplementedError, match="include other Modules"):
        gradient_of(flax.linen, kind)
    gradient = gradient_of(linsey.linen, kind)
    assert kind == "custom_vjp" or jnp.any(gradient != 0)


def named_part(nn, style: str) -> dict:
    """Variables of two modules with a name scope, in a module."""

    class Part(nn.Module):
        @nn.compact_name_scope
        def part(self, x):
            return nn.Dense(2)(x)

        @nn.compact
        def __call__(self, x):
            return self.part(x)

    class Inline(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Part(name="b")(Part(name="a")(x))

    class Setup(nn.Module):
        def setup(self):
            self.a, self.b = Part(), Part()

        def __call__(self, x):
            return self.b(self.a(x))

    module = Inline() if style == "inline" else Setup()
    return jax.eval_shape(module.init, KEY, normal(0, 2, 3))["params"]


@pytest.mark.parametrize("style", ["inline", "setup"])
def test_a_name_scope_belongs_to_the_module_of_its_method(style):
    refused = {
        "inline": flax.errors.NameInUseError,
        "setup": flax.errors.AssignSubModuleError,
    }
    with pytest.raises(refused[style]):
        named_part(flax.linen, style)
    params = named_part(linsey.linen, style)
    assert {name: set(of["part"]) for name, of in params.items()} == {
        "a": {"Dense_0"},
        "b": {"Dense_0"},
    }


def values_of_init_var(nn) -> list[float]:
    """What `__post_init__` gets, before and in `init`."""
    values = []

    class Module(nn.Module):
        scale: dataclasses.InitVar[float] = 2.0

        def __post_init__(self, scale):
            values.append(scale)
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    jax.eval_shape(Module(scale=3.0).init, KEY, normal(0, 2, 3))
    return values


def test_the_value_of_an_init_var_is_kept():
    assert values_of_init_var(flax.linen) == [3.0, 2.0]
    assert set(values_of_init_var(linsey.linen)) == {3.0}


def loop_that_sows(nn) -> jax.Array:
    """A loop that carries a collection which must not change."""

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, x):
                module.sow("losses", "x", x)
                return x + 1

            if self.is_initializing():
                return body(self, x)
            return nn.while_loop(
                lambda module, x: x < 3, body, self, x, carry_variables="losses"
            )

    variables = Module().init(KEY, 0)
    return Module().apply(variables, 0)


def test_a_loop_may_carry_a_collection_that_does_not_change():
    with pytest.raises(TypeError, match="same pytree structure"):
        loop_that_sows(flax.linen)
    assert loop_that_sows(linsey.linen) == 3


@pytest.mark.parametrize("library", LIBRARIES)
def test_bound_modules_that_hold_modules_are_compared(library):
    nn = LIBRARIES[library]

    class Outer(nn.Module):
        inner: nn.Module

    model = Outer(nn.Dense(2))
    if library == "flax":
        with pytest.raises(RecursionError):
            _ = model.bind({}) == model.bind({})
    else:
        assert model.bind({}) != model.bind({})  # each with variables of its own


@pytest.mark.parametrize("library", LIBRARIES)
def test_interceptors_see_methods_of_modules(library):
    nn, seen = LIBRARIES[library], set()

    def record(method, args, kwargs, context):
        seen.add(context.method_name)
        return method(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(nn.remat(nn.WeightNorm)(nn.Dense(2)).init, KEY, normal(0, 2, 3))
    machinery = {"<lambda>", "layer_forward", "_l2_normalize"}
    assert seen == {"__call__"} | (machinery if library == "flax" else set())


@pytest.mark.parametrize("library", LIBRARIES)
def test_interceptors_see_no_setup_of_lifted_classes(library):
    nn, seen = LIBRARIES[library], []

    class Module(nn.Module):
        def setup(self):
            pass

        def __call__(self, x):
            return x

    def record(method, args, kwargs, context):
        seen.append((type(context.module).__name__, context.method_name))
        return method(*args, **kwargs)

    with nn.intercept_methods(record):
        nn.map_variables(Module)().apply({}, 1.0)
    machinery = [("Map_variablesModule", "setup"), ("Map_variablesModule", "<lambda>")]
    called = [("Module", "setup"), ("Module", "__call__")]
    assert seen == called if library == "linsey" else machinery + called


@pytest.mark.parametrize("mark", ["compact", "compact_name_scope"])
def test_setup_is_not_marked(mark):
    def define(nn):
        class Module(nn.Module):
            @getattr(nn, mark)
            def setup(self):
                self.dense = nn.Dense(2)

            def __call__(self, x):
                return self.dense(x)

        return Module()

    with pytest.raises((ValueError, flax.errors.SetAttributeFrozenModuleError)):
        define(flax.linen).init(KEY, normal(0, 2, 3))
    with pytest.raises(errors.UsageError, match=f"`setup` is marked with `@nn.{mark}`"):
        define(linsey.linen)


def test_the_order_of_keys_after_a_lifted_transform():
    def variables(nn):
        class Module(nn.Module):
            def setup(self):
                self.dense = nn.Dense(3)
                self.variable("state", "count", jnp.zeros, ())

            @nn.jit
            def __call__(self, x):
                return self.dense(x)

        return Module().init(KEY, normal(0, 2, 3))

    theirs, ours = variables(flax.linen), variables(linsey.linen)
    assert list(theirs) == ["state", "params"]  # that of the later one first
    assert list(ours) == ["params", "state"]
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_table_names_modules_among_the_arguments(library):
    nn = LIBRARIES[library]

    class Inner(nn.Module):
        def __call__(self, x, other):
            return x

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner()(x, nn.Dense(3))

    plain = {"width": 300, "force_terminal": False}
    table = nn.tabulate(Outer(), KEY, console_kwargs=plain)(normal(0, 2, 3))
    assert ("use_bias" in table) == (library == "flax")


@pytest.mark.thinned(3)
@pytest.mark.parametrize("layer", ["LayerNorm", "RMSNorm", "InstanceNorm"])
def test_examples_that_are_masked_altogether(layer):
    x = normal(0, 2, 3, 4)
    mask = np.ones((2, 3, 4), bool)
    mask[0] = False

    def run(nn):
        y = getattr(nn, layer)().init_with_output(KEY, x, mask=mask)[0]
        return np.isfinite(np.asarray(y)).all(axis=(1, 2)).tolist()

    assert run(flax.linen) == [False, True]
    assert run(linsey.linen) == [True, True]
    module = getattr(linsey.linen, layer)()
    loss = lambda x: jnp.sum(module.init_with_output(KEY, x, mask=mask)[0] ** 3)  # noqa: E731
    assert np.isfinite(jax.grad(loss)(x)).all()


def test_weight_norm_of_a_kernel_of_another_shape():
    def init(nn):
        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                turn = lambda vs: jax.tree.map(lambda x: x.T, vs)  # noqa: E731
                norm = nn.WeightNorm(nn.Einsum((4, 3), "ai,io->ao"))
                lifted = nn.map_variables(
                    lambda m, x: m(x), trans_in_fn=turn, init=True
                )
                return lifted(norm, x)

        return Module().init(KEY, normal(0, 2, 4))

    assert '"kernel" in' in str(refusal(init, flax.linen))
    assert 'kernel/scale" in' in str(refusal(init, linsey.linen))


def test_keys_in_nested_derivatives_under_a_checkpoint():
    def gradient(nn):
        class Inner(nn.Module):
            @nn.compact
            def __call__(self, x):
                run = lambda m, x: nn.remat(lambda m, x: m(x))(m, x)  # noqa: E731
                back = lambda m, x: nn.vjp(run, m, x)  # noqa: E731
                return nn.custom_vjp(run, back, lambda back, g: back(g))(nn.Dense(2), x)

        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                shared = {"variable_axes": {"params": None}}
                split = {"split_rngs": {"params": False, "noise": True}}
                return nn.vmap(Inner, **shared, **split)()(x)

        params = Module().init(KEY, normal(0, 2, 3))["params"]

        @jax.checkpoint
        def loss(params):
            rngs = {"noise": KEY}
            y = Module().apply({"params": params}, normal(0, 2, 3), rngs=rngs)
            return jnp.sum(y)

        return jax.grad(loss)(params)

    error = refusal(gradient, flax.linen)
    assert isinstance(error, jax.errors.UnexpectedTracerError)
    found = jax.tree.leaves(gradient(linsey.linen))
    assert [leaf.shape for leaf in found] == [(2,), (3, 2)]


def test_an_input_of_none():
    def layers(nn):
        yield from (nn.Conv(2, (1,)), nn.DenseGeneral(2), nn.InstanceNorm())
        yield from (nn.MultiHeadDotProductAttention(1), batch_norm(nn), nn.GroupNorm())

    for layer in layers(flax.linen):
        assert isinstance(refusal(layer.init, KEY, None), AttributeError)
    for layer in (*layers(linsey.linen), linsey.linen.LayerNorm()):
        error = refusal(layer.init, KEY, None)
        assert isinstance(error, errors.ShapeError)
        assert "None, from a function without `return`" in str(error)


def test_a_mapped_variable_that_is_a_number():
    def call(nn):
        class Module(nn.Module):
            def __call__(self, x):
                self.sow("sums", "x", 2.0, lambda _, b: b, lambda: 0.0)
                return nn.vmap(lambda m, x: x, variable_axes={"sums": 0})(self, x)

        return Module().apply({}, normal(0, 2), mutable=True)

    assert isinstance(refusal(call, flax.linen), AttributeError)
    assert isinstance(refusal(call, linsey.linen), errors.ShapeError)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_table_with_a_name_for_two_things(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.jit(lambda m, x: nn.Dense(4, name="both")(x))(self, x)
            self.sow("state", "both", x)

    plain = {"width": 300, "force_terminal": False}
    table = nn.tabulate(Module(), KEY, console_kwargs=plain)(normal(0, 2, 3))
    assert ("both:" in table) == (library == "linsey")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("transform", "options"),
    [
        ("add_metadata_axis", {"variable_axes": {"params": 0}}),
        ("map_variables", {"init": True}),
    ],
)
def test_frozen_collections_inside_of_a_transform(transform, options, library):
    nn, found = LIBRARIES[library], []

    class Module(nn.Module):
        @partial(getattr(nn, transform), **options)
        @nn.compact
        def __call__(self, x):
            _, back = nn.vjp(lambda m, x: x, self, x)
            found.append(type(back(x)[0].get("params")).__name__)
            return nn.Dense(3)(x)

    x = normal(0, 2, 3)
    variables = nn.FrozenDict(Module().init(KEY, x))
    found.clear()
    Module().apply(variables, x)
    assert found == ["dict" if library == "flax" else "FrozenDict"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_table_with_a_shared_scope(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        def setup(self):
            self.inner = nn.Sequential([nn.Dense(4)])
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return self.inner(x)

    plain = {"width": 300, "force_terminal": False}
    table = nn.tabulate(Module(), KEY, console_kwargs=plain)(normal(0, 2, 3))
    assert ("inner/layers_0" in table) == (library == "flax")
    assert {*Module().init(KEY, normal(0, 2, 3))["params"]} == {"layers_0"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_names_taken_through_the_scope(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.scope.variable("state", "both", jnp.zeros, ())
            return nn.Dense(4, name="both")(x)

    if library == "flax":
        error = refusal(Module().init, KEY, normal(0, 3))
        assert isinstance(error, flax.errors.NameInUseError)
    else:
        assert {*Module().init(KEY, normal(0, 3))} == {"params", "state"}


@pytest.mark.parametrize("transform", ["jit", "remat"])
def test_a_lifted_function_of_an_array(transform):
    def call(nn):
        class Module(nn.Module):
            def __call__(self, x):
                return getattr(nn, transform)(lambda x: 2 * x)(x)

        return Module().apply({}, normal(0, 3))

    assert isinstance(refusal(call, flax.linen), AttributeError)
    assert np.array_equal(call(linsey.linen), 2 * normal(0, 3))


def test_lifted_functions_of_unbound_modules():
    def call(nn):
        return nn.map_variables(lambda m, x: m(x), "params")(nn.Dense(2), normal(0, 3))

    assert type(refusal(call, flax.linen)) is ValueError
    error = refusal(call, linsey.linen)
    assert isinstance(error, errors.CallCompactUnboundModuleError)

    def run(nn):
        return nn.RNN(nn.LSTMCell(3))(normal(0, 2, 3))

    assert type(refusal(run, flax.linen)) is IndexError
    error = refusal(run, linsey.linen)
    assert isinstance(error, errors.CallCompactUnboundModuleError)

    def run(nn):
        return nn.vmap(nn.Dense, split_rngs={"params": True})(2)(normal(0, 2, 3))

    assert type(refusal(run, flax.linen)) is ValueError
    error = refusal(run, linsey.linen)
    assert isinstance(error, errors.CallCompactUnboundModuleError)


def test_a_deleted_name():
    def init(nn, lift):
        class Inner(nn.Module):
            def __call__(self, x):
                del self.name
                return self.name

        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                names.append(lift(lambda m, x: m(x))(Inner(), x))

        names = []
        Module().init(KEY, normal(0, 3))
        return names

    assert init(flax.linen, lambda fn: fn) == [None]
    assert init(linsey.linen, lambda fn: fn) == ["Inner_0"]
    assert init(flax.linen, flax.linen.jit) == [None]
    error = refusal(lambda nn: init(nn, nn.jit), linsey.linen)
    assert isinstance(error, AttributeError)


def test_fold_rngs_of_a_module_with_numbers():
    def init(nn, **fields):
        class Module(nn.Module):
            scale: Any = 1

            @nn.fold_rngs
            @nn.compact
            def __call__(self, x):
                return self.scale * nn.Dense(2)(x)

        return Module(**fields).init_with_output(KEY, normal(0, 3))

    assert isinstance(refusal(init, flax.linen, scale=jnp.ones(())), TypeError)
    y, variables = init(linsey.linen, scale=jnp.ones(()))
    same, expected = init(linsey.linen)
    assert np.array_equal(y, same)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)


def test_symbolic_channels():
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((2, n), jnp.float32)

    def init(nn):
        # Initializers that scale by the fan-in need its size, from JAX 0.12 on.
        layer = nn.DenseGeneral(3, kernel_init=nn.initializers.normal())
        return jax.eval_shape(layer.init, KEY, x)["params"]

    error = refusal(init, flax.linen)
    assert isinstance(error, jax.errors.ConcretizationTypeError)
    assert init(linsey.linen)["kernel"].shape == (n, 3)


def test_a_name_of_a_parameter_inside_of_a_lifted_function():
    def init(nn):
        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                self.param("n", nn.initializers.ones, ())
                return nn.remat(lambda m, x: nn.Dense(3, name="n")(x))(self, x)

        return Module().init(KEY, normal(0, 3))

    assert isinstance(refusal(init, flax.linen), TypeError)
    assert isinstance(refusal(init, linsey.linen), errors.NameInUseError)


def test_a_name_of_a_variable_inside_of_a_lifted_function():
    def table(nn):
        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                self.sow("state", "n", x)
                return nn.remat(lambda m, x: nn.Dense(3, name="n")(x))(self, x)

        Module().init(KEY, normal(0, 3))
        return Module().tabulate(KEY, normal(0, 3), console_kwargs={"width": 200})

    assert "- " in table(flax.linen)
    assert isinstance(refusal(table, linsey.linen), errors.NameInUseError)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("lift", ["jit", "remat"])
def test_a_number_that_goes_through_jit(library, lift):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("w", lambda key: 2.0)
            return getattr(nn, lift)(lambda m, x: x)(self, x)

    def number_stays():
        variables = Module().lazy_init(KEY, jax.ShapeDtypeStruct((3,), jnp.float32))
        found.append(isinstance(variables["params"]["w"], float))

    found = []
    jax.eval_shape(number_stays)
    assert found == [library == "flax" and FLAX_KEEPS_OBJECTS]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("value", [2.0, jnp.ones(3)])
def test_a_variable_that_goes_through_remat_inside_of_a_scan(library, value):
    nn = LIBRARIES[library]

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("state", "w", lambda: value)
            return x

    def object_stays():
        model = nn.remat_scan(Step, lengths=(2, 2), variable_broadcast="state")()
        before = {"state": {"w": value}}
        _, state = model.apply(before, normal(0, 3), mutable="state")
        after = state["state"]["w"]
        found.append(isinstance(after, float) or after is value)

    found = []
    jax.eval_shape(object_stays)
    assert found == [library == "flax" and FLAX_KEEPS_OBJECTS]


def test_tables_of_lifted_partial_functions():
    def table(nn):
        class Module(nn.Module):
            @nn.compact
            def __call__(self, x):
                twice = partial(lambda m, x, scale: scale * m(x), scale=2)
                return nn.jit(twice)(nn.Dense(3), x)

        return Module().tabulate(KEY, normal(0, 2, 3))

    assert isinstance(refusal(table, flax.linen), AttributeError)
    assert "Dense_0" in table(linsey.linen)


@pytest.mark.parametrize("library", LIBRARIES)
def test_texts_in_tables_are_broken_for_want_of_room_alone(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        @nn.compact
        def __call__(self):
            names = ("the_first_of_these_names", "b", "c", "d")
            init = nn.with_partitioning(nn.initializers.ones, names)
            self.param("kernel", init, (3, 2, 2, 3))

    table = Module().tabulate(KEY, console_kwargs={"width": 999})
    assert ("_names, b, c, d)" in table) == (library == "linsey")


@pytest.mark.parametrize("lift", ["jit", "fold_rngs"])
def test_setup_of_a_lifted_method_is_captured_once(lift):
    def captured(nn):
        class Module(nn.Module):
            def setup(self):
                pass

            @getattr(nn, lift)
            def __call__(self, x):
                return x

        options = {"capture_intermediates": lambda module, name: True}
        _, found = Module().apply({}, 1.0, **options)
        return found["intermediates"]["setup"]

    assert captured(flax.linen) == (None, None)
    assert captured(linsey.linen) == (None,)


@pytest.mark.parametrize("library", LIBRARIES)
def test_modules_in_fields_are_shown_inside_of_lifted_functions(library):
    nn = LIBRARIES[library]
    shown = []

    class Module(nn.Module):
        inside: Any

        @nn.remat
        @nn.compact
        def __call__(self):
            shown.append(repr(self))

    Module(nn.Dense(3)).apply({})
    assert ("# children" in shown[0]) == (library == "linsey")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_loop_leaves_dictionaries_what_they_are(library):
    nn = LIBRARIES[library]
    kinds = []

    class Module(nn.Module):
        @nn.compact
        def __call__(self):
            def step(module, carry):
                kinds.append(type(module.variables["params"]))
                return carry + 1

            return nn.while_loop(lambda module, carry: carry < 2, step, self, 0)

    Module().apply({"params": {"w": 1.0}})
    assert kinds == [nn.FrozenDict if library == "flax" else dict]


@pytest.mark.parametrize("library", LIBRARIES)
def test_lengths_are_compared_before_a_step_runs(library):
    nn = LIBRARIES[library]
    runs = []

    class Module(nn.Module):
        def __call__(self, a, b):
            def step(module, carry, a, b):
                runs.append(module)
                return carry, a + b

            return nn.scan(step, split_rngs={"noise": True})(self, 0, a, b)

    with pytest.raises(ValueError):
        Module().apply({}, jnp.ones(2), jnp.ones(3), rngs={"noise": KEY})
    assert bool(runs) == (library == "flax")


@pytest.mark.parametrize("library", LIBRARIES)
def test_errors_name_the_path_of_a_shared_scope(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        def setup(self):
            self.inner = nn.WeightNorm(nn.Dense(3))
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return self.inner(x)

    refused = refusal(lambda _: Module().apply({"params": {}}, jnp.ones(2)), nn)
    assert ("/inner/" in str(refused)) == (library == "flax")


@pytest.mark.parametrize("library", LIBRARIES)
def test_modules_in_fields_have_the_path_of_a_shared_scope(library):
    nn, paths = LIBRARIES[library], []

    class Layer(nn.Module):
        inner: nn.Module

        def __call__(self, x):
            paths.append(self.inner.path)
            return self.inner(x)

    class Module(nn.Module):
        def setup(self):
            self.layer = Layer(nn.Dense(3))
            nn.share_scope(self, self.layer)

        def __call__(self, x):
            return self.layer(x)

    assert set(Module().init(KEY, normal(0, 2))["params"]) == {"inner"}
    assert paths == [("layer", "inner") if library == "flax" else ("inner",)]


@pytest.mark.parametrize("library", LIBRARIES)
def test_modules_with_one_default_module_under_jit(library):
    nn = LIBRARIES[library]

    class Layer(nn.Module):
        inner: nn.Module = nn.Dense(2)  # noqa: RUF009 - shared on purpose

        def __call__(self, x):
            return self.inner(x)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(lambda m, o, x: o[0](x))(Layer(), [Layer()], x)

    if library == "flax":
        refused = refusal(Model().init, KEY, normal(0, 3))
        assert "InstancePlaceholder" in str(refused)
    else:
        params = Model().init(KEY, normal(0, 3))["params"]
        assert {*params["Layer_0"]} == {"inner"}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("lift", ["remat", "jit", "remat_scan"])
def test_lifted_modules_inside_of_plain_transforms(lift, library):
    nn = LIBRARIES[library]
    options = {"lengths": (2, 2), "variable_broadcast": "params"}
    options |= {"split_rngs": {"params": False}}

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Part(nn.Module):
        def setup(self):
            lifted = getattr(nn, lift)
            self.layer = lifted(Layer, **options if lift == "remat_scan" else {})()

        def __call__(self, x):
            return self.layer(x)

    class Model(nn.Module):
        def setup(self):
            self.part = Part()

        def __call__(self, x):
            self.part(x)
            return jax.checkpoint(lambda x: self.part(x))(x)  # noqa: PLW0108 - no hash

    def init():
        return jax.tree.map(np.sum, Model().init(KEY, normal(0, 3)))

    if library == "linsey":
        assert isinstance(refusal(init), errors.JaxTransformError)
    elif lift == "remat_scan" and jax.__version_info__ < (0, 11):
        assert init()
    else:
        assert isinstance(refusal(init), jax.errors.UnexpectedTracerError)


@pytest.mark.parametrize("library", LIBRARIES)
def test_lazy_init_computes_after_it_traced(library):
    nn = LIBRARIES[library]

    computed = []

    def compute() -> np.ndarray:
        computed.append(True)
        return np.ones(2, np.float32)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            shape = jax.ShapeDtypeStruct((2,), jnp.float32)
            self.param("w", lambda key: jax.pure_callback(compute, shape))
            raise RuntimeError

    abstract = jax.ShapeDtypeStruct((2,), jnp.float32)
    assert isinstance(refusal(Model().lazy_init, KEY, abstract), RuntimeError)
    jax.effects_barrier()
    assert bool(computed) == (library == "flax")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("derivative", [jax.custom_jvp, jax.custom_vjp])
def test_variables_of_outside_in_a_custom_derivative(derivative, library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def __call__(self, x):
            function = derivative(self.layer)
            if derivative is jax.custom_jvp:
                function.defjvp(lambda x, t: (function(*x), t[0]))
            else:
                function.defvjp(lambda x: (function(x), None), lambda _, t: (t,))
            return function(x)

    x = normal(0, 3)
    compiled = refusal(jax.jit(Module().init), KEY, x)
    if library == "flax":
        assert isinstance(compiled, jax.errors.UnexpectedTracerError)
        variables, expected = Module().lazy_init(KEY, x), Module().init(KEY, x)
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
    else:
        assert isinstance(compiled, errors.JaxTransformError)
        lazy = refusal(Module().lazy_init, KEY, x)
        assert isinstance(lazy, errors.JaxTransformError)


def test_init_without_variables():
    def init(nn):
        class Module(nn.Module):
            def __call__(self, x):
                return x

        module, x = Module(), jnp.arange(3)
        assert nn.init(Module.__call__, module, mutable=False)(KEY, x) == 1
        return module.init(KEY, x, mutable=False)

    assert "too many values to unpack" in str(refusal(init, flax.linen))
    assert init(linsey.linen) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_errors_in_setup_of_a_lifted_module_name_its_path(library):
    nn = LIBRARIES[library]

    class Inner(nn.Module):
        def setup(self):
            self.variable("state", "lost")

        def __call__(self, x):
            return x

    class Outer(nn.Module):
        def setup(self):
            self.inner = nn.remat(Inner)()

        def __call__(self, x):
            return self.inner(x)

    refused = refusal(lambda _: Outer().init(KEY, jnp.ones(2)), nn)
    assert ('in "/inner"' in str(refused)) == (library == "linsey")
    assert ('in "/"' in str(refused)) == (library == "flax")


@pytest.mark.parametrize("library", LIBRARIES)
def test_weight_norm_of_everything_is_of_parameters(library):
    nn = LIBRARIES[library]

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("state", "seen", jnp.ones, 3)
            return nn.Dense(3)(x)

    variables = nn.WeightNorm(Layer(), variable_filter=None).init(KEY, jnp.ones((1, 2)))
    assert ("layer_instance/seen/scale" in variables["params"]) == (library == "flax")


def test_an_overridden_name_scope():
    def run(nn):
        class Base(nn.Module):
            @nn.compact_name_scope
            def __call__(self, x):
                return nn.Dense(3)(x)

        class Module(Base):
            def __call__(self, x):
                return super().__call__(x)

        return Module().init(KEY, jnp.ones(2))

    assert isinstance(refusal(run, flax.linen), KeyError)
    assert "Dense_0" in run(linsey.linen)["params"]["__call__"]


def test_a_name_scope_that_is_a_property():
    def run(nn):
        class Module(nn.Module):
            @property
            @nn.compact_name_scope
            def layer(self):
                return nn.Dense(3)

            def __call__(self, x):
                return self.layer(x)

        return Module().init(KEY, jnp.ones(2))

    assert isinstance(refusal(run, flax.linen), KeyError)
    assert "Dense_0" in run(linsey.linen)["params"]["layer"]


@pytest.mark.parametrize("name", ["init", "init_with_output", "clone"])
def test_fields_named_like_methods(name):
    def run(nn):
        class Module(nn.Module):
            __annotations__ = {name: int}  # noqa: RUF012
            locals()[name] = 3

            @nn.compact
            def __call__(self, x):
                return nn.Dense(2)(x)

        return Module().lazy_init(KEY, jnp.ones(3))

    assert "not callable" in str(refusal(run, flax.linen))
    assert "Dense_0" in run(linsey.linen)["params"]


def test_an_unbound_parent():
    def layer(nn):
        return nn.Dense(2, parent=nn.Dense(2))

    refused = refusal(layer, flax.linen)
    assert (type(refused), str(refused)) == (AssertionError, "")
    assert isinstance(refusal(layer, linsey.linen), errors.AssignSubModuleError)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bare_module_has_no_call(library):
    refused = refusal(lambda nn: nn.Module().init(KEY), LIBRARIES[library])
    expected = RecursionError if library == "flax" else AttributeError
    assert isinstance(refused, expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_field_named_scope_keeps_its_value(library):
    class Module(LIBRARIES[library].Module):
        scope: Any = None

    module = Module(scope=3)
    assert (module.bind({}).unbind()[0] == module) == (library == "linsey")


@pytest.mark.parametrize("library", LIBRARIES)
def test_names_of_lifted_classes_in_errors(library):
    nn = LIBRARIES[library]

    class Module(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.a = nn.Dense(3)

        def __call__(self, x):
            return self.a(x)

    error = refusal(nn.jit(Module)().init, KEY, normal(0, 3))
    name = "JitModule" if library == "flax" else "Module"
    assert f'submodule "a" in Module {name}: Name in use' in str(error)


def refusal(call, *args, **kwargs):
    """The error that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its class is looked at
        call(*args, **kwargs)
    return caught.value
