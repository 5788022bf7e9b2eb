"""Misuse is an error, a warning that goes on as Flax does, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import compat, errors
from linsey.config import config
from linsey.errors.misuse import MisuseWarning

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 3))
TRAIN = {"mutable": ["batch_stats"]}


def half(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


def norm(nn, **options):
    return nn.BatchNorm(use_running_average=False, **options)


def one_row(nn):
    variables = norm(nn).init(KEY, X)
    return jax.jit(lambda x: norm(nn).apply(variables, x, **TRAIN))(X[:1])


def no_statistics(nn):
    params = norm(nn).init(KEY, X)["params"]
    return norm(nn).apply({"params": params}, X, **TRAIN)


def half_statistics(nn):
    variables = norm(nn).init(KEY, X)
    halved = {**variables, "batch_stats": half(variables["batch_stats"])}
    return norm(nn).apply(halved, X, **TRAIN)


def other_channels(kept, found, evaluates):
    def run(nn):
        layer = norm(nn, use_scale=False, use_bias=False)
        variables = layer.init(KEY, X[:, :kept])
        layer = layer.clone(use_running_average=evaluates)
        return layer.apply(variables, X[:, :found], **({} if evaluates else TRAIN))

    return run


def rate(value):
    return lambda nn: nn.Dropout(value, deterministic=False).apply(
        {}, X, rngs={"dropout": KEY}
    )


MISUSE = {
    "one value per channel": (one_row, errors.SingleValuePerChannelError),
    "no statistics": (no_statistics, errors.MissingBatchStatsError),
    "half-precision statistics": (half_statistics, errors.HalfPrecisionStatisticsError),
    "several channels for one": (
        other_channels(1, 3, True), errors.FeatureShapeChangedError,
    ),
    "one channel for several": (
        other_channels(3, 1, True), errors.FeatureShapeChangedError,
    ),
    "one channel for several, training": (
        other_channels(3, 1, False), errors.FeatureShapeChangedError,
    ),
    "a rate that is no probability": (rate(1.5), errors.OptionError),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_goes_on_as_flax_does(name):
    program, error = MISUSE[name]
    with pytest.raises(error) as caught:
        program(linsey.linen)
    expected = program(flax.linen)
    with config.temp_flip_flag("misuse", "warn"):
        with pytest.warns(MisuseWarning) as seen:
            found = program(linsey.linen)
    assert str(caught.value) in [str(warning.message) for warning in seen]
    # It points at the line of the program.
    assert not any("/src/linsey/" in warning.filename for warning in seen)
    with config.temp_flip_flag("misuse", "ignore"):
        program(linsey.linen)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_flax_refuses_is_an_error_under_every_policy():
    with config.temp_flip_flag("misuse", "warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.FeatureShapeChangedError):
            other_channels(2, 3, True)(linsey.linen)
        layer = norm(linsey.linen)
        variables = layer.init(KEY, X)
        warnings.simplefilter("ignore")
        with pytest.raises(errors.ScopeCollectionNotFound):
            layer.apply({"params": variables["params"]}, X)


def test_warnings_that_are_errors_do_not_stop_a_program(capsys):
    with config.temp_flip_flag("misuse", "warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        no_statistics(linsey.linen)
        assert "each step would start them anew" in capsys.readouterr().err
        warnings.filterwarnings("error", category=MisuseWarning)
        with pytest.raises(MisuseWarning):
            no_statistics(linsey.linen)


def test_an_inner_value_may_be_written_where_it_does_not_matter():
    class Compiled(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            dense = linsey.linen.Dense(2)
            return jax.jit(lambda x: dense(x))(x)

    with pytest.raises(errors.JaxTransformError):
        jax.eval_shape(Compiled().init, KEY, X)
    with config.temp_flip_flag("misuse", "ignore"):
        variables = jax.eval_shape(Compiled().init, KEY, X)
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, 2)


def test_programs_that_import_flax_are_warned():
    assert config.misuse == "error"
    compat.install()
    try:
        assert config.misuse == "warn"
    finally:
        compat.uninstall()
    assert config.misuse == config.linsey_misuse == "error"


@pytest.mark.parametrize("value", ["loud", True, None])
def test_a_policy_that_is_not_there(value):
    with pytest.raises(errors.OptionError, match="'error', 'warn', 'ignore'"):
        config.update("misuse", value)
    assert config.misuse == "error"
    config.update("misuse", "error")


def test_the_environment_decides():
    program = (
        "from linsey import compat; from linsey.config import config\n"
        "print(config.misuse); compat.install(); print(config.misuse)"
    )
    run = [sys.executable, "-c", program]
    for value, expected in [("ignore", "ignore ignore"), ("error", "error error")]:
        environment = {**os.environ, "LINSEY_MISUSE": value}
        assert subprocess.check_output(run, env=environment, text=True).split() == (
            expected.split()
        )
    done = subprocess.run(
        run, env={**os.environ, "LINSEY_MISUSE": "loud"}, capture_output=True, text=True
    )
    assert "LINSEY_MISUSE=warn" in done.stderr
