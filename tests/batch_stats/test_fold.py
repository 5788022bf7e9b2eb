"""A folded model computes what the model computes in evaluation."""

from __future__ import annotations

import functools
import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linsey.linen
from linsey import treex as tx
from linsey.batch_stats import fold
from linsey.errors import MismatchError
from linsey.ops.cpu.dispatch import plain_convolutions

KEY = jax.random.key(0)
LIBRARIES = pytest.mark.parametrize(
    "nn",
    [linsey.linen, pytest.param(flax.linen, marks=pytest.mark.slow)],
    ids=["linsey", "flax"],
)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(variables, seed=1):
    """Variables of the same shapes, with no value that hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda v: jnp.asarray(rng.uniform(0.3, 1.5, v.shape), v.dtype), variables
    )


def of_flag(nn, build):
    """A Linen module of a function of `(nn, norm, x)`, and drawn variables for it."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            norm = functools.partial(nn.BatchNorm, use_running_average=not train)
            return build(nn, norm, x)

    return Model()


def folded(model, x):
    """Fold with drawn variables; check all errors, and another batch size."""
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    apply, new, report = fold(model, variables, x)
    assert all(row[2] <= 1e-5 for row in report.rows if row[2] is not None)
    assert not report.of_kind("inexact")
    other = numbers(3, *x.shape[1:], seed=5)
    close(*both(apply, new, model, variables, other))
    return {row[0]: row[1] for row in report.rows[:-1]}, new, report


@functools.partial(jax.jit, static_argnums=(0, 2))
def both(apply, new, model, variables, x):
    return apply(new, x), model.apply(variables, x)


def close(found, right, tolerance=1e-5):
    assert found.dtype == right.dtype
    gap = np.abs(np.float64(found) - np.float64(right)).max()
    assert gap <= tolerance * np.abs(np.float64(right)).max()


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


# --- a network of many layers ---------------------------------------------------------


def network(nn, norm, x):
    x = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
    x = nn.ConvTranspose(6, (3, 3), (2, 2), transpose_kernel=True)(x)
    x = nn.silu(norm()(x))
    y = norm()(nn.Conv(6, (3, 3), feature_group_count=3)(x))
    x = nn.gelu(norm()(x + y))  # after no layer, before no layer
    x = nn.Dropout(0.5, deterministic=True)(x).mean((1, 2))
    x = norm()(nn.Dense(5)(x))
    return norm()(nn.Dense(3)(x))


@pytest.fixture(scope="module", params=[linsey.linen, flax.linen])
def many(request):
    model, x = of_flag(request.param, network), numbers(2, 6, 6, 3)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    return model, variables, x, *fold(model, variables, x)


@pytest.mark.slow
def test_every_norm_has_a_row_in_the_order_of_the_program(many):
    report = many[-1]
    assert [row[:2] for row in report.rows] == [
        ("BatchNorm_0", "Conv_0"),
        ("BatchNorm_1", "ConvTranspose_0"),
        ("BatchNorm_2", "Conv_1"),
        ("BatchNorm_3", None),
        ("BatchNorm_4", "Dense_0"),
        ("BatchNorm_5", "Dense_1"),
        ("the result", None),
    ]
    assert all(row[2] <= 1e-5 for row in report.rows if row[1])
    (found,) = report.findings
    assert (found.layer, found.kind, found.severity) == (
        "BatchNorm_3",
        "not_folded",
        "note",
    )
    assert report.rows[3][3] == (
        "it gets the result of `add`, not of a layer; its output is used 3 times"
    )


