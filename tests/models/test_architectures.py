"""What the architectures are made of, by shapes alone, and what they refuse."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey import models
from linsey.checkpoint import flatten
from linsey.errors import (
    ArgumentTypeError,
    LinseyError,
    OptionError,
    ShapeError,
)
from linsey.models.mobilenet_v3 import SMALL
from tests.weights.nets import random_variables

# As the documentation of torchvision and timm has them, for 1000 classes.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "vit_s_16": 22_050_664,
    "vit_b_16": 86_567_656,
}
ONE_OF_EACH = ("resnet50", "mobilenet_v3_small", "efficientnet_b0", "densenet121",
               "vit_s_16")  # fmt: skip
NAMES = [
    name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow)
    for name in models.MODELS
]
SMALL_ONES: dict[str, Callable[..., models.Architecture]] = {
    "resnet": lambda **options: models.ResNet(3, stage_sizes=(1, 1), **options),
    "mobilenet": lambda **options: models.MobileNetV3(3, rows=SMALL[:2], **options),
    "densenet": lambda **options: models.DenseNet(
        3, block_sizes=(1, 1), growth=4, **options
    ),
}


def vit(**options: Any) -> models.VisionTransformer:
    sizes = {"patch_size": 4, "features": 8, "depth": 2, "heads": 2, "hidden": 16}
    return models.VisionTransformer(3, **{**sizes, **options})


def shapes(model: models.Architecture, side: int = 32) -> tuple[Any, dict[str, Any]]:
    """Shapes of logits and variables."""
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


@functools.cache
def shapes_of(name: str) -> tuple[Any, dict[str, Any]]:
    return shapes(models.by_name(name), 224)


def layers(model: models.Architecture, kind: type, train: bool = True) -> list[Any]:
    """The layers of a kind, as they are called."""
    found = []

    def look(next_function, arguments, options, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            found.append(context.module)
        return next_function(*arguments, **options)

    _, variables = shapes(model)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)}
    with nn.intercept_methods(look):
        call = functools.partial(model.apply, train=train, mutable=True, rngs=rngs)
        jax.eval_shape(call, variables, images)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_that_are_published(name):
    logits, variables = shapes_of(name)
    assert logits.shape == (2, 1000)
    count = sum(
        math.prod(array.shape) for array in jax.tree.leaves(variables["params"])
    )
    assert count == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_names_have_the_tokens_of_torchvision(name):
    model = models.by_name(name)
    renamed = {"kernel": "weight", "scale": "weight", "mean": "running_mean",
               "var": "running_var"}  # fmt: skip
    paths = list(flatten(shapes_of(name)[1]))
    found = [models.torch_name(model, path) for path in paths]
    for path, theirs in zip(paths, found, strict=True):
        *parents, leaf = path.split("/")[1:]
        ours = [*parents, renamed.get(leaf, leaf)]
        assert re.split("[._]", theirs) == re.split("_", "_".join(ours))
    assert len({*found}) == len(found)
    timm = {models.torch_name(model, path, "timm") for path in paths}
    assert len(timm) == len(found)


def test_names_in_timm():
    cases = {
        "resnet50": ("params/layer1_0/downsample_0/kernel",
                     "layer1.0.downsample.0.weight"),
        "mobilenet_v3_small": ("params/features_4/block_2/fc1/bias",
                               "blocks.2.0.se.conv_reduce.bias"),
        "efficientnet_b0": ("batch_stats/features_8_1/mean", "bn2.running_mean"),
        "densenet121": ("params/features/transition1/conv/kernel",
                        "features.transition1.conv.weight"),
        "vit_s_16": ("params/encoder/layers_encoder_layer_11/mlp_3/bias",
                     "blocks.11.mlp.fc2.bias"),
    }  # fmt: skip
    for name, (path, theirs) in cases.items():
        assert models.torch_name(models.by_name(name), path, "timm") == theirs


def test_every_function_is_listed_by_its_name():
    assert list(models.MODELS) == list(PARAMETERS)
    for name, make in models.MODELS.items():
        assert getattr(models, name) is make
        assert models.by_name(name, 7) == make(7)
        assert hash(make(7)) == hash(make(num_classes=7))


@pytest.mark.parametrize("make", SMALL_ONES.values(), ids=SMALL_ONES)
def test_options_reach_every_batch_norm(make):
    options = models.BatchNormOptions(
        momentum=0.5, epsilon=0.1, group_size=2, nonfinite="error", frozen="affine"
    )
    found = layers(make(batch_norm=options), nn.BatchNorm)
    assert len(found) >= 4
    for layer in found:
        assert (layer.momentum, layer.epsilon, layer.group_size) == (0.5, 0.1, 2)
        assert (layer.nonfinite, layer.frozen) == ("error", "affine")


def test_some_options_leave_the_others_as_they_are_in_the_family():
    options = models.mobilenet_v3_small(batch_norm={"group_size": 4}).batch_norm
    assert (options.momentum, options.epsilon, options.group_size) == (0.99, 1e-3, 4)
    options = models.resnet18(batch_norm={"momentum": None}).batch_norm
    assert (options.momentum, options.epsilon) == (None, 1e-5)


def test_blocks_are_dropped_more_often_towards_the_end():
    model = models.efficientnet_b0(3, drop_path=0.32, dropout=0.5)
    *rates, last = [layer.rate for layer in layers(model, nn.Dropout)]
    # Blocks that change the shape have no branch to drop.
    np.testing.assert_allclose(rates, 0.02 * np.array([2, 4, 6, 7, 9, 10, 12, 13, 14]))
    assert last == 0.5
    found = layers(vit(drop_path=0.3, dropout=0.1), nn.Dropout)
    assert [layer.rate for layer in found if layer.broadcast_dims] == [0, 0, 0.3, 0.3]
    assert len(found) == 11


@pytest.mark.parametrize("make", [*SMALL_ONES.values(), vit], ids=[*SMALL_ONES, "vit"])
def test_dtypes_reach_every_layer(make):
    logits, variables = shapes(make(dtype=jnp.bfloat16))
    assert logits.dtype == jnp.bfloat16
    assert {array.dtype for array in jax.tree.leaves(variables)} == {
        jnp.dtype("float32")
    }
    _, variables = shapes(make(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    params = jax.tree.leaves(variables["params"])
    assert {array.dtype for array in params} == {jnp.dtype("bfloat16")}


def test_strides_pad_both_ends_alike():
    """An image turned by half a turn gives the features turned, if it is odd."""
    layer = models.architecture.LayerOptions().conv(2, 3, "conv", strides=2)
    x = jax.random.normal(jax.random.key(0), (1, 7, 7, 1))
    variables = layer.init(jax.random.key(1), x)
    turned = jax.tree.map(lambda kernel: kernel[::-1, ::-1], variables)
    y, other = layer.apply(variables, x), layer.apply(turned, x[:, ::-1, ::-1])
    np.testing.assert_allclose(other[:, ::-1, ::-1], y, rtol=1e-5, atol=1e-6)


def test_training_updates_statistics_and_evaluation_reads_them():
    model = SMALL_ONES["densenet"]()
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = random_variables(model, x)
    train = functools.partial(model.apply, train=True, mutable="batch_stats")
    _, changed = jax.jit(train)(variables, x)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"],
                         changed["batch_stats"])  # fmt: skip
    assert all(jax.tree.leaves(moved))
    evaluate = jax.jit(model.apply)
    before, after = evaluate(variables, x), evaluate({**variables, **changed}, x)
    assert np.abs(after - before).max() > 1e-3
    others = evaluate(variables, np.concatenate([x[:1], 0 * x[1:]]))
    np.testing.assert_allclose(others[0], before[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", SMALL_ONES.values(), ids=SMALL_ONES)
def test_saving_memory_changes_no_gradient(make):
    saving = make(batch_norm=models.BatchNormOptions(save_memory=True))
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3), np.float64)
        usual = make(param_dtype=np.float64, batch_norm=models.BatchNormOptions())
        variables = jax.jit(usual.init)(jax.random.key(1), x)

        def loss(params, model):
            y, _ = model.apply(
                {**variables, "params": params}, x, True, mutable="batch_stats",
                rngs={"dropout": jax.random.key(2)},
            )  # fmt: skip
            return jnp.sum(jnp.square(y))

        gradients = jax.jit(jax.grad(loss), static_argnums=1)
        expected = gradients(variables["params"], usual)
        found = gradients(variables["params"], saving)
    for one, other in zip(
        jax.tree.leaves(expected), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_the_object_view_computes_the_same():
    model = vit()
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    variables["params"]["heads_head"]["kernel"] += 1.0
    view = tx.from_linen(model, variables)
    expected = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(view.eval()(x), expected, rtol=1e-5, atol=1e-6)
    assert view.to_linen()[0] == model


@pytest.mark.slow
def test_dropout_is_drawn_from_its_stream():
    model = vit(dropout=0.3, attention_dropout=0.3, drop_path=0.3)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    variables["params"]["heads_head"]["kernel"] += jnp.arange(24.0).reshape(8, 3)

    @jax.jit
    def train(key):
        return model.apply(variables, x, True, rngs={"dropout": key})

    one, other = train(jax.random.key(2)), train(jax.random.key(3))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(train(jax.random.key(2)), one)


# -- what is refused -----------------------------------------------------------------

MISTAKES: dict[str, tuple[Callable[[], object], type[LinseyError], str]] = {
    "name": (
        lambda: models.by_name("resnet20"),
        OptionError,
        "An architecture 'resnet20' was asked for.\n"
        f"There are {', '.join(PARAMETERS)}.\n"
        "Write `by_name('resnet50')`.",
    ),
    "library": (
        lambda: models.resnet18().torch_names("keras"),
        OptionError,
        "Names of the library 'keras' were asked for.\n"
        "The tables are those of `torchvision` and of `timm`.\n"
        'Write `model.torch_names("timm")`.',
    ),
    "option": (
        lambda: models.resnet18(batch_norm={"momentums": 0.9}),
        OptionError,
        "`batch_norm` has the option 'momentums'.\n"
        "The options are momentum, epsilon, unbiased_variance, axis_name, group_size, "
        "renorm, frozen, nonfinite, count_updates, save_memory.\n"
        "Write 'momentum' instead.",
    ),
    "options": (
        lambda: models.resnet18(batch_norm=0.9),  # type: ignore[arg-type]
        ArgumentTypeError,
        "`batch_norm` is of type float.\n"
        "It holds options of `BatchNorm` by name.\n"
        'Write `batch_norm={"momentum": 0.9}`.',
    ),
    "patches": (
        lambda: shapes(models.vit_s_16(), 40),
        ShapeError,
        "Images of 40 x 40 pixels were passed.\n"
        "They do not divide into patches of 16 x 16.\n"
        "Resize them to multiples of 16, or make the model with a `patch_size` that "
        "divides both sides.",
    ),
    "heads": (
        lambda: shapes(vit(heads=3)),
        OptionError,
        "There are 8 features and 3 heads.\n"
        "Each head has as many features as the others.\n"
        "Choose a number of heads that divides the features.",
    ),
    "small": (
        lambda: shapes(models.densenet121(), 28),
        ShapeError,
        "Images of 28 x 28 pixels were passed.\n"
        "A DenseNet halves an image five times, and nothing would be left.\n"
        "Pass images of at least 29 x 29 pixels.",
    ),
    "rank": (
        lambda: models.resnet18().check_images((224, 224)),
        ShapeError,
        "Inputs of shape (224, 224) were passed.\n"
        "Images are of shape (batch, height, width, channels).\n"
        "For a single image write `model(x[None])`.",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_what_to_write(name):
    program, kind, text = MISTAKES[name]
    with pytest.raises(kind) as caught:
        program()
    assert str(caught.value) == text


def test_the_smallest_image_of_a_densenet_is_taken():
    logits, _ = shapes(models.densenet121(3), 29)
    assert logits.shape == (2, 3)
