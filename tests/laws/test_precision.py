"""All modules in half, single and double precision."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.table import CASES, assert_close, outcome, tolerance, with_floats

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
every_module = pytest.mark.parametrize("name", CASES)

# Their carry begins in `param_dtype`, as in Flax: `dtype` has to be the same.
ONE_DTYPE = {"RNN", "Bidirectional"}
# They begin with orthogonal matrices, which newer JAX refuses in half precision.
ORTHOGONAL = {"RNN", "Bidirectional", *(n for n in CASES if n.endswith("Cell"))}
REFUSES_HALF = jax.__version_info__ >= (0, 11)
# They draw other numbers in another dtype.
RANDOM = {"Dropout", "MultiHeadDotProductAttention"}
# They make parameters of their own beside those of the layer, in single precision.
WRAPPERS = {"SpectralNorm", "WeightNorm"}


def in_dtype(name, dtype):
    """The module with `dtype`, and its arguments in it."""
    case = CASES[name]
    args = with_floats(case.args, dtype)
    return dataclasses.replace(case, args=args, make=lambda: case.make(dtype=dtype))


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", sorted(set(CASES) - ONE_DTYPE))
def test_half_precision_is_single_precision_with_larger_roundings(name):
    case = in_dtype(name, jnp.bfloat16)
    variables, *expected = outcome(name)
    y, changed = case.apply(variables, *case.args)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in floats(y))
    assert all(leaf.dtype == jnp.float32 for leaf in floats(changed))
    assert_close(
        with_floats((y, changed), jnp.float32),
        tuple(expected),
        8 * float(jnp.finfo(jnp.bfloat16).eps),
    )


@pytest.mark.parametrize("name", sorted(set(CASES) - ONE_DTYPE))
def test_half_precision_keeps_parameters_and_statistics_in_single(name):
    found = jax.eval_shape(in_dtype(name, jnp.bfloat16).init)
    expected = outcome(name)[0]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("name", sorted(set(CASES) - WRAPPERS))
def test_parameters_can_be_stored_in_half_precision(name):
    if REFUSES_HALF and name in ORTHOGONAL:
        pytest.skip("this version of JAX has no orthogonal matrices of half precision")
    case = CASES[name]
    types = {"param_dtype": jnp.bfloat16}
    if name in ONE_DTYPE:
        types["dtype"] = jnp.bfloat16
    half = dataclasses.replace(case, make=lambda: case.make(**types))
    found = jax.eval_shape(half.init).get("params", {})
    assert all(leaf.dtype == jnp.bfloat16 for leaf in floats(found))
    expected = outcome(name)[0].get("params", {})
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)


@pytest.mark.thinned(6)
@every_module
def test_double_precision_agrees_with_single(name):
    variables, *expected = outcome(name)
    with jax.enable_x64(True):
        case = CASES[name]
        wide, args = with_floats((variables, case.args), jnp.float64)
        types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        case = dataclasses.replace(
            case, args=args, make=lambda: CASES[name].make(**types)
        )
        y, changed = case.apply(wide, *args)
        assert all(leaf.dtype == jnp.float64 for leaf in floats(y))
        created = jax.eval_shape(case.init).get("params", {})
        if name not in WRAPPERS:
            assert all(leaf.dtype == jnp.float64 for leaf in floats(created))
        narrow = with_floats((y, changed), jnp.float32)
    if name not in RANDOM:
        assert_close(narrow, tuple(expected), tolerance(jnp.float32))


@every_module
def test_the_result_is_finite(name):
    assert all(np.all(np.isfinite(leaf)) for leaf in floats(outcome(name)[1:]))
