"""Where kernels run, and where the definition does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import cache

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import linen as nn
from linsey.ops.batch_norm import UpdateRule, train_batch_norm
from linsey.ops.conv import conv
from linsey.ops.cpu import channel_kernels, dispatch
from linsey.ops.cpu import conv_kernels as convs
from linsey.ops.moments import NormSpec
from tests.ops.cpu.kernels import (
    SAME,
    assert_near,
    in_new_process,
    kernels_in,
    need_kernels,
    normal,
)

pytestmark = need_kernels


def test_exported_programs_have_no_kernels(small):
    x, kernel = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 4, 32)

    def model(x, kernel):
        y = conv(x, kernel)
        return train_batch_norm(
            NormSpec((0, 1, 2), (3,)),
            UpdateRule(),
            y,
            None,
            None,
            None,
            1e-5,
            (jnp.zeros(32), jnp.ones(32)),
            (0.9, 0.1),
        )[0]

    assert kernels_in(model, x, kernel)
    exported = jax.export.export(jax.jit(model))(x, kernel)
    assert "custom_call @linsey" not in exported.mlir_module()
    assert_near(exported.call(x, kernel), jax.jit(model)(x, kernel))


def test_operations_are_counted_where_kernels_are_used(small):
    layer, x = nn.Conv(32, (3, 3)), normal(0, 2, 8, 8, 16)
    variables = layer.init(jax.random.key(0), x)
    assert kernels_in(layer.apply, variables, x)
    table = nn.tabulate(layer, jax.random.key(0), compute_flops=True)(x)
    with dispatch.by_definition():
        cost = jax.jit(layer.apply).lower(variables, x).cost_analysis()
        assert not kernels_in(layer.apply, variables, x)
    assert f"{int(cost['flops'])}" in table.replace(",", "")
    assert cost["flops"] > 2 * 2 * 6 * 6 * 9 * 16 * 32


def test_many_calls_at_once(small):
    x, kernel = normal(0, 8, 12, 12, 16), normal(1, 3, 3, 16, 32)

    @jax.jit
    def run(x, kernel):
        y = [convs.convolve(x * i, kernel, SAME) for i in range(4)]
        sums = [channel_kernels.channel_moments(v, v[0, 0, 0]) for v in y]
        return sum(y), sums

    expected = jax.block_until_ready(run(x, kernel))
    wrong = []

    def repeat():
        for _ in range(30):
            found = jax.block_until_ready(run(x, kernel))
            if not jax.tree.all(jax.tree.map(np.array_equal, found, expected)):
                wrong.append(found)

    workers = [threading.Thread(target=repeat) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from linsey import linen as nn
from linsey.errors import ShapeError
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16, 16, 32)), jnp.float32)
model = nn.Sequential([nn.Conv(32, (3, 3)), nn.BatchNorm(False)])
variables = model.init(jax.random.key(0), x)
run = jax.jit(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))
print(run.lower(variables, x).as_text().count("custom_call @linsey"))
y, updated = run(variables, x)
mean, var = jax.tree.leaves(updated)
print(np.asarray(y).tobytes().hex()[:64], np.asarray(var).tobytes().hex()[:64])
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    one, two = in_new_process(PROGRAM, NPROC="1"), in_new_process(PROGRAM, NPROC="2")
    assert one == two and one[0] == "2"


CONVOLUTIONS = """
import hashlib, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
import jax, jax.numpy as jnp, numpy as np
from linsey.ops.cpu import conv_kernels as convs, dispatch, example_kernels as norm
assert dispatch.kernels_usable()
random = lambda key, *shape: jax.random.normal(jax.random.key(key), shape)
for size, channels in (3, 16), (17, 32), (40, 64):
    window = convs.Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
    x, kernel = random(0, 5, size, size, channels), random(1, 3, 3, channels, 64)
    y = convs.convolve_with_bias(x, kernel, kernel[0, 0, 0], window)
    expected = convs._definition(x, kernel, window=window)[0] + kernel[0, 0, 0]
    gradient = convs._bind_gradient(x, y, window=window)[0]
    exact = convs._gradient_definition(x, y, window=window)[0]
    assert jnp.abs(y - expected).max() < 1e-3
    assert jnp.abs(gradient - exact).max() < 1e-4 * jnp.abs(exact).max()
    print(hashlib.sha256(np.asarray(y).tobytes()).hexdigest())