def test_variables_keep_their_places_and_lose_what_was_folded(many):
    _, variables, _, _, new, _ = many
    given = variables["params"]
    assert shapes(new) == {
        "params": {
            "BatchNorm_3": shapes(given["BatchNorm_3"]),
            "Conv_0": {"kernel": (3, 3, 3, 4), "bias": (4,)},
            "Conv_1": shapes(given["Conv_1"]),
            "ConvTranspose_0": shapes(given["ConvTranspose_0"]),
            "Dense_0": shapes(given["Dense_0"]),
            "Dense_1": shapes(given["Dense_1"]),
        },
        "batch_stats": {"BatchNorm_3": {"mean": (6,), "var": (6,)}},
    }
    assert "bias" not in given["Conv_0"] and "BatchNorm_0" in given


def test_apply_takes_inputs_of_any_size_under_jit(many):
    model, variables, _, apply, new, _ = many
    x = numbers(5, 8, 4, 3, seed=4)
    close(jax.jit(apply)(new, x), model.apply(variables, x))


def test_apply_is_exported_with_a_symbolic_batch_size(many):
    model, variables, x, apply, new, _ = many
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(jax.jit(apply))(new, shape)
    x = numbers(7, *x.shape[1:], seed=4)
    close(exported.call(new, x), model.apply(variables, x))


@LIBRARIES
def test_the_model_without_norms_takes_the_folded_variables(nn):
    def plain(nn, norm, x):
        x = nn.relu(nn.Conv(4, (3,))(x))
        x = nn.Dense(2)(x.mean(1)) * 3
        return nn.Dense(2)(nn.relu(x / 2))

    def normal(nn, norm, x):
        x = nn.relu(norm()(nn.Conv(4, (3,), use_bias=False)(x)))
        x = nn.Dense(2, use_bias=False)(norm()(x.mean(1))) * 3
        return norm()(nn.Dense(2)(nn.relu(x / 2)))

    x = numbers(2, 8, 3)
    model = of_flag(nn, normal)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    _, new, report = fold(model, variables, x)
    assert not report.findings
    close(of_flag(nn, plain).apply(new, x), model.apply(variables, x))


# --- layer by layer -------------------------------------------------------------------

AFTER = {
    "bias": lambda nn, name: nn.Conv(4, (3, 3), name=name),
    "strides": lambda nn, name: nn.Conv(
        4, (2, 2), 2, "VALID", use_bias=False, name=name
    ),
    "depthwise": lambda nn, name: nn.Conv(6, (3, 3), feature_group_count=3, name=name),
    "dilated": lambda nn, name: nn.Conv(4, (3, 3), kernel_dilation=2, name=name),
    "circular": lambda nn, name: nn.Conv(4, (3, 3), padding="CIRCULAR", name=name),
    "transposed": lambda nn, name: nn.ConvTranspose(4, (3, 3), (2, 2), name=name),
    "pointwise": lambda nn, name: nn.Conv(4, (1, 1), name=name),
    "local": lambda nn, name: nn.ConvLocal(4, (3, 3), name=name),
    "dense": lambda nn, name: nn.Dense(4, name=name),
    "features": lambda nn, name: nn.DenseGeneral((2, 4), name=name),
    "axes": lambda nn, name: nn.DenseGeneral(4, axis=(1, 3), name=name),
}


def test_a_norm_goes_into_the_layer_before():
    def build(nn, norm, x):
        branches = []
        for name, make in AFTER.items():
            y = make(nn, name)(x)
            branches.append(nn.relu(norm(name=f"norm_{name}")(y)))
        return jnp.stack([y.mean() for y in branches])

    rows, new, _ = folded(of_flag(linsey.linen, build), numbers(2, 5, 5, 3))
    assert rows == {f"norm_{name}": name for name in AFTER} and list(new) == ["params"]


@LIBRARIES
def test_channels_may_be_several_axes_or_the_first_one(nn):
    def build(nn, norm, x):
        x = norm(axis=(-2, -1))(nn.DenseGeneral((2, 4))(x))
        x = nn.relu(x).reshape(*x.shape[:-2], 8)
        x = jnp.moveaxis(nn.Conv(5, (3,), padding="VALID")(x), -1, 1)
        return nn.relu(norm(axis=1)(x))

    rows, *_ = folded(of_flag(nn, build), numbers(2, 5, 3))
    assert list(rows.values()) == ["DenseGeneral_0", "Conv_0"]


