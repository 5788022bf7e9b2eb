"""The page of `treex.BatchNorm`: its source, run beside the layer, and what it says."""

from __future__ import annotations

import inspect
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as flax_module
import linsey.treex as tx
from linsey.core import unfreeze
from linsey.treex import BatchStat, Parameter, next_key

X = jax.random.normal(jax.random.key(0), (6, 3)) * 2 + 1


class PageBatchNorm(tx.Module):
    """The source on the page; `unfreeze` is a function since variables are dicts."""

    mean: tp.Any = BatchStat.node()
    var: tp.Any = BatchStat.node()
    scale: tp.Any = Parameter.node()
    bias: tp.Any = Parameter.node()
    momentum: tp.Any = tx.node()

    def __init__(
        self,
        *,
        axis: int = -1,
        momentum: float | jnp.ndarray = 0.99,
        epsilon: float = 1e-5,
        dtype: tp.Any = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: tp.Callable = flax_module.initializers.zeros,
        scale_init: tp.Callable = flax_module.initializers.ones,
        axis_name: str | None = None,
        axis_index_groups: tp.Any = None,
    ):
        self.axis = axis
        self.momentum = jnp.asarray(momentum)
        self.epsilon = epsilon
        self.dtype = dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.bias_init = bias_init
        self.scale_init = scale_init
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups

        self.mean = None
        self.var = None
        self.scale = None
        self.bias = None

    @property
    def module(self):
        names = list(inspect.signature(type(self)).parameters)
        return flax_module.BatchNorm(**{name: getattr(self, name) for name in names})

    def __call__(
        self, x: jnp.ndarray, use_running_average: bool | None = None
    ) -> jnp.ndarray:
        if self.initializing():
            variables = unfreeze(
                self.module.init(
                    next_key(),
                    x,
                    use_running_average=True,
                )
            )

            # Extract collections
            if "params" in variables:
                params = variables["params"]

                if self.use_bias:
                    self.bias = params["bias"]

                if self.use_scale:
                    self.scale = params["scale"]

            self.mean = variables["batch_stats"]["mean"]
            self.var = variables["batch_stats"]["var"]

        params = {}

        if self.use_bias:
            params["bias"] = self.bias

        if self.use_scale:
            params["scale"] = self.scale

        variables = dict(
            batch_stats=dict(
                mean=self.mean,
                var=self.var,
            ),
            params=params,
        )
        # use_running_average = True means batch_stats will not be mutated
        # self.training = True means batch_stats will be mutated
        training = (
            not use_running_average
            if use_running_average is not None
            else self.training and not self.frozen and self.initialized
        )

        # call apply
        output, variables = self.module.apply(
            variables,
            x,
            mutable=["batch_stats"] if training else [],
            use_running_average=not training,
        )
        variables = unfreeze(variables)

        # update batch_stats
        if "batch_stats" in variables:
            self.mean = variables["batch_stats"]["mean"]
            self.var = variables["batch_stats"]["var"]

        return tp.cast(jnp.ndarray, output)


OPTIONS = [
    {},
    {"momentum": 0.5, "epsilon": 1e-3},
    {"use_bias": False},
    {"use_scale": False},
    {"axis": 0},
    {"dtype": jnp.bfloat16},
    {"bias_init": flax_module.initializers.ones},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_source_on_the_page_and_the_layer_agree(options, training, frozen):
    page, layer = (
        cls(**options).train(training).freeze(frozen).init(42, X)
        for cls in (PageBatchNorm, tx.BatchNorm)
    )
    for use_running_average in (None, True, False):
        expected = page(X, use_running_average)
        np.testing.assert_array_equal(layer(X, use_running_average), expected)
        for a, b in zip(jax.tree.leaves(layer), jax.tree.leaves(page), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_layer_has_the_arguments_on_the_page():
    page, layer = (
        inspect.signature(cls).parameters for cls in (PageBatchNorm, tx.BatchNorm)
    )
    assert list(page) == list(layer)
    for name in page:
        assert page[name].kind is layer[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert page[name].default == layer[name].default
    call = inspect.signature(tx.BatchNorm.__call__).parameters
    assert list(call) == ["self", "x", "use_running_average"]
    assert call["use_running_average"].default is None


def test_use_running_average_is_no_argument_of_the_constructor():
    with pytest.raises(TypeError):
        tx.BatchNorm(use_running_average=True)


def test_the_mode_decides_unless_the_call_does():
    layer = tx.BatchNorm().init(42, X)
    frozen = layer.freeze()
    np.testing.assert_array_equal(frozen(X), layer.eval()(X))
    np.testing.assert_array_equal(frozen.mean, 0.0)
    np.testing.assert_array_equal(layer.copy()(X), frozen(X, False))
    assert jnp.any(frozen.mean != 0.0)
