"""Real Flax: its modules are loaded into, and proved against."""

from __future__ import annotations

import flax.linen
import numpy as np
import pytest

import linsey.linen as nn
from linsey.checkpoint import flatten
from linsey.weights import load, prove, to_torch
from tests.weights import nets


class Theirs(flax.linen.Module):
    momentum: float = 0.8

    @flax.linen.compact
    def __call__(self, x, train=False):
        x = flax.linen.Conv(4, (3, 3))(x)
        x = flax.linen.BatchNorm(not train, momentum=self.momentum)(x)
        x = flax.linen.ConvTranspose(3, (2, 2))(flax.linen.relu(x))
        return flax.linen.Dense(2)(x.mean((1, 2)))


class Ours(nn.Module):
    momentum: float = 0.8

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = nn.BatchNorm(not train, momentum=self.momentum, name="norm")(x)
        x = nn.ConvTranspose(3, (2, 2), name="up")(nn.relu(x))
        return nn.Dense(2, name="head")(x.mean((1, 2)))


X = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype(np.float32)


def test_variables_of_flax_are_loaded_by_shape_and_proved():
    theirs = nets.random_variables(Theirs(), X)
    variables, report = load(Ours(), flatten(theirs), X)
    assert {match.by for match in report.matches} == {"shape"}
    assert prove((Ours(), variables), (Theirs(), theirs), X).is_equal
    proof = prove((Ours(momentum=0.2), variables), (Theirs(), theirs), X)
    assert [cause.kind for cause in proof.causes] == ["momentum inverted"]


def test_a_module_of_flax_takes_weights_of_pytorch():
    variables = nets.random_variables(Theirs(), X)
    state = to_torch(Theirs(), variables, X)
    assert state["ConvTranspose.0.weight"].shape == (4, 3, 2, 2)
    found, report = load(Theirs(), state, X)
    assert report.is_complete
    for path, array in flatten(variables).items():
        assert np.asarray(flatten(found)[path]).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
def test_a_tree_without_collections_has_names_too(collection):
    theirs = nets.random_variables(Theirs(), X)
    arrays = {path.partition("/")[2]: a for path, a in flatten(theirs).items()}
    variables, _ = load(Ours(), arrays, X)
    for path, array in flatten(variables[collection]).items():
        assert array.shape == flatten(variables[collection])[path].shape
    assert prove((Ours(), variables), (Theirs(), theirs), X).is_equal


def test_the_variance_of_flax_is_the_biased_one():
    theirs = nets.random_variables(Theirs(), X)

    class Unbiased(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Conv(4, (3, 3))(x)
            x = nn.BatchNorm(not train, momentum=0.8, unbiased_variance=True)(x)
            x = nn.ConvTranspose(3, (2, 2))(nn.relu(x))
            return nn.Dense(2)(x.mean((1, 2)))

    proof = prove((Unbiased(), theirs), (Theirs(), theirs), X)
    assert [cause.kind for cause in proof.causes] == ["unbiased variance"]
