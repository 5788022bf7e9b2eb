"""Promotion of arrays to one dtype, against Flax."""

from __future__ import annotations

import flax.linen.dtypes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.linen.dtypes import canonicalize_dtype, promote_dtype
from linsey.linen.linear import Dense

ARGUMENTS = [
    (jnp.ones(2, jnp.int32),),
    (1, 2.0),
    (jnp.ones(2, jnp.bfloat16), None, 1.0),
    (jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.float16)),
    (jnp.ones(2, jnp.complex64), jnp.ones(2)),
    (jnp.ones(2, bool), np.ones(2, np.float64)),
    (np.ones(2, np.float64), np.ones(2, np.float64)),
    (jnp.ones(2), None, jnp.ones(3)),
    (jnp.ones(2, jnp.float8_e4m3fn),),
]
OPTIONS = [
    {},
    {"inexact": False},
    {"dtype": jnp.float32},
    {"dtype": "bfloat16"},
    {"dtype": np.dtype("float16")},
    {"dtype": jnp.int32, "inexact": False},
]


def described(arrays):
    return [None if x is None else (x.dtype, x.weak_type, x.shape) for x in arrays]


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(len(ARGUMENTS)))
@pytest.mark.parametrize("options", OPTIONS)
def test_promotion_equals_flax(arguments, options):
    expected = flax.linen.dtypes.promote_dtype(*arguments, **options)
    assert described(promote_dtype(*arguments, **options)) == described(expected)
    expected = flax.linen.dtypes.canonicalize_dtype(*arguments, **options)
    assert canonicalize_dtype(*arguments, **options) == expected


@pytest.mark.parametrize("function", [promote_dtype, canonicalize_dtype])
def test_integers_are_no_dtype_to_compute_in(function):
    with pytest.raises(ValueError, match="Dtype must be inexact"):
        function(jnp.ones(2), dtype=jnp.int32)


@pytest.mark.parametrize("arguments", [(), (None,)])
def test_nothing_has_no_dtype(arguments):
    with pytest.raises(ValueError, match="at least one"):
        promote_dtype(*arguments)


def test_lists_are_arrays_as_in_flax():
    for promote in (flax.linen.dtypes.promote_dtype, promote_dtype):
        x, y = promote([1, 2], (jnp.float16(3),))
        assert x.dtype == y.dtype == jnp.promote_types(jnp.int32, jnp.float16)
    variables = Dense(2).init(jax.random.key(0), [[1.0, 2.0, 3.0]])
    assert variables["params"]["kernel"].shape == (3, 2)


def test_arrays_that_agree_are_handed_back():
    x, y = jnp.ones(2), jnp.ones(3)
    for options in ({}, {"dtype": jnp.float32}, {"inexact": False}):
        a, none, b = promote_dtype(x, None, y, **options)
        assert (a is x, none, b is y) == (True, None, True)


def test_weak_numbers_take_the_dtype_of_the_arrays():
    jaxpr = jax.make_jaxpr(lambda x: promote_dtype(x, jnp.ones(2, jnp.bfloat16)))(1.0)
    assert [aval.dtype for aval in jaxpr.out_avals] == [jnp.bfloat16, jnp.bfloat16]
    assert not any(aval.weak_type for aval in jaxpr.out_avals)
    (alone,) = jax.make_jaxpr(lambda x: promote_dtype(x))(1.0).out_avals
    assert (alone.dtype, alone.weak_type) == (jnp.float32, False)
