"""Every number that the original package produced, eagerly and compiled."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import optim
from tests.optim.cases import (
    GRADS,
    PARAMS,
    REFERENCE,
    after,
    arrays,
    assert_close,
    at,
    contents,
    multi,
)


def single(case: dict[str, Any]) -> optim.OptimizerDef:
    return getattr(optim, case["optimizer"])(**case["kwargs"])


def weight_norm(case: dict[str, Any]) -> optim.OptimizerDef:
    inner = getattr(optim, case["inner"])(**case["inner_kwargs"])
    return optim.WeightNorm(inner, **case["kwargs"])


def focus(case: dict[str, Any]) -> optim.OptimizerDef:
    definition = optim.GradientDescent(0.1)
    return definition.create(PARAMS, focus=at("/b")).optimizer_def


MAKERS = {
    **{name: single for name in REFERENCE["cases"]},
    **{name: weight_norm for name in REFERENCE["weight_norm"]},
    **{name: lambda case: multi() for name in REFERENCE["multi"]},
    "focus": focus,
    "adafactor_rank3": single,
}
CASES = {
    **REFERENCE["cases"],
    **REFERENCE["weight_norm"],
    **REFERENCE["multi"],
    "adafactor_rank3": REFERENCE["adafactor_rank3"],
}
# A leaf that is 0 never moved under LAMB; here it does, as in optax.
REPAIRED = {"lamb": ["z"], "lamb_wd": ["z"]}


def overrides_of(name: str, definition: optim.OptimizerDef) -> list[dict[str, Any]]:
    if name == "multi_lr_override":
        return [{"learning_rate": 0.2}] * 3
    if name == "multi_hyper_params":
        first, second = definition.hyper_params
        hyper_params = [first.replace(learning_rate=0.2), second.replace(beta1=0.5)]
        return [{"hyper_params": hyper_params}] * 3
    return CASES[name].get("overrides", [{}] * 3)


def problem(name: str) -> tuple[Any, list[Any]]:
    case = CASES[name]
    if name == "adafactor_rank3":
        return arrays(case["params"]), [arrays(grads) for grads in case["grads"]]
    return PARAMS, GRADS


def steps(optimizer: optim.Optimizer, grads: list[Any], overrides: Any) -> list[Any]:
    """The contents of the optimizer after each update."""
    found = []
    for each, values in zip(grads, overrides, strict=True):
        optimizer = optimizer.apply_gradient(each, **values)
        found.append(contents(optimizer))
    return found


@pytest.mark.thinned(6)
@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("name", CASES)
def test_three_updates_equal_the_original(name, mode):
    definition = MAKERS[name](CASES[name])
    params, grads = problem(name)
    run = steps
    overrides = overrides_of(name, definition)
    if mode == "jit":
        # Hyper-parameters are traced where the original could trace them.
        run = jax.jit(steps)
    found = run(definition.create(params), grads, overrides)
    for state, expected in zip(found, CASES[name]["steps"], strict=True):
        assert state["state"]["step"] == expected["step"]
        assert state["state"]["step"].dtype == jnp.int32
        target, reference = dict(state["target"]), arrays(expected["params"])
        for leaf in REPAIRED.get(name, []):
            assert np.any(target.pop(leaf)) and not np.any(reference.pop(leaf))
        assert_close(target, reference)
        states = state["state"]["param_states"]
        assert_close(states, arrays(expected["param_states"]))


def edge_definition(name: str) -> optim.OptimizerDef:
    options: dict[str, Any] = {
        "RMSProp_centered": {"centered": True},
        "LAMB_wd": {"weight_decay": 0.1},
        "LARS_wd": {"weight_decay": 0.1},
    }.get(name, {})
    return getattr(optim, name.partition("_")[0])(0.1, **options)


@pytest.mark.parametrize("name", REFERENCE["edge"]["runs"])
def test_zeros_and_scalars_equal_the_original(name):
    expected = dict(REFERENCE["edge"]["runs"][name])
    if name == "LAMB":
        # The original was NaN where no gradient was; as in optax, nothing moves.
        assert expected["zero_grad"] == ["nan", "nan"]
        expected["zero_grad"] = [1.0, -2.0]
    if name.startswith("LAMB"):
        # And a leaf that is 0 moves, by the learning rate times its direction.
        assert expected["zero_param"] == [0.0, 0.0]
        expected["zero_param"] = [-0.1, 0.1]
    problems = {
        "zero_grad": ([1.0, -2.0], [0.0, 0.0]),
        "zero_param": ([0.0, 0.0], [1.0, -2.0]),
        "scalar": (1.0, 1.0),
    }
    for kind, (param, grad) in problems.items():
        optimizer = edge_definition(name).create(jnp.asarray(param))
        found = optimizer.apply_gradient(jnp.asarray(grad)).target
        assert_close(found, arrays(expected[kind]))


@pytest.mark.thinned(2)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFERENCE["training"]["runs"])
def test_training_equals_the_original(name):
    training = REFERENCE["training"]
    case, x, y = training["runs"][name], arrays(training["x"]), arrays(training["y"])

    def loss(params):
        return jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2)

    definition = getattr(optim, case["optimizer"])(case["learning_rate"])
    optimizer = definition.create(arrays(training["params"]))
    losses = []
    for _ in range(3):
        optimizer, value = optimizer.optimize(loss)
        losses.append(value)
    losses.append(loss(optimizer.target))
    if name == "lamb":  # whose bias starts at 0, and moves here
        assert optimizer.target["bias"] != 0
        assert losses == sorted(losses, reverse=True)
        losses, case = losses[:1], {"losses": case["losses"][:1]}
    assert_close(jnp.array(losses), arrays(case["losses"]))


@pytest.mark.parametrize("name", REFERENCE["defaults"])
def test_constructor_arguments_and_defaults_are_those_of_the_original(name):
    parameters = inspect.signature(getattr(optim, name)).parameters
    defaults = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    expected = dict(REFERENCE["defaults"][name])
    if "dtype_momentum" in expected:
        assert defaults.pop("dtype_momentum") is jnp.float32
        assert expected.pop("dtype_momentum") == "float32"
    assert defaults == expected and list(defaults) == list(expected)


@pytest.mark.parametrize("name", sorted(set(REFERENCE["defaults"]) - {"WeightNorm"}))
def test_hyper_params_hold_the_arguments_in_their_order(name):
    module = {"GradientDescent": "sgd"}.get(name, name.lower())
    hyper_params = getattr(getattr(optim, module), f"_{name}HyperParams")
    values = [
        v for k, v in REFERENCE["defaults"][name].items() if k != "dtype_momentum"
    ]
    assert getattr(optim, name)().hyper_params == hyper_params(*values)


def one(value: float) -> np.ndarray:
    return np.array([value])


# One update of one element from a given state: (definition, state, step, parameter,
# gradient, new parameter, new state).
ADAM = optim.adam._AdamParamState
BELIEF = optim.adabelief._AdaBeliefParamState
ROOT = optim.rmsprop._RMSPropParamState
UPDATES = {
    "Momentum": (optim.Momentum(0.1, 0.2), optim.momentum._MomentumParamState(one(1)), 0, 1, 3, 0.68, [3.2]),  # noqa: E501
    "Adam": (optim.Adam(0.1, 0.2, 0.9, 0.01), ADAM(one(0.1), one(0.9)), 1, 1, 4, 0.906085, [3.22, 2.41]),  # noqa: E501
    "AdaBelief": (optim.AdaBelief(0.1, 0.2, 0.9, 0.01), BELIEF(one(0.1), one(0.9)), 1, 1, 4, 0.8449397, [3.22, 0.88084]),  # noqa: E501
    "Adadelta": (optim.Adadelta(0.1, 0.9, 1e-6, 0.1), optim.adadelta._AdadeltaParamState(one(0), one(0)), 1, 1, 1, 0.9896838, [0.1, 9.999902e-7]),  # noqa: E501
    "Adagrad": (optim.Adagrad(0.1, 0.01), optim.adagrad._AdagradParamState(one(0.1)), 1, 1, 4, 0.9005588, [16.1]),  # noqa: E501
    "RMSProp": (optim.RMSProp(0.1, 0.9, 0.01), ROOT(one(0.1), None), 1, 1, 4, 0.6946565, [1.69]),  # noqa: E501
    "RMSProp centered": (optim.RMSProp(0.1, 0.9, 0.01, True), ROOT(one(0.1), one(0.1)), 1, 1, 4, 0.670543, [1.69, 0.49]),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_from_a_state_made_by_hand(name):
    definition, state, step, param, grad, new_param, new_state = UPDATES[name]
    target, state = definition.apply_gradient(
        definition.hyper_params,
        one(param),
        optim.OptimizerState(step, state),
        one(grad),
    )
    assert state.step == step + 1
    assert_close(target, np.array([new_param], np.float32))
    leaves = [np.array([x], np.float32) for x in new_state]
    assert_close(jax.tree.leaves(state.param_states), leaves)


def test_adafactor_keeps_means_of_rows_and_columns_of_large_leaves_only():
    definition = optim.Adafactor(min_dim_size_to_factor=32)
    params = {"large": jnp.ones((64, 64)), "small": jnp.ones((31, 64))}
    state = definition.init_state(params).param_states
    shapes = {
        name: [np.shape(x) for x in jax.tree.leaves(s)] for name, s in state.items()
    }
    assert shapes["large"] == [(64,), (64,), (1,), (1,)]
    assert shapes["small"] == [(1,), (1,), (31, 64), (1,)]
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32"}


def test_adafactor_from_a_state_made_by_hand():
    state = optim.adafactor._AdafactorParamState
    ones, unused = np.ones((3, 2), np.float32), np.zeros(1, np.float32)
    factored = optim.Adafactor(0.1, decay_rate=0.8, min_dim_size_to_factor=0)
    before = state(np.full(2, 0.9), np.full(3, 0.1), unused, unused)
    target, after_ = factored.apply_gradient(
        factored.hyper_params, ones, optim.OptimizerState(1, before), ones
    )
    expected = state(np.full(2, 0.9574349), np.full(3, 0.6169143), unused, unused)
    assert_close(target, 0.9 * ones)
    assert_close(after_.param_states, expected)

    whole = optim.Adafactor(0.1, factored=False, beta1=0.0)
    before = state(unused, unused, np.full((3, 2), 0.5), np.zeros((3, 2)))
    target, after_ = whole.apply_gradient(
        whole.hyper_params, ones, optim.OptimizerState(1, before), ones
    )
    assert_close(target, 0.9 * ones)
    assert_close(
        after_.param_states, state(unused, unused, 0.787174 * ones, 0.1 * ones)
    )


def test_what_adafactor_reads_from_the_definition_cannot_be_overridden():
    optimizer = optim.Adafactor(0.1, min_dim_size_to_factor=2).create(PARAMS)
    plain = after(optimizer, GRADS[0])
    overridden = after(
        optimizer, GRADS[0], factored=False, multiply_by_parameter_scale=False
    )
    assert_close(contents(overridden), contents(plain), atol=0, rtol=0)
