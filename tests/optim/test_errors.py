"""Misuse of optimizers: the full text, what catches it, and that its advice works."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from linsey import errors, optim
from linsey.traverse_util import t_identity

PARAMS = {"encoder": {"w": jnp.ones(2)}, "head": jnp.ones(3)}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def everything(path: str, value: jax.Array) -> bool:
    return True


def twice() -> optim.MultiOptimizer:
    return optim.MultiOptimizer(
        (t_identity["encoder"]["w"], optim.Adam(0.1)),
        (optim.ModelParamTraversal(everything), optim.Momentum(0.1)),
    )


def only_encoder() -> optim.Optimizer:
    return optim.Adam(0.1).create(PARAMS, focus=t_identity["encoder"]["w"])


@pytest.mark.filterwarnings("ignore:compute_gradient is deprecated")
def loss_of_three() -> object:
    return optim.Adam(0.1).create(PARAMS).compute_gradient(lambda p: (1, 2, 3))


# What the user writes, the kind of error, and the builtin class that catches it.
PROGRAMS: dict[str, tuple[Callable[[], object], type[errors.LinseyError], type]] = {
    "no learning rate": (
        lambda: optim.Adam().create(PARAMS).apply_gradient(GRADS),
        errors.OptionError,
        AssertionError,
    ),
    "unknown hyper-parameter": (
        lambda: optim.Momentum(0.1).create(PARAMS).apply_gradient(GRADS, rho=0.5),
        errors.HyperParamUnknownError,
        TypeError,
    ),
    "no hyper-parameter in the transformation": (
        lambda: optim.from_optax(optax.sgd(0.1)).to_optax(learning_rate=1.0),
        errors.HyperParamUnknownError,
        TypeError,
    ),
    "gradients in other containers": (
        lambda: optim.Adam(0.1).create(PARAMS).apply_gradient([GRADS]),
        errors.GradientStructureError,
        ValueError,
    ),
    "no gradient of a selected leaf": (
        lambda: only_encoder().apply_gradient({"head": GRADS["head"]}),
        errors.GradientStructureError,
        ValueError,
    ),
    "a loss of three values": (loss_of_three, errors.ArgumentTypeError, TypeError),
    "a loss that is a number": (
        lambda: optim.Adam(0.1).create(PARAMS).optimize(lambda p: 1.0),
        errors.ArgumentTypeError,
        TypeError,
    ),
    "not replicated": (
        lambda: optim.Adam(0.1).create(PARAMS).unreplicate(),
        errors.OptionError,
        ValueError,
    ),
    "no optimizers": (optim.MultiOptimizer, errors.OptionError, ValueError),
    "a subtree selected": (
        lambda: optim.Adam(0.1).create(PARAMS, focus=t_identity["encoder"]),
        errors.OptionError,
        ValueError,
    ),
    "the whole target selected": (
        lambda: optim.Adam(0.1).create(PARAMS, focus=t_identity),
        errors.OptionError,
        ValueError,
    ),
    "a leaf selected twice": (
        lambda: twice().create(PARAMS),
        errors.OptionError,
        ValueError,
    ),
    "too few hyper-parameters": (
        lambda: only_encoder().apply_gradient(GRADS, hyper_params=[]),
        errors.MismatchError,
        ValueError,
    ),
    "a focus of WeightNorm": (
        lambda: optim.WeightNorm(optim.Adam(0.1)).create(
            PARAMS, focus=t_identity["head"]
        ),
        errors.UnsupportedError,
        NotImplementedError,
    ),
    "a state dict without a target": (
        lambda: optim.Adam(0.1).create(PARAMS).restore_state({"state": {}}),
        errors.OptimizerStateDictError,
        KeyError,
    ),
    "a state dict without a parameter": (
        lambda: (
            optim.Adam(0.1)
            .create(PARAMS)
            .restore_state({"target": {"head": 0}, "state": {}})
        ),
        errors.OptimizerStateDictError,
        KeyError,
    ),
}
TEXTS = dict(
    section.strip().split("\n", 1)
    for section in Path(__file__)
    .with_name("error_messages.txt")
    .read_text()
    .removeprefix("# ")
    .split("\n# ")
)


def provoke(name: str) -> errors.LinseyError:
    program, kind, builtin = PROGRAMS[name]
    with pytest.raises(builtin) as caught:
        program()
    assert type(caught.value) is kind
    return caught.value


def test_every_text_has_a_program():
    assert PROGRAMS.keys() == TEXTS.keys()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_full_text(name):
    error = provoke(name)
    assert str(error) == TEXTS[name]
    assert error.found and error.why and error.fix
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_the_messages_advise_works():
    optimizer = optim.Adam().create(PARAMS)
    assert optimizer.apply_gradient(GRADS, learning_rate=1e-3).state.step == 1
    grads = jax.grad(lambda p: p["head"].sum())(optimizer.target)
    assert optim.Adam(learning_rate=1e-3).create(PARAMS).apply_gradient(grads)
    focus = t_identity["encoder"].tree()
    optimizer = optim.Adam(1e-3).create(PARAMS, focus=focus)
    hyper_params = list(optimizer.optimizer_def.hyper_params)
    hyper_params[0] = hyper_params[0].replace(beta1=0.5)
    assert optimizer.apply_gradient(grads, hyper_params=hyper_params)
    selected = t_identity["direction"]["head"]
    multi = optim.MultiOptimizer((selected, optim.Adam(1e-3)))
    assert optim.WeightNorm(multi).create(PARAMS).apply_gradient(grads)