for shape in (300, 1, 1, 768), (3, 500, 4, 24):
    x, scale = random(2, *shape), random(3, 1, 1, *shape[2:])
    values = x + 1, x, scale, jnp.ones((1, 1, 1, 1))
    results = norm._bind_cotangents(*values, centred=True)
    for one, other in zip(results, norm._cotangents(*values, centred=True)):
        assert jnp.abs(one - other).max() < 1e-5 * jnp.abs(other).max()
        print(hashlib.sha256(np.asarray(one).tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_more_threads_than_cores_and_more_processes():
    environments = [{**os.environ, "NPROC": str(n)} for n in (1, 2, 4, 8, 33)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONVOLUTIONS, cores],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for cores in ("1", "2")
        for environment in environments
    ]
    results = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    assert len(set(results)) == 1 and len(results[0].splitlines()) == 9


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    "environment",
    [
        {"LINSEY_KERNELS": "0"},
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ],
)
def test_where_kernels_are_not_used(environment):
    assert in_new_process(PROGRAM, **environment)[0] == "0"


OTHER_PROCESSOR = """
from llvmlite import binding
features = binding.get_host_cpu_features()
less = type(features)({n: on and "avx512" not in n for n, on in features.items()})
binding.get_host_cpu_features = lambda: less
import jax, jax.numpy as jnp, numpy as np
from linsey.ops.cpu import channel_kernels, conv_kernels as convs
from linsey.ops.cpu.codegen import vectors
random = lambda *s: jax.random.normal(jax.random.key(0), s)
x, kernel = random(2, 9, 13, 5), random(3, 3, 5, 24)
window = convs.Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
y = convs._definition(x, kernel, window=window)[0]
print(vectors.ROWS, jnp.abs(convs.convolve(x, kernel, window) - y).max() < 1e-5)
dk, = convs._gradient_definition(x, y, window=window)
print(jnp.abs(convs._bind_gradient(x, y, window=window)[0] - dk).max() < 1e-3)
for found, exact in zip(
    channel_kernels.channel_products(y, 2 * y, y[0, 0, 0]),
    channel_kernels._products(y, 2 * y, y[0, 0, 0], jnp.ones(y.shape[-1])),
):
    print(jnp.abs(found - exact).max() < 1e-2)
"""


@pytest.mark.slow
def test_processors_with_shorter_vectors():
    assert " ".join(in_new_process(OTHER_PROCESSOR)) == "6 True True True True"


def test_without_numba():
    hidden = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "numba" else find(name)
"""
    assert in_new_process(hidden + PROGRAM)[0] == "0"


def test_kernels_that_do_not_compile_leave_the_work_to_xla(small, monkeypatch):
    def fail(name):
        raise RuntimeError("no compiler here")

    for name in "_load", "_warn":  # as in a process that has loaded none
        anew = cache(getattr(dispatch, name).__wrapped__)
        monkeypatch.setattr(dispatch, name, anew)
    monkeypatch.setattr("linsey.ops.cpu.codegen.machine_code.load", fail)
    x = normal(0, 64, 64)
    with pytest.warns(dispatch.KernelsUnavailableWarning, match="no compiler here"):
        found = jax.jit(channel_kernels.channel_moments)(x, x[0])
    assert_near(found, channel_kernels._moments(x, x[0], jnp.ones(64)))


def test_operands_of_another_dtype_are_left_to_the_definition():
    x, shift = normal(0, 64, 64), normal(1, 64)
    assert kernels_in(channel_kernels.channel_moments, x, shift)
    for cast in (
        lambda v: v.astype(jnp.bfloat16),
        lambda v: jnp.round(v).astype(jnp.int32),
    ):
        arguments = cast(x), cast(shift)
        assert not kernels_in(channel_kernels.channel_moments, *arguments)
        found = channel_kernels.channel_moments(*arguments)
        assert_near(
            found, channel_kernels._moments(*arguments, jnp.ones_like(arguments[1]))
        )


def test_empty_arrays_are_left_to_the_definition():
    for sums in channel_kernels.channel_moments(jnp.ones((0, 64)), jnp.ones(64)):
        assert sums.tolist() == [0.0] * 64
