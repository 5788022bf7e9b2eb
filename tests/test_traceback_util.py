"""Tracebacks lead from the call of a model to its own lines."""

from __future__ import annotations

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import linsey
import linsey.linen as nn
from linsey.config import config
from linsey.traceback_util import (
    api_boundary,
    hide_flax_in_tracebacks,
    show_flax_in_tracebacks,
)

PACKAGE = str(Path(linsey.__file__).parent)
KEY, X = jax.random.key(0), jnp.ones(3)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise RuntimeError("in the model")


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Inner()(nn.Dense(2)(x))


def frames_of(run) -> list[tuple[bool, str]]:
    """For each frame: is it of the package, and in which function."""
    with pytest.raises(RuntimeError, match="in the model") as caught:
        run()
    entries = traceback.extract_tb(caught.value.__traceback__)
    return [(e.filename.startswith(PACKAGE), e.name) for e in entries]


@pytest.mark.parametrize(
    "run",
    [
        lambda: Outer().init(KEY, X),
        lambda: Outer().init_with_output(KEY, X),
        lambda: Outer().apply({}, X, rngs=KEY, mutable=True),
        lambda: jax.jit(Outer().init)(KEY, X),
        lambda: nn.apply(lambda m: m(X), Outer(), mutable=True)({}, rngs=KEY),
    ],
    ids=["init", "init_with_output", "apply", "jit", "function"],
)
def test_no_frame_of_the_library_stands_between_those_of_the_model(run):
    frames = frames_of(run)
    calls = [i for i, (own, name) in enumerate(frames) if name == "__call__"]
    assert [own for own, _ in frames[calls[0] :]] == [False, False]


def test_they_are_shown_on_demand():
    with config.temp_flip_flag("filter_frames", False):
        frames = frames_of(lambda: Outer().init(KEY, X))
    calls = [i for i, (own, name) in enumerate(frames) if name == "__call__"]
    assert any(own for own, _ in frames[calls[0] :])


def test_the_old_names_set_the_flag():
    before = config.filter_frames
    try:
        show_flax_in_tracebacks()
        assert not config.filter_frames
        hide_flax_in_tracebacks()
        assert config.filter_frames
    finally:
        config.update("filter_frames", before)


def test_an_exception_passes_with_its_cause():
    @api_boundary
    def fails():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        fails()
    assert isinstance(caught.value.__cause__, KeyError)
    assert fails.__name__ == "fails"
