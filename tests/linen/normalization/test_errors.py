"""The full text of each error of the normalization layers, provoked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import linsey.linen as nn
from linsey import errors
from tests.linen.normalization.training import KEY, MUTABLE, norm

X = jnp.arange(12.0).reshape(4, 3)
PROGRAMS: dict[str, tuple[type[Exception], Callable[[], object]]] = {}
MESSAGES = dict(
    section.strip().split("\n", 1)
    for section in Path(__file__)
    .with_name("error_messages.txt")
    .read_text()
    .removeprefix("# ")
    .split("\n# ")
)


def mistake(error: type[Exception]) -> Callable[[Callable], Callable]:
    """Registers a program that raises the error, under its name in words."""

    def register(program: Callable[[], object]) -> Callable:
        PROGRAMS[program.__name__.replace("_", " ")] = error, program
        return program

    return register


def step(layer, x=X, variables=None, mutable=MUTABLE, **call):
    """One call in training, inside of a model so that the path shows."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layer.clone(name="norm", parent=self)(x, **call)

    model = Model()
    if variables is None:
        plain = norm(axis=layer.axis, use_scale=layer.use_scale)
        variables = plain.init(KEY, X)
        variables = {name: {"norm": tree} for name, tree in variables.items()}
    return model.apply(variables, x, mutable=mutable)


# -- statistics ------------------------------------------------------------------------


@mistake(errors.OptionError)
def momentum_out_of_range():
    step(norm(momentum=-1))


@mistake(errors.MissingBatchStatsError)
def no_statistics():
    step(norm(), variables={"params": {"norm": {"scale": X[0], "bias": X[0]}}})


@mistake(errors.MissingBatchStatsError)
def no_counts():
    step(norm(count_updates=True))


@mistake(errors.FeatureShapeChangedError)
def other_channels():
    step(norm(), jnp.ones((2, 5, 4)))


@mistake(errors.SingleValuePerChannelError)
def one_value_per_channel():
    jax.jit(lambda x: step(norm(), x))(X[:1])


@mistake(errors.HalfPrecisionStatisticsError)
def half_precision():
    variables = jax.tree.map(lambda v: v.astype("bfloat16"), norm().init(KEY, X))
    step(norm(), X, {name: {"norm": tree} for name, tree in variables.items()})


@mistake(errors.NonFiniteBatchError)
def not_finite():
    step(norm(nonfinite="error"), X.at[1, 2].set(jnp.nan))


@mistake(errors.OptionError)
def domain_without_domains():
    step(norm(), domain=1)


@mistake(errors.OptionError)
def domain_out_of_range():
    step(norm(num_domains=3), domain=3)


# -- options ---------------------------------------------------------------------------


@mistake(errors.TracedFlagError)
def traced_flag():
    jax.jit(lambda flag: step(nn.BatchNorm(), use_running_average=flag))(True)


@mistake(errors.UnboundAxisNameError)
def unbound_name():
    step(norm(axis_name="batch"))


@mistake(errors.OptionError)
def unknown_frozen_part():
    step(norm(frozen="scale"))


@mistake(errors.OptionError)
def unknown_activation():
    step(norm(activation="tanh"))


@mistake(errors.OptionError)
def unknown_nonfinite():
    step(norm(nonfinite="ignore"))


@mistake(errors.OptionError)
def empty_groups():
    step(norm(group_size=0))


@mistake(errors.OptionError)
def groups_of_channels():
    step(norm(group_size=2, axis=0))


@mistake(errors.OptionError)
def groups_and_groups_of_shards():
    step(norm(group_size=2, axis_index_groups=[[0], [1]]))


@mistake(errors.OptionError)
def saved_memory_with_a_mask():
    step(norm(save_memory=True), mask=X > 1)


@mistake(errors.OptionError)
def two_biases():
    step(norm(), bias=X[0])


@mistake(errors.ShapeError)
def mask_of_another_shape():
    step(norm(), mask=jnp.ones(4, bool))


# -- layers without statistics ---------------------------------------------------------


@mistake(errors.OptionError)
def number_and_size_of_groups():
    nn.GroupNorm(num_groups=3, group_size=1).init(KEY, X)


@mistake(errors.OptionError)
def groups_that_do_not_divide():
    nn.GroupNorm(num_groups=2).init(KEY, X)


@mistake(errors.OptionError)
def sizes_that_do_not_divide():
    nn.GroupNorm(num_groups=None, group_size=2).init(KEY, X)


@mistake(errors.OptionError)
def groups_of_symbolic_channels():
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((2, n), jnp.float32)
    jax.eval_shape(nn.GroupNorm(num_groups=4).init, KEY, x)


@mistake(errors.OptionError)
def groups_without_the_last_axis():
    nn.GroupNorm(num_groups=3, reduction_axes=(0,)).init(KEY, X)


@mistake(errors.OptionError)
def examples_as_channels():
    nn.InstanceNorm(feature_axes=(0, -1)).init(KEY, X)


def test_every_text_has_a_program():
    assert PROGRAMS.keys() == MESSAGES.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_full_text(name):
    error, program = PROGRAMS[name]
    with pytest.raises(error) as caught:
        program()
    assert type(caught.value) is error
    assert str(caught.value) == MESSAGES[name]


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (norm(frozen="affine"), {}),
        (norm(activation="gelu"), {}),
        (norm(group_size=32), {}),
        (norm(num_domains=3), {"domain": 2}),
        (norm(use_bias=False), {"bias": X[0]}),
        (norm(), {"mask": jnp.ones((4, 3), bool)}),
        (norm(), {"mask": jnp.ones((4, 1), bool)}),
    ],
)
def test_what_batch_norm_is_told_to_write_instead_works(layer, call):
    variables = layer.init(KEY, X, **call)
    y, _ = layer.apply(variables, X, mutable=MUTABLE, **call)
    assert y.shape == X.shape


@pytest.mark.parametrize(
    "groups", [{"num_groups": None, "group_size": 3}, {"num_groups": 3}]
)
def test_what_group_norm_is_told_to_write_instead_works(groups):
    nn.GroupNorm(**groups).init(KEY, X)