BEFORE = {
    "valid": lambda nn, name: nn.Conv(4, (3, 3), padding="VALID", name=name),
    "groups": lambda nn, name: nn.Conv(
        4, (2, 2), 2, "VALID", feature_group_count=2, name=name
    ),
    "dense": lambda nn, name: nn.Dense(4, use_bias=False, name=name),
    "general": lambda nn, name: nn.DenseGeneral(3, axis=(2, 3), name=name),
}


def test_a_norm_goes_into_the_layer_after():
    def build(nn, norm, x):
        x, branches = nn.relu(x), []
        for name, make in BEFORE.items():
            y = norm(name=f"norm_{name}")(x)
            branches.append(nn.relu(make(nn, name)(y)))
        return jnp.stack([y.mean() for y in branches])

    rows, new, _ = folded(of_flag(linsey.linen, build), numbers(2, 5, 5, 6))
    assert rows == {f"norm_{name}": name for name in BEFORE}
    assert list(new) == ["params"]


def test_a_layer_takes_the_norms_on_both_of_its_sides():
    def build(nn, norm, x):
        conv = nn.Conv(6, (2,), padding="VALID", feature_group_count=2)
        return norm()(conv(norm()(nn.relu(x))))

    rows, *_ = folded(of_flag(flax.linen, build), numbers(2, 5, 4))
    assert rows == {"BatchNorm_0": "Conv_0", "BatchNorm_1": "Conv_0"}


def test_weights_are_those_of_the_formula():
    def build(nn, norm, x):
        return norm(epsilon=0.25)(nn.Dense(2)(x))

    model, x = of_flag(linsey.linen, build), numbers(3, 4)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    _, new, _ = fold(model, variables, x)
    layer, norm = (variables["params"][n] for n in ("Dense_0", "BatchNorm_0"))
    stats = variables["batch_stats"]["BatchNorm_0"]
    layer, norm, stats = jax.tree.map(np.float64, (layer, norm, stats))
    factor = norm["scale"] / np.sqrt(stats["var"] + 0.25)
    bias = (layer["bias"] - stats["mean"]) * factor + norm["bias"]
    dense = new["params"]["Dense_0"]
    np.testing.assert_allclose(dense["kernel"], layer["kernel"] * factor, 3e-7)
    np.testing.assert_allclose(dense["bias"], bias, 1e-6)


@LIBRARIES
def test_half_precision_keeps_its_dtypes(nn):
    half = jnp.bfloat16

    def build(nn, norm, x):
        return norm(dtype=half)(nn.Conv(4, (3,), dtype=half)(x))

    model, x = of_flag(nn, build), numbers(2, 5, 3)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    apply, new, report = fold(model, variables, x)
    assert new["params"]["Conv_0"]["kernel"].dtype == jnp.float32
    close(apply(new, x), model.apply(variables, x), 0.02)
    assert report.rows[0][1] == "Conv_0" and not report.findings


OPTIONS = {
    "frozen": {"frozen": True},
    "renorm": {"renorm": (3.0, 5.0), "momentum": None},
    "activation": {"activation": "relu"},
    "save_memory": {"activation": "relu", "save_memory": True},
    "bare": {"use_scale": False, "use_bias": False},
    "ghosts": {"group_size": 2},
}


def test_norms_with_the_options_of_linsey_are_folded():
    def build(nn, norm, x):
        branches = []
        for name, options in OPTIONS.items():
            y = norm(name=name, **options)(nn.Dense(4, name=f"to_{name}")(x))
            branches.append(nn.Dense(2)(y))
        return jnp.stack([y.mean() for y in branches])

    rows, new, _ = folded(of_flag(linsey.linen, build), numbers(4, 3))
    assert rows == {name: f"to_{name}" for name in OPTIONS} and list(new) == ["params"]


