"""How models are called is found by trying."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import treex as tx
from linsey.batch_stats.calls import find_call
from linsey.batch_stats.objects import variables_of, with_variables
from linsey.batch_stats.statistics import find_statistics
from linsey.errors import OptionError

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(3, 2, (6, 4)).astype(np.float32)
LIBRARIES = pytest.mark.parametrize(
    "nn", [linsey.linen, flax.linen], ids=["linsey", "flax"]
)


def flagged(nn, name):
    """A model whose flag is an argument of this name."""
    inverted = name in ("deterministic", "use_running_average")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, **flags):
            flag = flags[name] if inverted else not flags[name]
            x = nn.Dropout(0.5, deterministic=flag)(nn.Dense(3)(x))
            return nn.BatchNorm(use_running_average=flag)(x)

    return Model(), Model().init(KEY, X, **{name: inverted})


def moves(call, variables, batch):
    """Whether training changes the statistics, and evaluation gives what they say."""
    y, updates = call.train(variables, batch)
    merged = {**variables, **updates}
    before, after = find_statistics(variables)[0], find_statistics(merged)[0]
    assert not np.array_equal(before.mean, after.mean)
    assert call.evaluate(variables, batch).shape == y.shape
    return not np.allclose(call.evaluate(variables, batch), y)


@LIBRARIES
@pytest.mark.parametrize("name", ["train", "is_training", "deterministic"])
def test_the_flag_is_found_among_any_keywords(nn, name):
    model, variables = flagged(nn, name)
    call = find_call(model, variables, X)
    assert call.flags == {name: name != "deterministic"}
    assert moves(call, variables, X)


@LIBRARIES
def test_a_flag_in_a_field(nn):
    class Model(nn.Module):
        training: bool = False

        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=not self.training)(x)

    variables = Model().init(KEY, X)
    call = find_call(Model(), variables, X)
    assert call.flags == {"training": True}
    assert moves(call, variables, X)


@LIBRARIES
def test_a_mode_by_what_is_mutable(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            trains = self.is_mutable_collection("batch_stats")
            return nn.BatchNorm(use_running_average=not trains)(x)

    variables = Model().init(KEY, X)
    call = find_call(Model(), variables, X)
    assert call.flags == {}
    assert moves(call, variables, X)


@LIBRARIES
def test_bound_apply_and_partials_of_it(nn):
    class Model(nn.Module):
        @nn.compact
        def encode(self, x, train):
            return nn.BatchNorm(use_running_average=not train)(x)

    variables = Model().init(KEY, X, True, method="encode")
    call = find_call(functools.partial(Model().apply, method="encode"), variables, X)
    assert moves(call, variables, X)
    model, variables = flagged(nn, "train")
    assert moves(find_call(model.apply, variables, X), variables, X)


@LIBRARIES
def test_a_flag_that_the_user_names(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, phase, still):
            return nn.BatchNorm(use_running_average=not phase)(x)

    variables = Model().init(KEY, X, False, False)
    with pytest.raises(OptionError, match='Name the flag, as `flag="train"`'):
        find_call(Model(), variables, X)

    model, variables = flagged(nn, "deterministic")
    call = find_call(model, variables, X, flag="not deterministic")
    assert call.flags == {"deterministic": False}


def test_batches_with_labels_and_dictionaries():
    model, variables = flagged(linsey.linen, "train")
    labels = np.zeros(6, np.int32)
    for batch in ((X, labels), [X, labels], {"image": X, "label": labels}):
        assert moves(find_call(model, variables, batch), variables, batch)
    call = find_call(model, variables, {"a": X}, inputs=lambda batch: batch["a"])
    assert moves(call, variables, {"a": X})


def test_functions():
    model, variables = flagged(linsey.linen, "train")

    def function(variables, x, train, mutable) -> Any:
        rngs = {"dropout": KEY}
        return model.apply(variables, x, train=train, mutable=mutable, rngs=rngs)

    call = find_call(function, variables, X)
    assert call.module is None
    assert moves(call, variables, X)


def test_objects():
    model = tx.Sequential(tx.Linear(3), tx.BatchNorm(), tx.Dropout(0.5)).init(0, X)
    variables = variables_of(model)
    assert [one.layer for one in find_statistics(variables)] == ["layers/1"]
    call = find_call(model, None, X)
    assert moves(call, variables, X)
    doubled = with_variables(model, jax.tree.map(lambda a: 2 * a, variables))
    for a, b in zip(
        jax.tree.leaves(variables), jax.tree.leaves(variables_of(doubled)), strict=True
    ):
        np.testing.assert_array_equal(2 * a, b)
    assert jax.tree.structure(doubled) == jax.tree.structure(model)


def test_statistics_of_boxes_and_counts():
    ones = linsey.linen.with_partitioning(linsey.linen.initializers.ones, ("c",))
    layer = linsey.linen.BatchNorm(
        use_running_average=False, count_updates=True, scale_init=ones
    )
    variables = layer.init(KEY, X)
    (found,) = find_statistics(variables)
    assert found.layer == ""
    assert found.scale.shape == found.bias.shape == (4,)
    assert found.count is not None
    assert jnp.shape(found.count) == ()
