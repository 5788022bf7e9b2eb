"""Arrays of zeros and ones that no program is compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey._drawing import filled

DTYPES = "float32 float16 bfloat16 int32 uint8 bool complex64 float64 int64".split()
PAIRS = {filled.zeros: jnp.zeros, filled.ones: jnp.ones}


@pytest.mark.parametrize("fill", PAIRS)
@pytest.mark.parametrize("dtype", [*DTYPES, None])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3), 4, (filled.LARGEST, 2)])
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_they_are_what_jax_makes(fill, dtype, shape, x64):
    with jax.enable_x64(x64):
        found, expected = fill(shape, dtype), PAIRS[fill](shape, dtype)
    assert found.aval == expected.aval
    assert found.sharding == expected.sharding
    assert found.committed == expected.committed
    np.testing.assert_array_equal(found, expected)


def test_in_a_trace_they_are_no_constants():
    filled._no_trace.cache_clear()  # as where nothing was filled before
    program = jax.make_jaxpr(lambda: filled.ones((3,), jnp.float32))()
    assert not program.consts
    assert [eqn.primitive.name for eqn in program.eqns] == ["broadcast_in_dim"]


def test_they_lie_where_they_are_wanted():
    device = jax.devices()[-1]
    with jax.default_device(device):
        assert filled.zeros((3,), jnp.float32).devices() == {device}


def test_they_can_be_given_away():
    given = filled.zeros((64,), jnp.float32)
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(given))
    assert given.is_deleted()


def test_outside_of_a_trace_they_are_no_program(monkeypatch):
    filled._no_trace.cache_clear()
    jax.jit(lambda: filled.ones((3,), jnp.float32))()
    monkeypatch.setattr(filled.jnp, "ones", None)
    assert filled.ones((3,), jnp.float32).tolist() == [1, 1, 1]