def test_a_domain_that_is_fixed_is_folded_and_one_that_is_given_is_not():
    class Model(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, domain=1, train=False):
            x = linsey.linen.Dense(3)(x)
            norm = linsey.linen.BatchNorm(not train, num_domains=2)
            return norm(x, domain=domain)

    x = numbers(4, 3)
    variables = drawn(Model().init(KEY, x))
    apply, new, report = fold(Model(), variables, x)
    close(apply(new, x), Model().apply(variables, x))
    assert report.rows[0][1] == "Dense_0"
    apply, new, report = fold(Model(), variables, (x, jnp.array(0)))
    close(apply(new, x, jnp.array(1)), Model().apply(variables, x))
    assert re.match("its statistics and the input meet in `", report.rows[0][3])


# --- other models ---------------------------------------------------------------------


def test_a_function_with_a_norm_of_its_own_and_channels_first():
    def model(variables, x, train, mutable):
        params, stats = variables["params"], variables["batch_stats"]
        axes = ("NCHW", "OIHW", "NCHW")
        y = lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", None, None, axes)
        mean, var = (stats[n][:, None, None] for n in ("mean", "var"))
        updates = {"batch_stats": {"mean": y.mean((0, 2, 3)), "var": y.var((0, 2, 3))}}
        y = -((mean - y) / jnp.sqrt(var + 1e-3)) * 2 + params["b"][:, None, None]
        y = jnp.tanh(-y)
        return (y, updates) if mutable else y

    stats = {"mean": jnp.ones(4), "var": jnp.ones(4)}
    params = {"w": jnp.ones((4, 3, 3, 3)), "b": jnp.ones(4)}
    variables = drawn({"params": params, "batch_stats": stats})
    x = numbers(2, 3, 5, 5)
    apply, new, report = fold(model, variables, x)
    close(apply(new, x), model(variables, x, False, False))
    assert shapes(new) == {"params": {"w": (4, 3, 3, 3), "bias": (4,)}}
    assert report.rows[-1][2] <= 1e-5


def test_an_object():
    model = tx.Sequential(tx.Conv(4, (3,)), tx.BatchNorm(), jax.nn.relu, tx.Linear(2))
    x = numbers(2, 5, 3)
    model = drawn(model.init(0, x))
    apply, new, report = fold(model, None, x)
    assert [row[:2] for row in report.rows[:-1]] == [("layers/1", "layers/0")]
    close(apply(new, x), model.eval()(x))
    assert list(new) == ["params"]


def test_several_inputs_by_position_or_by_name():
    class Model(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, y, train=False):
            x = linsey.linen.Dense(3)(x) + linsey.linen.Dense(3)(y)
            return linsey.linen.Dense(2)(linsey.linen.BatchNorm(not train)(x))

    x, y = numbers(2, 3), numbers(2, 4, seed=1)
    variables = drawn(Model().init(KEY, x, y))
    right = Model().apply(variables, x, y)
    apply, new, _ = fold(Model(), variables, (x, y))
    close(apply(new, x, y), right)
    apply, new, _ = fold(Model(), variables, {"x": x, "y": y})
    close(apply(new, x=x, y=y), right)


@LIBRARIES
def test_a_layer_that_is_called_twice_has_a_kernel_for_each_call(nn):
    def build(nn, norm, x):
        layer, norm = nn.Dense(3, name="shared"), norm()
        return norm(layer(nn.relu(norm(layer(x)))))

    rows, new, _ = folded(of_flag(nn, build), numbers(2, 3))
    assert rows == {"BatchNorm_0": "shared"}
    call = {"kernel": (3, 3), "bias": (3,)}
    assert shapes(new) == {"folded": {"shared": {"call_0": call, "call_1": call}}}


