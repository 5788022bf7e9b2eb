"""`nn.scan`, `nn.remat_scan` and `nn.while_loop` against Flax."""

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

XS = jnp.linspace(-1.0, 1.0, 18).reshape(3, 2, 3)
KEYS = {"params": KEY, "noise": jax.random.key(1)}
STACKED = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
SHARED = {"variable_broadcast": "params", "split_rngs": {"params": False}}


def recurrent(nn):
    """One step: a new carry from the carry and the input, and an output."""

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            y = nn.tanh(nn.Dense(3)(carry) + x)
            return y, 2 * y

    return Cell


def block(nn):
    """One layer of a deep stack: no input beside the carry."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Dense(3)(x)), None

    return Block


@pytest.mark.parametrize("options", [STACKED, SHARED])
@agrees(ulps=8)
def test_parameters_stacked_or_shared(nn, options):
    model = nn.scan(recurrent(nn), **options)()
    y, variables = model.init_with_output(KEY, X, XS)
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, X, XS)[0] ** 2))(variables)
    return y, variables, model.apply(variables, X, XS), gradient, repr(model)


@pytest.mark.parametrize("axis", [1, -1])
@agrees(ulps=8)
def test_the_axis_of_the_variables(nn, axis):
    scanned = nn.scan(
        block(nn),
        variable_axes={"params": axis},
        split_rngs={"params": True},
        length=3,
    )
    y, variables = scanned().init_with_output(KEY, X, None)
    return y, variables, scanned().apply(variables, X, None)


@agrees(ulps=8)
def test_axes_of_inputs_and_outputs(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x, extra):
            y = nn.Dense(3)(carry) + x["a"] + x["b"] + extra
            return y, (y, {"last": y[0]})

    scanned = nn.scan(
        Step,
        in_axes=({"a": 1, "b": 0}, nn.broadcast),
        out_axes=(1, {"last": -1}),
        **SHARED,
    )
    inputs = {"a": jnp.swapaxes(XS, 0, 1), "b": XS}
    return scanned().init_with_output(KEY, X, inputs, X)


@pytest.mark.parametrize("options", [{"reverse": True}, {"unroll": 2}])
@agrees(ulps=8)
def test_direction_and_unrolling(nn, options):
    model = nn.scan(recurrent(nn), **options, **STACKED)()
    return model.init_with_output(KEY, X, XS)


@agrees(ulps=8)
def test_a_result_that_is_the_same_at_every_step(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            w = self.param("w", nn.initializers.ones, (3,))
            return carry + x * w, (w * 2, carry)

    scanned = nn.scan(Step, out_axes=(nn.broadcast, 0), **SHARED)
    return scanned().init_with_output(KEY, X, XS)


@refuses(wording=False)
def test_a_result_that_is_not_the_same_at_every_step(nn):
    class Step(nn.Module):
        def __call__(self, carry, x):
            return carry + x, carry

    return nn.scan(Step, out_axes=nn.broadcast)().apply({}, X, XS)


@pytest.mark.parametrize("split", [True, False])
@agrees
def test_keys_differ_between_steps_if_split(nn, split):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            draws = [jax.random.bits(self.make_rng("noise"), (1,)) for _ in range(2)]
            return carry, (draws, jax.random.bits(self.make_rng("params"), (1,)))

    scanned = nn.scan(Step, split_rngs={"noise": split, "params": True}, length=3)
    return scanned().apply({}, 0, None, rngs=KEYS)


@agrees(ulps=8)
def test_collections_may_be_stacked_shared_or_carried(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            w = self.param("w", nn.initializers.normal(), (3,))
            bias = self.variable("stacked", "bias", jnp.ones, ())
            total = self.variable("carried", "total", jnp.zeros, (3,))
            if not self.is_initializing():
                total.value = total.value + x[0]
            bias.value = bias.value + 1
            self.sow("intermediates", "x", x)
            return carry * w + bias.value, total.value

    scanned = nn.scan(
        Step,
        variable_axes={"stacked": 0, "intermediates": 0},
        variable_broadcast="params",
        variable_carry="carried",
        split_rngs={"params": False},
    )

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, xs):
            return scanned(name="loop")(x, xs)

    given = {"loop": {"total": jnp.zeros(3)}}
    _, variables = Net().apply(
        {"carried": given}, X, XS, rngs=KEYS, mutable=["params", "stacked", "carried"]
    )
    variables = {**variables, "carried": given}
    mutable = ["stacked", "carried", "intermediates"]
    return variables, Net().apply(variables, X, XS, mutable=mutable)


@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_batch_norm_is_updated_once_in_every_step(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = nn.Dense(3)(x)
            return nn.BatchNorm(use_running_average=False, momentum=0.5)(x), None

    stacked = nn.scan(
        Block,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=2,
    )
    own = stacked().init(KEY, X, None)
    carried = nn.scan(
        Block,
        variable_broadcast="params",
        variable_carry="batch_stats",
        split_rngs={"params": False},
        length=2,
    )
    one = Block().init(KEY, X, None)
    return (
        own,
        stacked().apply(own, X, None, mutable=["batch_stats"]),
        carried().apply(one, X, None, mutable=["batch_stats"]),
    )


@agrees(ulps=8)
def test_inside_a_model_with_names_and_neighbours(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x, _ = nn.scan(block(nn), length=2, **STACKED)()(x, None)
            x, _ = nn.scan(block(nn), length=2, **STACKED)(name="more")(x, None)
            return nn.Dense(3)(x)

    y, variables = Net().init_with_output(KEY, X)
    return y, variables, Net().apply(variables, X)


@agrees(ulps=8)
def test_a_method_and_a_function(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, xs):
            x, ys = self.steps(x, xs)
            layer = nn.Dense(3)
            body = lambda layer, c, x: (layer(c) + x, c)  # noqa: E731
            return nn.scan(body, **SHARED)(layer, x, ys)

        @functools.partial(nn.scan, **STACKED)
        def steps(self, carry, x):
            return nn.Dense(3)(carry), x

    y, variables = Net().init_with_output(KEY, X, XS)
    return y, variables, Net().apply(variables, X, XS)


@agrees(ulps=8)
def test_set_up_modules_with_several_methods(nn):
    class Coder(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(3), nn.Dense(3)

        def there(self, carry, x):
            return self.a(carry), x

        def back(self, carry, x):
            return self.b(self.a(carry)), x

    methods = {"there": {**STACKED, "length": 3}, "back": {**STACKED, "length": 3}}
    model = nn.scan(Coder, methods=methods)()
    y, variables = model.init_with_output(KEY, X, None, method="back")
    return y, variables, model.apply(variables, X, None, method="there")


@agrees(ulps=8)
def test_scan_of_remat_of_vmap(nn):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.tanh(nn.Dense(3)(x))

    Many = nn.vmap(Layer, **STACKED)

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.remat(Many)()(x), None

    model = nn.scan(nn.remat(Step, prevent_cse=False), length=2, **STACKED)()
    y, variables = model.init_with_output(KEY, XS, None)
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, XS, None)[0] ** 2))(variables)
    return y, variables, gradient, repr(model)


@agrees(ulps=8)
def test_a_module_shared_between_inside_and_outside(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            x = layer(x)
            step = lambda layer, x, _: (layer(x), None)  # noqa: E731
            x, _ = nn.scan(step, length=2, **SHARED)(layer, x, None)
            return layer(x)

    y, variables = Net().init_with_output(KEY, X)
    return y, variables, Net().apply(variables, X)


@agrees(ulps=8)
def test_metadata_gets_the_axis(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            return nn.Dense(3, kernel_init=init)(x), None

    scanned = nn.scan(
        Block,
        variable_axes={"params": 1},
        split_rngs={"params": True},
        length=2,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    y, variables = scanned().init_with_output(KEY, X, None)
    return y, variables, scanned().apply(variables, X, None)


@agrees(ulps=8)
def test_a_transform_of_the_variables_of_each_step(nn):
    def halve(variables, rngs):
        return jax.tree.map(lambda v: v / 2, variables), rngs

    scanned = nn.scan(block(nn), length=2, data_transform=halve, **STACKED)
    variables = nn.scan(block(nn), length=2, **STACKED)().init(KEY, X, None)
    return scanned().apply(variables, X, None)


@agrees(ulps=8)
def test_without_the_check_of_what_is_shared(nn):
    scanned = nn.scan(block(nn), length=2, check_constancy_invariants=False, **STACKED)
    y, variables = scanned().init_with_output(KEY, X, None)
    return y, variables, scanned().apply(variables, X, None)


@agrees(ulps=8)
def test_without_the_check_what_is_shared_is_not_created(nn):
    options = {**SHARED, "variable_carry": "state"}
    shared = nn.scan(block(nn), length=2, check_constancy_invariants=False, **options)
    return shared().init(KEY, X, None)


@agrees
def test_a_step_may_return_an_array_of_two(nn):
    class Sums(nn.Module):
        def __call__(self, xs):
            return nn.scan(lambda m, c, x: jnp.stack([c + x, c]))(self, 0.0, xs)

    return Sums().apply({}, jnp.arange(3.0))


def test_keyword_arguments_are_the_same_at_every_step():
    nn = linsey.linen

    class Step(nn.Module):
        def __call__(self, carry, x, *, by):
            return carry + by * x, None

    carry, _ = nn.scan(Step)().apply({}, 0.0, jnp.arange(3.0), by=2.0)
    assert carry == 6.0


@pytest.mark.parametrize("options", [STACKED, SHARED])
@agrees
def test_no_step_at_all(nn, options):
    return nn.scan(recurrent(nn), **options)().init_with_output(KEY, X, XS[:0])


@refuses(wording=False)
def test_a_step_returns_a_pair(nn):
    class Step(nn.Module):
        def __call__(self, carry, x):
            return carry

    return nn.scan(Step)().apply({}, 1.0, XS)


@refuses(wording=False)
def test_the_length_cannot_be_guessed(nn):
    return nn.scan(block(nn), **STACKED)().init(KEY, X, None)


@refuses(wording=False)
def test_the_lengths_must_agree(nn):
    return nn.scan(recurrent(nn), length=2, **STACKED)().init(KEY, X, XS)


@refuses(wording=False)
def test_the_carry_keeps_its_shape(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return nn.Dense(4)(carry), None

    return nn.scan(Step, length=2, **SHARED)().init(KEY, X, None)


@refuses(wording=False)
def test_a_shared_collection_cannot_follow_the_carry(nn):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            self.variable("state", "x", lambda: carry)
            return carry, None

    scanned = nn.scan(Step, variable_broadcast="state", length=2)
    return scanned().init(KEY, X, None)


# -- remat_scan ----------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(2, 2)])
@agrees(ulps=8)
def test_remat_scan(nn, lengths):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            Layers = nn.remat_scan(nn.Dense, lengths=lengths)
            return Layers(3)(x), Layers(3, name="b")(x)

    y, variables = Net().init_with_output(KEY, X)
    gradient = jax.grad(lambda v: jnp.sum(Net().apply(v, X)[0] ** 2))(variables)
    return y, variables, gradient


@pytest.mark.parametrize("lengths", [(2,), (2, 2)])
@agrees(ulps=8)
def test_remat_scan_with_shared_parameters(nn, lengths):
    model = nn.remat_scan(
        nn.Dense,
        lengths=lengths,
        variable_broadcast="params",
        variable_axes={},
        split_rngs={True: False},
        policy=jax.checkpoint_policies.everything_saveable,
    )(3)
    return model.init_with_output(KEY, X)


@agrees(ulps=8)
def test_remat_scan_of_a_function(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            step = lambda mdl, x: nn.tanh(nn.Dense(3)(x))  # noqa: E731
            return nn.remat_scan(step, lengths=(2,))(self, x)

    return Net().init_with_output(KEY, X)


@pytest.mark.parametrize("box", ["with_partitioning", "with_logical_partitioning"])
def test_remat_scan_adds_axes_that_are_not_split(box):
    nn = linsey.linen
    init = getattr(nn, box)(nn.initializers.lecun_normal(), ("in", "out"))
    model = nn.remat_scan(nn.Dense, lengths=(2, 3))(3, kernel_init=init)
    variables = jax.eval_shape(model.init, KEY, X)
    assert variables["params"]["kernel"].names == (None, None, "in", "out")
    assert jax.eval_shape(model.apply, variables, X).shape == X.shape


# -- modules of outside --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "split"),
    [
        ("scan", True),
        ("scan", False),
        ("while", True),
        ("vmap", True),
        ("nested", True),
    ],
)
def test_a_module_of_outside_draws_in_a_loop_what_it_would_draw_inside(kind, split):
    nn, n = linsey.linen, 3

    class Noise(nn.Module):
        def __call__(self):
            return jax.random.bits(self.make_rng("noise"), (2,))

    class Net(nn.Module):
        def setup(self):
            self.noise = Noise()

        def __call__(self, inside):
            outside, rngs = self.noise, {"split_rngs": {"noise": split}}

            def step(mdl, carry, *_):
                return carry, (mdl.noise if inside else outside)()

            if kind == "vmap":
                draw = lambda mdl, x: step(mdl, x)[1]  # noqa: E731
                return nn.vmap(draw, variable_axes={}, **rngs)(self, jnp.ones(n))
            if kind == "scan":
                return nn.scan(step, length=n, **rngs)(self, 0)[1]
            if kind == "nested":  # the inner loop does not split the stream
                inner = nn.remat(nn.scan(step, length=1, split_rngs={"noise": False}))
                return nn.scan(inner, length=n, **rngs)(self, 0)[1][:, 0]

            def write(mdl, state):
                i, rows = state
                return i + 1, rows.at[i].set(step(mdl, i)[1])

            state = 0, jnp.zeros((n, 2), jnp.uint32)
            more = lambda mdl, state: state[0] < n  # noqa: E731
            return nn.while_loop(more, write, self, state, **rngs)[1]

    draw = lambda inside: Net().apply({}, inside, rngs={"noise": KEY})  # noqa: E731
    rows = {tuple(row) for row in draw(inside=False).tolist()}
    assert len(rows) == (n if split else 1)
    assert (draw(inside=False) == draw(inside=True)).all()


def test_a_layer_of_outside_is_created_the_same_in_every_instance():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2)
            return nn.vmap(lambda mdl, x: layer(x), {}, {True: True})(self, x)

    variables = Net().init(KEY, X)
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, 2)


# -- state that the first step creates -----------------------------------------------


def test_what_is_carried_may_be_created_in_the_first_step():
    nn = linsey.linen

    class Count(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("state", "count", lambda: jnp.full((), 5.0))
            count.value += 1
            self.variable("state", "untouched", jnp.zeros, ())
            return nn.Dense(3)(x)

    options = {"variable_carry": "state", "variable_axes": {"params": 0}}
    model = nn.remat_scan(Count, lengths=(2, 2), **options)()
    variables = model.init(KEY, X)
    assert variables["state"] == {"count": 9.0, "untouched": 0.0}
    kernel = variables["params"]["Dense_0"]["kernel"]
    assert jnp.unique(kernel.reshape(4, -1), axis=0).shape[0] == 4
    # As if it had been there before.
    given = {**variables, "state": {"count": 5.0, "untouched": 0.0}}
    y, state = model.apply(given, X, mutable="state")
    assert state["state"]["count"] == 9.0
    without = model.apply({"params": variables["params"]}, X, mutable="state")
    assert (without[0] == y).all()
    assert without[1] == state


# -- while_loop ----------------------------------------------------------------------
# -- while_loop ----------------------------------------------------------------------


@agrees(ulps=8)
def test_while_loop_reads_and_writes_variables(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)
            self.count = self.variable("state", "count", lambda: jnp.zeros(()))

        def __call__(self, x):
            if self.is_initializing():
                return self.layer(x)

            def condition(mdl, carry):
                return mdl.count.value < 3

            def body(mdl, carry):
                mdl.count.value += 1
                return mdl.layer(carry)

            return nn.while_loop(condition, body, self, x, carry_variables="state")

    variables = Net().init(KEY, X)
    return variables, Net().apply(variables, X, mutable=["state"])


@pytest.mark.parametrize("split", [True, False])
@agrees
def test_keys_in_while_loop(nn, split):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            def condition(mdl, carry):
                return carry[0] < 3

            def body(mdl, carry):
                i, drawn = carry
                bits = jax.random.bits(mdl.make_rng("noise"), ())
                return i + 1, drawn.at[i].set(bits)

            init = (0, jnp.zeros(3, jnp.uint32))
            return nn.while_loop(
                condition, body, self, init, split_rngs={"noise": split}
            )

    return Net().apply({}, rngs=KEYS)


def test_while_loop_over_a_collection_that_is_not_mutable():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            def step(mdl, i):
                mdl.sow("state", "steps", i)
                return i + mdl.get_variable("state", "by")

            options = {"carry_variables": "state"}
            return nn.while_loop(lambda mdl, i: i < 4, step, self, 0, **options)

    assert Net().apply({"state": {"by": 2}}) == 4


@refuses(wording=False)
def test_while_loop_cannot_write_what_it_does_not_carry(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.variable("state", "n", jnp.zeros, ())

            def body(mdl, i):
                mdl.put_variable("state", "n", 1.0)
                return i + 1

            return nn.while_loop(lambda mdl, i: i < 3, body, self, 0)

    return Net().apply({}, mutable=True)


@refuses(wording=False)
def test_the_condition_cannot_write(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self):
            self.variable("state", "n", jnp.zeros, ())

            def condition(mdl, i):
                mdl.put_variable("state", "n", 1.0)
                return i < 3

            return nn.while_loop(
                condition, lambda mdl, i: i + 1, self, 0, carry_variables="state"
            )

    return Net().apply({}, mutable=True)


def test_a_value_of_one_step_cannot_escape_to_the_module_outside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, xs):
            def leak(mdl, carry, x):
                self.put_variable("state", "x", x)
                return carry, None

            return nn.scan(leak)(self, 0, xs)

    with pytest.raises(errors.JaxTransformError):
        Net().apply({}, XS, mutable=["state"])


def test_a_deep_stack_equals_its_layers_one_by_one():
    nn = linsey.linen
    model = nn.scan(block(nn), length=3, **STACKED)()
    variables = model.init(KEY, X, None)
    x: Any = X
    for i in range(3):
        layer = jax.tree.map(lambda v, i=i: v[i], variables)
        x, _ = block(nn)().apply(layer, x, None)
    found = model.apply(variables, X, None)[0]
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="Flax leaks tracers on this version of JAX"
)
@pytest.mark.parametrize("own", ["host", "broadcast", "stacked", "nested"])
@agrees(ulps=8)
def test_scan_creates_the_variables_of_modules_of_outside(nn, own):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            outer, inner = nn.Dense(3), nn.Dense(3)
            both = lambda m, c, _: (outer(m(c)), c)  # noqa: E731
            alone = lambda m, c, _: (outer(c), c)  # noqa: E731
            scan = functools.partial(nn.scan, length=2)
            if own == "host":
                return scan(alone)(self, x, None)
            if own == "nested":
                return scan(lambda m, c, _: scan(alone)(m, c, None))(self, x, None)
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            if own == "broadcast":
                axes = {"variable_broadcast": "params", "split_rngs": {"params": False}}
            return scan(both, **axes)(inner, x, None)

    return Net().init_with_output(KEY, X)


@pytest.mark.parametrize("xs", [2.0, np.float32(1), "text"])
def test_what_is_scanned_needs_an_axis(xs):
    nn = linsey.linen
    scan = nn.scan(lambda m, c, _: (c, None), length=2)
    with pytest.raises(errors.ShapeError, match="axis 0 is out of bounds"):
        nn.init(lambda m, x: scan(m, x, xs), nn.Dense(3))(KEY, X)


def test_symbolic_lengths_are_compared_with_numbers():
    nn = linsey.linen
    (n,) = jax.export.symbolic_shape("n")
    scan = nn.scan(lambda m, c, xs: (c, None))
    run = nn.apply(lambda m, *xs: scan(m, X, xs), nn.Dense(3))
    shapes = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in (n, 3)]
    with pytest.raises(errors.ShapeError, match="Inconsistent batch axis sizes"):
        jax.eval_shape(functools.partial(run, {}), *shapes)
