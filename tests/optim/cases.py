"""Optimizers under test, and numbers that the original package produced.

`reference.json` was made with Flax 0.5.3, the last release that had the package, in
float32 on a CPU; it names its own tolerance.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linsey import optim, serialization, struct

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())
ATOL, RTOL = 5e-6, 1e-5


def arrays(tree: Any) -> Any:
    """Nested dictionaries of lists as such of float32 arrays; None stays."""
    if isinstance(tree, dict):
        return {key: arrays(value) for key, value in tree.items()}
    return None if tree is None else jnp.asarray(np.array(tree, np.float32))


PARAMS = arrays(REFERENCE["problem"]["params"])
GRADS = [arrays(grads) for grads in REFERENCE["problem"]["grads"]]


def at(path: str) -> optim.ModelParamTraversal:
    """Selects the leaf at a path."""
    return optim.ModelParamTraversal(functools.partial(_is_at, path))


def _is_at(path: str, found: str, _: Any) -> bool:
    return found == path


@struct.dataclass
class SignHyperParams:
    learning_rate: Any
    keep: Any


@struct.dataclass
class SignState:
    total: Any


class SignDescent(optim.OptimizerDef):
    """An optimizer as users write their own: two rules for one leaf."""

    def __init__(self, learning_rate: Any = None, keep: Any = 0.5) -> None:
        super().__init__(SignHyperParams(learning_rate, keep))

    def init_param_state(self, param: Any) -> SignState:
        return SignState(jnp.zeros_like(param))

    def apply_param_gradient(self, step, hyper_params, param, state, grad):
        total = hyper_params.keep * state.total + grad.astype(param.dtype)
        rate = jnp.asarray(hyper_params.learning_rate, param.dtype)
        return param - rate * jnp.sign(total), SignState(total.astype(param.dtype))


def multi() -> optim.MultiOptimizer:
    return optim.MultiOptimizer(
        (at("/w"), optim.Momentum(0.1)), (at("/b"), optim.Adam(0.05))
    )


DEFINITIONS: dict[str, Callable[[], optim.OptimizerDef]] = {
    "GradientDescent": lambda: optim.GradientDescent(0.1),
    "Momentum": lambda: optim.Momentum(0.1, weight_decay=0.01),
    "Momentum nesterov": lambda: optim.Momentum(0.1, nesterov=True),
    "Adam": lambda: optim.Adam(0.1, weight_decay=0.01),
    "AdaBelief": lambda: optim.AdaBelief(0.1),
    "Adagrad": lambda: optim.Adagrad(0.1),
    "Adadelta": lambda: optim.Adadelta(0.5, eps=1e-3, weight_decay=0.01),
    "RMSProp": lambda: optim.RMSProp(0.01),
    "RMSProp centered": lambda: optim.RMSProp(0.01, eps=0.1, centered=True),
    "LAMB": lambda: optim.LAMB(0.01, weight_decay=0.1),
    "LARS": lambda: optim.LARS(1.0, weight_decay=0.1, trust_coefficient=0.02),
    "Adafactor": lambda: optim.Adafactor(0.1),
    "Adafactor factored": lambda: optim.Adafactor(
        0.1, min_dim_size_to_factor=2, beta1=0.9, weight_decay_rate=0.01
    ),
    "WeightNorm": lambda: optim.WeightNorm(optim.Momentum(0.1)),
    "MultiOptimizer": multi,
    "WeightNorm of MultiOptimizer": lambda: optim.WeightNorm(
        optim.MultiOptimizer((at("/direction/w"), optim.Adam(0.1)))
    ),
    "SignDescent": lambda: SignDescent(0.1),
    "from_optax": lambda: optim.from_optax(
        optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(
            learning_rate=0.1
        )
    ),
}


def after(optimizer: optim.Optimizer, *grads: Any, **overrides: Any) -> optim.Optimizer:
    """The optimizer after an update with each of the gradients."""
    for each in grads:
        optimizer = optimizer.apply_gradient(each, **overrides)
    return optimizer


def contents(optimizer: optim.Optimizer) -> Any:
    """Everything an optimizer holds, as nested dictionaries."""
    return serialization.to_state_dict(optimizer)


def assert_close(found: Any, expected: Any, atol: float = ATOL, rtol: float = RTOL):
    """Asserts the same structure, shapes and, nearly, the same values."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, x), y in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert np.shape(x) == np.shape(y), jax.tree_util.keystr(path)
        np.testing.assert_allclose(
            np.asarray(x, np.float32),
            np.asarray(y, np.float32),
            atol=atol,
            rtol=rtol,
            err_msg=jax.tree_util.keystr(path),
        )