def test_a_kernel_that_is_computed_has_a_place_of_its_own():
    class Standardized(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, train=False):
            init = linsey.linen.initializers.lecun_normal()
            kernel = self.param("kernel", init, (3, 4))
            kernel = (kernel - kernel.mean(0)) / (kernel.std(0) + 1e-5)
            return linsey.linen.BatchNorm(not train)(x @ kernel)

    rows, new, _ = folded(Standardized(), numbers(2, 3))
    assert shapes(new) == {"folded": {"call_0": {"kernel": (3, 4), "bias": (4,)}}}


def test_boxes_are_opened():
    nn = flax.linen
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))

    def build(nn, norm, x):
        return norm()(nn.Dense(3, kernel_init=init)(x))

    _, new, _ = folded(of_flag(nn, build), numbers(2, 3))
    assert shapes(new) == {"params": {"Dense_0": {"kernel": (3, 3), "bias": (3,)}}}


def test_jitted_blocks_are_opened_and_keep_their_fast_convolutions():
    nn = linsey.linen

    @nn.jit
    class Block(nn.Module):
        train: bool = False

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), feature_group_count=2)(x)
            return nn.relu(nn.BatchNorm(not self.train)(x))

    def convolutions(function, *arguments):
        program = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
        return str(program).count("conv_general_dilated")

    x = numbers(2, 5, 5, 4)
    variables = drawn(jax.eval_shape(Block().init, KEY, x))
    before = convolutions(Block().apply, variables, x)
    apply, new, report = fold(Block(), variables, x)
    assert report.rows[0][:2] == ("BatchNorm_0", "Conv_0")
    assert convolutions(Block().apply, variables, x) == before
    assert convolutions(apply, new, x) == before
    with plain_convolutions(True):
        assert convolutions(Block().apply, variables, x) == 1 < before


# --- what is not folded ---------------------------------------------------------------


def reasons(build, x, nn=linsey.linen):
    model = of_flag(nn, build)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    apply, new, report = fold(model, variables, x)
    close(apply(new, x), model.apply(variables, x))
    return {row[0]: row[3] for row in report.rows[:-1] if row[1] is None}


@LIBRARIES
def test_a_product_that_is_used_twice_is_left_alone(nn):
    def build(nn, norm, x):
        x = nn.Dense(3)(x)
        return x + nn.relu(norm()(x))

    found = reasons(build, numbers(2, 3), nn)
    assert found == {"BatchNorm_0": "what `Dense_0` gives is used 2 times"}


def test_before_a_layer_that_pads_and_before_an_activation():
    def build(nn, norm, x):
        x = nn.Conv(3, (3,))(norm()(x))
        return nn.Conv(3, (3,))(nn.relu(norm()(x + 1 / x)))

    assert reasons(build, numbers(2, 5, 3)) == {
        "BatchNorm_0": "it gets an input, not of a layer; `Conv_0` after it pads with "
        "zeros",
        "BatchNorm_1": "it gets the result of `add`, not of a layer; what it gives "
        "goes to `custom_jvp_call`",
    }


def test_of_a_residual_network_with_norms_first_those_after_a_layer_are_folded():
    def build(nn, norm, x):
        for _ in range(2):
            y = nn.Conv(3, (3,))(nn.relu(norm()(x)))
            x = x + nn.Conv(3, (3,))(nn.relu(norm()(y)))
        return x

    model = of_flag(linsey.linen, build)
    rows, *_ = folded(model, numbers(2, 5, 3))
    assert rows == {
        "BatchNorm_0": None,
        "BatchNorm_1": "Conv_0",
        "BatchNorm_2": None,
        "BatchNorm_3": "Conv_2",
    }


def test_bodies_of_loops_are_left_as_they_are():
    nn = linsey.linen

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.BatchNorm(True)(nn.Dense(3)(x))), None

    def build(nn, norm, x):
        axes = {"params": 0, "batch_stats": 0}
        scan = nn.scan(Block, axes, split_rngs={"params": True}, length=2)
        return norm()(nn.Dense(3)(scan(name="blocks")(x, None)[0]))

    found = reasons(build, numbers(2, 3))
    assert found == {
        "blocks/BatchNorm_0": "it is in the body of `scan`, which is left as it is"
    }


