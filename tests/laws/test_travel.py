"""All modules across pickles, bytes, threads and abstract evaluation."""

from __future__ import annotations

import threading

import cloudpickle
import jax
import jax.numpy as jnp
import pytest

from linsey import serialization
from tests.laws.table import CASES, assert_close, outcome

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
every_module = pytest.mark.parametrize("name", CASES)


@pytest.mark.thinned(3)
@every_module
def test_a_pickled_module_gives_the_same_bits(name):
    case = CASES[name]
    again = cloudpickle.loads(cloudpickle.dumps(case.make()))
    variables, *expected = outcome(name)
    found = case.apply(variables, *case.args, module=again)
    assert_close(found, tuple(expected), 0.0)


@pytest.mark.thinned(3)
@every_module
def test_variables_pass_through_msgpack(name):
    variables = outcome(name)[0]
    empty = jax.tree.map(jnp.zeros_like, variables)
    found = serialization.from_bytes(empty, serialization.to_bytes(variables))
    assert_close(found, variables, 0.0)


@every_module
def test_eval_shape_tells_what_init_and_apply_give(name):
    case = CASES[name]
    variables, *expected = outcome(name)
    shapes = jax.eval_shape(case.init)
    results = jax.eval_shape(case.apply, shapes, *case.args)
    for abstract, real in ((shapes, variables), (results, tuple(expected))):
        assert jax.tree.structure(abstract) == jax.tree.structure(real)
        for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.thinned(2)
@every_module
def test_lazy_init_needs_only_shapes(name):
    case = CASES[name]
    abstract = jax.eval_shape(lambda *args: args, *case.args)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    found = case.make().lazy_init(keys, *abstract, **case.kwargs)
    assert_close(found, outcome(name)[0], 0.0)


@pytest.mark.thinned(2)
@every_module
def test_no_tracer_outlives_a_trace(name):
    case = CASES[name]
    variables = outcome(name)[0]

    def both(variables, *args):
        return case.init(), case.apply(variables, *args)

    with jax.checking_leaks():
        jax.make_jaxpr(both)(variables, *case.args)


def test_modules_run_in_threads_at_the_same_time():
    """Every thread runs all modules, each beginning with another one."""
    names, errors = list(CASES), []
    start = threading.Barrier(4)
    expected = {name: outcome(name) for name in names}

    def work(first: int) -> None:
        start.wait()
        try:
            for name in names[first:] + names[:first]:
                case = CASES[name]
                found = case.apply(expected[name][0], *case.args)
                assert_close(found, expected[name][1:], 0.0)
        except BaseException as error:  # noqa: BLE001
            errors.append((name, error))

    threads = [threading.Thread(target=work, args=(7 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
