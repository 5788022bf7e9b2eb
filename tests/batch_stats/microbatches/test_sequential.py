"""A function mapped sequentially equals the function mapped at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linsey.batch_stats.microbatches.sequential import map_sequentially


def several_levels(w, x):
    y = jnp.sin(x @ w)
    y = y - lax.pmean(y.mean(0), "i")
    z = y * lax.pmax(jnp.abs(y).max(0), "i")
    rows = lax.all_gather(z.sum(0), "i")
    return [z + rows.std(0), rows, lax.psum(z.sum(), "i")]


def other_collectives(w, x):
    y = x @ w
    around = lax.ppermute(y, "i", [(0, 1), (1, 2), (2, 3), (3, 0)])
    part = lax.psum_scatter(jnp.broadcast_to(y.sum(), (4,)), "i")
    return [around * lax.axis_index("i"), part, lax.pmin(y.min(), "i")]


def of_shared_values(w, x):
    big = jnp.broadcast_to(w.sum(), (200, 200))  # made where it is used
    return [lax.psum(w, "i"), (x.sum() * big).sum(), w * 2, x, lax.psum(big[0], "i")]


def with_loops_and_calls(w, x):
    def step(carry, _):
        carry = jax.nn.relu(carry - lax.pmean(carry, "i"))
        return carry, carry.sum()

    inner = jax.jit(lambda y: jax.checkpoint(lambda z: lax.psum(z * y, "i"))(y))
    last, sums = lax.scan(step, x @ w, None, length=3, reverse=True)
    return [last, sums, inner(x)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [several_levels, other_collectives, of_shared_values, with_loops_and_calls],
)
def test_map_equals_vmap(function):
    w = jax.random.normal(jax.random.key(0), (3, 2))
    x = jax.random.normal(jax.random.key(1), (4, 5, 3))
    expected = jax.vmap(function, (None, 0), axis_name="i")(w, x)
    found, is_stacked = map_sequentially(
        function, [w], [x], axis="i", derivatives=0, window=2
    )
    for a, b, stacked in zip(found, expected, is_stacked, strict=True):
        # What is the same for all has one row only.
        np.testing.assert_allclose(a, b if stacked else b[0], rtol=2e-5, atol=1e-6)


def test_what_is_printed_is_printed_once_for_each(capsys):
    def function(x):
        mean = lax.pmean(x, "i")
        jax.debug.print("entry {} mean {}", x, mean)
        return [x - mean]

    x = jnp.array([1.0, 3.0])
    map_sequentially(function, [], [x], axis="i", derivatives=0, window=1)
    jax.effects_barrier()
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == ["entry 1.0 mean 2.0", "entry 3.0 mean 2.0"]


def test_half_precision_is_added_in_float32():
    x = jnp.full((512,), 1.0, jnp.bfloat16)
    (total,), _ = map_sequentially(
        lambda x: [lax.psum(x, "i")], [], [x], axis="i", derivatives=0, window=1
    )
    assert total.dtype == jnp.bfloat16 and float(total) == 512.0