def test_statistics_that_evaluation_does_not_read_and_layers_without_a_map():
    def build(nn, norm, x):
        norm(name="unread")(x)
        y = nn.Dense(4)(x)
        return norm(name="after")(y.reshape(-1, 2))

    found = reasons(build, numbers(2, 3))
    assert found == {
        "unread": "evaluation does not read its statistics",
        "after": "it is not one affine map for each channel of `Dense_0`",
    }


# --- messages -------------------------------------------------------------------------


def test_a_loss_of_digits_is_a_warning():
    model = of_flag(linsey.linen, lambda nn, norm, x: norm()(nn.Dense(2)(x)))
    x = numbers(8, 3)
    variables = drawn(jax.eval_shape(model.init, KEY, x))
    variables["params"]["Dense_0"]["bias"] = jnp.full(2, 3e5)
    variables["batch_stats"]["BatchNorm_0"]["mean"] = jnp.full(2, 3e5)
    *_, report = fold(model, variables, x)
    (found,) = report.findings
    assert (found.layer, found.kind, found.severity) == (
        "BatchNorm_0",
        "inexact",
        "warning",
    )
    assert found.numbers["relative error"] > 1e-5


def test_other_variables_and_other_layers_are_refused():
    class Model(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x, train=False):
            y = linsey.linen.Dense(3)(x)
            z = linsey.linen.BatchNorm(not train)(y)
            return z + y if len(x) == 7 else z

    x = numbers(2, 3)
    variables = drawn(Model().init(KEY, x))
    apply, new, _ = fold(Model(), variables, x)
    del variables["params"]["Dense_0"]["bias"]
    with pytest.raises(MismatchError) as error:
        apply(variables, x)
    assert str(error.value) == (
        "The variables have no `params/Dense_0/bias`.\n"
        "The folded program reads the variables that `fold` returned with it, not "
        "those of the model.\n"
        "Call `apply` with the variables that `fold` returned."
    )
    with pytest.raises(MismatchError) as error:
        apply(new, numbers(7, 3))
    assert str(error.value) == (
        "With inputs of the shapes (7, 3) the model has other layers to fold than with "
        "the example that it was folded with.\n"
        "Its variables fit only the layers of the example.\n"
        "Fold the model again with these inputs as `example`."
    )


# --- ResNet-50 ------------------------------------------------------------------------


def resnet_50(nn, norm, x):
    """Bottleneck blocks with the stride in the 3 x 3 convolution."""
    conv = functools.partial(nn.Conv, use_bias=False)
    x = nn.relu(norm()(conv(64, (7, 7), (2, 2))(x)))
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            width, stride = 64 * 2**stage, 2 if stage and not block else 1
            y = nn.relu(norm()(conv(width, (1, 1))(x)))
            y = nn.relu(norm()(conv(width, (3, 3), (stride, stride))(y)))
            y = norm()(conv(4 * width, (1, 1))(y))
            if block == 0:
                x = norm()(conv(4 * width, (1, 1), (stride, stride))(x))
            x = nn.relu(x + y)
    return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.slow
@LIBRARIES
def test_all_norms_of_a_resnet_50_are_folded(nn):
    model, x = of_flag(nn, resnet_50), numbers(4, 32, 32, 3)
    variables = jax.jit(model.init)(KEY, x)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    variables |= train(variables, numbers(4, 32, 32, 3, seed=3))[1]
    *_, report = fold(model, variables, x)
    rows = report.rows[:-1]
    assert len(rows) == len({row[1] for row in rows} - {None}) == 53
    assert max(row[2] for row in rows) <= 1e-5
    assert report.rows[-1][2] <= 1e-5 and not report.findings
