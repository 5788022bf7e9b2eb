"""Batches that fit the data, or are refused before anything is left behind."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from linsey.app.batches import choose_batch_size
from linsey.app.config import TrainConfig
from linsey.app.dataset import make_dataset
from linsey.app.models import make_model
from linsey.app.options import load_options
from linsey.errors import InputError, SingleValuePerChannelError
from tests.app.runs import make_blobs

QUICK = ("--model", "mlp", "--width", 1, "--depth", 1, "--epochs", 1)


def data_of(count: int):
    x, y = make_blobs(count=count)
    keys = "x", "y", "x_test", "y_test"
    return make_dataset("blobs", (x, y), (x[:4], y[:4]), TrainConfig(), keys)


@pytest.fixture
def few(tmp_path):
    """30 examples to train on."""
    x, y = make_blobs(count=30)
    np.savez(tmp_path / "few.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path / "few.npz"


@pytest.mark.parametrize(
    ("given", "examples", "devices", "size"),
    [(None, 1000, 1, 64), (None, 30, 1, 30), (None, 30, 8, 24), (None, 1000, 6, 60),
     (None, 64, 8, 64), (16, 30, 1, 16), (30, 30, 1, 30), (16, 30, 8, 16)],
)  # fmt: skip
def test_batches_fit_the_data_and_the_devices(given, examples, devices, size):
    config = TrainConfig(model="mlp", batch_size=given)
    assert choose_batch_size(config, data_of(examples), devices) == size


@pytest.mark.parametrize(
    ("given", "devices", "error"),
    [
        (31, 1, r"larger than .* expected at most 30, found 31 \(--batch-size 30, or "),
        (32, 4, r"expected at most 30, found 32 \(--batch-size 28, or leave it out\)"),
        (9, 2, "does not divide over the devices: expected a multiple of 2, found 9"),
        (
            None,
            31,
            "blobs: fewer examples to train on than devices: expected 31, found",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused(given, devices, error):
    config = TrainConfig(model="mlp", batch_size=given)
    with pytest.raises(InputError, match=error) as caught:
        choose_batch_size(config, data_of(30), devices)
    if "leave it out" in error:  # what the hint says
        (size,) = re.findall(r"--batch-size (\d+)", caught.value.hint)
        for fitting in (int(size), None):
            config = dataclasses.replace(config, batch_size=fitting)
            assert choose_batch_size(config, data_of(30), devices) == int(size)


@pytest.mark.parametrize(
    ("given", "accumulate", "devices", "error"),
    [
        (16, 3, 1, "into 3 microbatches .* a multiple of 3, found 16 .--batch-size 15"),
        (2, 4, 2, "into 4 microbatches .* a multiple of 4, found 2 .--batch-size 4"),
        (30, 31, 1, "into 31 microbatches .* found 30 .--accumulate 1"),
        (None, 31, 1, "into 31 microbatches .* found 30 .--accumulate 1"),
        (63, 7, 1, "larger than the training data: .* found 63 .--batch-size 28, or"),
    ],
)
def test_batches_divide_into_microbatches_or_a_hint_that_works_is_given(
    given, accumulate, devices, error
):
    config = TrainConfig(model="mlp", batch_size=given, accumulate=accumulate)
    with pytest.raises(InputError, match=error) as caught:
        choose_batch_size(config, data_of(30), devices)
    name, value = re.search(r"--([a-z-]+) (\d+)", caught.value.hint).groups()
    config = dataclasses.replace(config, **{name.replace("-", "_"): int(value)})
    assert choose_batch_size(config, data_of(30), devices) > 0
    assert (
        choose_batch_size(TrainConfig(model="mlp", accumulate=4), data_of(30), 1) == 28
    )


def test_a_batch_size_that_is_not_given_is_lowered_and_kept(linsey, few, tmp_path):
    result = linsey("train", "--data", few, *QUICK, "--out", "run")
    assert (result.code, result.err) == (0, "")
    line = (
        "1 step of 30 examples an epoch (--batch-size is lowered from 64 to fit them)"
    )
    assert line in result.out.splitlines()
    assert load_options(tmp_path / "run" / "config.toml")["batch_size"] == 30
    assert linsey("train", "--resume", "--out", "run").code == 0
    again = linsey("train", "--config", "run/config.toml", "--out", "again")
    assert again.code == 0 and "lowered" not in again.out


@pytest.mark.slow
def test_what_an_epoch_leaves_out_is_said(linsey, few):
    result = linsey("train", "--data", few, *QUICK, "--batch-size", 16, "--out", "run")
    assert result.code == 0
    line = "1 step of 16 examples an epoch; each epoch leaves out 14 of 30 at random"
    assert line in result.out.splitlines()


def test_a_batch_that_is_too_large_leaves_nothing_behind(linsey, few, tmp_path):
    for more in ((), ("--compare",)):
        result = linsey("train", "--data", few, *QUICK, "--batch-size", 31, "--out",
                        "runs/a", *more)  # fmt: skip
        assert result.code == 2
        assert result.error == (
            "--batch-size: larger than the training data: expected at most 30, found "
            "31 (--batch-size 30, or leave it out)"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["few.npz"]


@pytest.mark.parametrize("norm", [("--norm", "batch"), ("--norm", "none", "--compare")])
def test_a_batch_of_one_example_has_no_variance(linsey, few, tmp_path, norm):
    options = ("train", "--data", few, *QUICK, *norm)
    result = linsey(*options, "--batch-size", 1, "--out", "run")
    assert result.code == 2
    assert result.error == (
        "--batch-size: batch normalization has no variance in a batch of one example: "
        "expected 2 or more, found 1 (--norm layer does without others, or give "
        "--batch-size 2)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["few.npz"]


@pytest.mark.slow
def test_what_it_says_about_one_example_works(linsey, few):
    for name, more in {
        "layer": ("--batch-size", 1, "--norm", "layer"),
        "two": ("--batch-size", 2),
    }.items():
        options = ("--data", few, *QUICK, *more, "--out", name)
        assert linsey("train", *options).code == 0


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 2, 1), (1, 3, 1), (5, 3, 2)])
def test_one_example_is_refused_where_the_layers_refuse_it(model, depth, shape):
    """A residual network averages over pixels too, as far as it has several."""
    config = TrainConfig(model=model, depth=depth, width=1, batch_size=1)
    try:
        module = make_model(config, shape, 2)
    except InputError:
        return  # too small to be halved so often
    x = np.zeros((1, *shape), np.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def train(x):
        variables = module.init(keys, x, False)
        return module.apply(variables, x, True, rngs=keys, mutable=["batch_stats"])

    data = make_dataset("", (np.zeros((4, *shape)), np.arange(4) % 2), None,
                        TrainConfig(test_fraction=0.5))  # fmt: skip
    try:
        jax.eval_shape(train, x)
    except SingleValuePerChannelError:
        with pytest.raises(InputError, match="batch normalization has no variance"):
            choose_batch_size(config, data, 1)
    else:
        assert choose_batch_size(config, data, 1) == 1
