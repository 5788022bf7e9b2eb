"""The architectures of `linsey.models` as models of the command."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import models
from linsey.app.architectures import least_averaged_by, make_architecture
from linsey.app.config import ModelOptions, TrainConfig
from linsey.app.model_name import ARCHITECTURES
from linsey.app.own_network import make_network
from linsey.app.run_folder import default_out
from linsey.errors import InputError, SingleValuePerChannelError
from tests.app.runs import final


def test_the_command_knows_the_names_without_an_import():
    assert ARCHITECTURES == tuple(models.MODELS)


def test_arguments_and_precision_reach_the_architecture():
    options = ModelOptions(
        model="efficientnet_b1",
        model_arg=("momentum=0.95", "drop_path=0.1", "renorm=3, 5"),
        precision="bfloat16",
    )
    found = make_architecture(options, (32, 32, 3), 7)
    assert found == models.efficientnet_b1(
        7,
        drop_path=0.1,
        batch_norm={"momentum": 0.95, "renorm": (3.0, 5.0)},
        dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
    )


def test_it_is_a_network_of_the_command():
    options = ModelOptions(model="vit_s_16", model_arg=("patch_size=4",))
    network = make_network(options, (8, 8, 1), 10)
    x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(0)}
    logits, changed = jax.eval_shape(network.train, variables, x, rngs)
    assert logits.shape == (2, 10)
    assert changed == {}
    assert network == make_network(options, (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"model_arg": ("momentums=1",)}, (32, 32, 3),
         "--model-arg momentums: no such argument: expected momentum, group_size, "
         "renorm, save_memory, epsilon (did you mean momentum?)"),
        ({"model_arg": ("momentum=2",)}, (32, 32, 3),
         "--model-arg.momentum: out of range: expected 0 to 1, found 2.0"),
        ({"model_arg": ("save_memory=true", "group_size=2")}, (32, 32, 3),
         "--model-arg save_memory: excludes group_size (leave one of them out)"),
        ({"width": 64}, (32, 32, 3),
         "--width: an option of mlp, cnn and resnet alone (leave it out)"),
        ({"model": "densenet121", "dropout": 0.5}, (32, 32, 3),
         "--dropout: an option of mlp, cnn and resnet alone (give --model-arg "
         "dropout=0.5)"),
        ({}, (5,), "--model: resnet18 needs images: expected examples (height, width, "
         "channels), found examples (5,) (use --model mlp)"),
        ({"model": "densenet121"}, (28, 28, 1), "--model: densenet121 cannot take "
         "images of 28 x 28 pixels (use --model resnet18, or larger images)"),
        ({"model": "vit_b_16"}, (28, 42, 1), "--model: vit_b_16 cannot take images of "
         "28 x 42 pixels (give --model-arg patch_size=14, or images of another size)"),
        ({"model": "vit_s_16", "model_arg": ("patch_size=1",)}, (4096, 8192, 1),
         "--model-arg patch_size: a larger model than a machine can hold: expected at "
         "most 8,589,934,592 parameters, found 1.3e+10"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(options, shape, message):
    with pytest.raises(InputError) as caught:
        make_architecture(ModelOptions(**{"model": "resnet18", **options}), shape, 3)
    assert str(caught.value) == message


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("name", ["resnet18", pytest.param(
    "mobilenet_v3_small", marks=pytest.mark.slow), pytest.param(
    "densenet121", marks=pytest.mark.slow)])  # fmt: skip
def test_one_example_is_enough_where_several_pixels_are_left(name, side):
    model = models.by_name(name, 3)
    x = jax.ShapeDtypeStruct((1, side, 80, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    for width in (32, 64):
        x = jax.ShapeDtypeStruct((1, side, width, 1), jnp.float32)

        def train(variables, x):
            rngs = {"dropout": jax.random.key(0)}
            return model.apply(variables, x, True, mutable="batch_stats", rngs=rngs)

        if least_averaged_by(name, (side, width, 1)) == 1:
            with pytest.raises(SingleValuePerChannelError):
                jax.eval_shape(train, variables, x)
        else:
            jax.eval_shape(train, variables, x)


def test_it_is_called_by_its_name():
    config = TrainConfig(model="resnet18")
    assert config.described == "resnet18"
    assert default_out(config).name.startswith("digits-resnet18-2")


def test_summary_shows_the_layers(linsey):
    result = linsey("summary", "--model", "resnet18", "--shape", 32, 32, 3)
    assert result.code == 0
    assert "layer4_1" in result.out
    total = models.resnet18(10)
    variables = jax.eval_shape(total.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert f"{count:,}" in result.out


def test_there_is_no_comparison(linsey):
    result = linsey("train", "--model", "resnet18", "--compare")
    assert result.error.startswith("--compare: compares mlp, cnn and resnet")


@pytest.mark.slow
def test_a_run_is_trained_resumed_and_evaluated(linsey, tmp_path):
    drawn = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = drawn.normal(size=(40, 8, 8, 3)).astype(np.float32) + 3 * y[:, None, None, None]
    np.savez(tmp_path / "few.npz", x=x, y=y)
    options = ["--data", "few.npz", "--model", "resnet18", "--out", "run"]
    options += ["--model-arg", "momentum=0.5", "--batch-size", 16, "--lr", 0.01]
    assert linsey("train", *options, "--epochs", 3).code == 0
    assert linsey("train", "--resume", "--out", "run", "--epochs", 3).code == 0
    result = linsey("eval", "run", "--json")  # what it is is known without --model
    assert result.code == 0
    assert json.loads(result.out)["accuracy"] > 0.6
    assert final(tmp_path / "run").step == 6
    folded = linsey("fold", "run", "folded")
    assert folded.code == 0
