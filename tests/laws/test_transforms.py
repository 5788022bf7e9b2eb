"""All modules under the transforms of JAX, and under `nn.remat`.

One compiled program for each module holds what all these laws compare with the plain
result, because compiling is what takes the time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from tests.laws.table import (
    CASES,
    assert_close,
    module_names,
    normal,
    outcome,
    tolerance,
)

ATOL = tolerance(jnp.float32)
pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
every_module = pytest.mark.parametrize("name", CASES)


def test_the_table_holds_every_module():
    assert set(CASES) == module_names()


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.stack([x, x]), tree)


def scalar(outputs: Any) -> jax.Array:
    """A smooth number that depends on every entry of the results."""
    leaves = [
        x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return sum((jnp.sum(jnp.sin(x) * (1 + i)) for i, x in enumerate(leaves)), 0.0)


@functools.cache
def transformed(name: str) -> dict[str, Any]:
    """What a module gives under each transform."""
    case = CASES[name]
    variables = outcome(name)[0]
    params = variables.get("params", {})
    directions = jax.tree.map(lambda p: normal(*p.shape), params)

    def loss(params: Any, **options: Any) -> Any:
        given = {**variables, "params": params} if params else variables
        y, changed = case.apply(given, *case.args, **options)
        return scalar(y), (y, changed)

    def again(module: Any, *args: Any) -> Any:
        run = lambda module, *args: module(*args, **case.kwargs)  # noqa: E731
        return nn.remat(run)(module, *args)

    # Little is computed here: fast compilation matters more than fast code.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def program(variables: Any, args: Any, params: Any) -> dict[str, Any]:
        def step(variables: Any, args: Any) -> Any:
            y, changed = case.apply(variables, *args)
            return {**variables, **changed}, (y, changed)

        by_remat = functools.partial(loss, method=again)
        return {
            "jit": case.apply(variables, *args),
            "vmap": jax.vmap(case.apply)(double(variables), *double(args)),
            "scan": jax.lax.scan(step, variables, double(args))[1],
            "grad": jax.value_and_grad(loss, has_aux=True)(params),
            "remat": jax.value_and_grad(by_remat, has_aux=True)(params),
            "jvp": jax.jvp(lambda p: loss(p)[0], (params,), (directions,)),
        }

    return {**program(variables, case.args, params), "directions": directions}


@pytest.mark.thinned(9)
@every_module
def test_jit_computes_what_is_computed_without(name):
    assert_close(transformed(name)["jit"], outcome(name)[1:], ATOL)


@pytest.mark.thinned(3)
@every_module
def test_vmap_computes_each_instance(name):
    expected = outcome(name)[1:]
    for i in range(2):
        found = jax.tree.map(lambda x, i=i: x[i], transformed(name)["vmap"])
        assert_close(found, expected, ATOL)


@pytest.mark.thinned(3)
@every_module
def test_scan_hands_the_state_on(name):
    case = CASES[name]
    variables, *once = outcome(name)
    first, second = (
        jax.tree.map(lambda x, i=i: x[i], transformed(name)["scan"]) for i in range(2)
    )
    assert_close(first, tuple(once), ATOL)
    twice = case.apply({**variables, **once[1]}, *case.args)
    assert_close(second, twice, ATOL)


@pytest.mark.thinned(3)
@every_module
def test_the_gradient_is_that_of_the_result(name):
    (_, aux), gradient = transformed(name)["grad"]
    assert_close(aux, outcome(name)[1:], ATOL)
    params = outcome(name)[0].get("params", {})
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient))
    if params:
        assert any(jnp.any(g != 0) for g in jax.tree.leaves(gradient))


@pytest.mark.thinned(3)
@every_module
def test_remat_gives_the_same_values_gradients_and_state(name):
    found = transformed(name)
    assert_close(found["remat"], found["grad"], 8 * ATOL)


@pytest.mark.thinned(3)
@every_module
def test_forward_and_reverse_mode_agree(name):
    found = transformed(name)
    _, gradient = found["grad"]
    products = jax.tree.map(jnp.vdot, gradient, found["directions"])
    expected = sum(jax.tree.leaves(products), 0.0)
    scale = 1 + sum(float(jnp.abs(p)) for p in jax.tree.leaves(products))
    np.testing.assert_allclose(found["jvp"][1], expected, rtol=0, atol=8 * ATOL * scale)
