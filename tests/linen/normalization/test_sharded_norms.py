"""BatchNorm on eight simulated devices does what it does on one, and sends little."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.linen.normalization import sharded_norms
from tests.linen.normalization.sharded_norms import FEATURES


def run_on(devices: int, *args: str) -> None:
    flags = f"--xla_force_host_platform_device_count={devices} "
    flags += "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    subprocess.run(
        [sys.executable, "-m", sharded_norms.__name__, *args],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Results by way, weights and number of devices, from a process that has eight."""
    target = tmp_path_factory.mktemp("sharded") / "results.npz"
    run_on(8, str(target))
    return dict(np.load(target))


def assert_equal(sharded, name, expected, gradients=1e-5, others=1e-6):
    for part, value in expected.items():
        found, largest = sharded[f"{name}/{part}"], np.abs(value).max()
        atol = gradients if part.startswith("gradient") else others
        np.testing.assert_allclose(
            found / largest,
            value / largest,
            rtol=0,
            atol=atol,
            err_msg=f"{name} {part}",
        )


WAYS = [(way, kind) for kind in sharded_norms.MASKS for way in ("jit", "shard_map")]
OTHERS = [
    ("ghost", "none"),
    ("ghost of compiler", "none"),
    ("unchecked", "mask"),
    ("pmap", "mask"),
    ("positions", "mask"),
    ("explicit", "mask"),
]


@pytest.mark.parametrize(("way", "kind"), WAYS + OTHERS)
def test_a_divided_batch_is_one_batch(sharded, way, kind):
    options = {"group_size": 8} if "ghost" in way else {}
    expected = sharded_norms.unsharded(kind, **options)
    names = {name.rpartition("/")[0] for name in sharded if name.endswith("/y")}
    divided = [f"{way}/{kind}/{count}" for count in (1, 2, 4, 8)]
    divided = [name for name in divided if name in names]
    assert divided
    for name in divided:
        assert_equal(sharded, name, expected)


@pytest.mark.parametrize(("way", "kind"), [("jit", "none"), ("shard_map", "mask")])
def test_in_float64_too(sharded, way, kind):
    with jax.enable_x64(True):
        expected = sharded_norms.unsharded(kind, np.float64)
    assert_equal(sharded, f"{way}/{kind}/double", expected, 1e-10, 1e-10)


@pytest.mark.parametrize("way", ["groups", "unchecked groups"])
def test_a_group_of_shards_is_a_batch(sharded, way):
    assert_equal(sharded, f"{way}/none/4", sharded_norms.grouped())


@pytest.mark.parametrize("way", ["jit", "shard_map"])
def test_a_large_mean_costs_a_divided_batch_no_digits(sharded, way):
    expected = sharded_norms.far_inputs().astype(np.float64).var((0, 1))
    for count in (2, 8):
        found = sharded[f"{way}/far/{count}/var"]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


# Numbers of float32 that are sent: forward for each channel and each layer, in two
# collectives; backward for each channel, in one.
FORWARD = {"none": (3, 1), "mask": (4, 1)}
BACKWARD = {"none": 2, "mask": 3}


@pytest.mark.parametrize("way", ["jit", "shard_map"])
@pytest.mark.parametrize("kind", FORWARD)
def test_what_is_sent_does_not_depend_on_the_number_of_devices(sharded, way, kind):
    a_channel, a_layer = FORWARD[kind]
    forward = 4 * (a_channel * FEATURES + a_layer)
    number, size = sharded[f"{way}/{kind}/forward/sent"]
    assert number == 2
    assert size <= forward
    for count in (2, 4, 8):
        number, size = sharded[f"{way}/{kind}/{count}/sent"]
        assert number == 3
        assert size <= forward + 4 * BACKWARD[kind] * FEATURES
    # Devices that are alone need not send anything, and groups no more than all do.
    assert not sharded[f"jit/{kind}/1/sent"].any()
