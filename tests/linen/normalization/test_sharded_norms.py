"""BatchNorm on eight simulated devices does what it does on one, and sends little."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import linsey.linen as nn
from tests.linen.normalization import sharded_norms
from tests.linen.normalization.sharded_norms import FEATURES


def run_on(devices: int, what: str, folder) -> dict[str, np.ndarray]:
    """Run the program on simulated devices, and return results by name."""
    flags = f"--xla_force_host_platform_device_count={devices} "
    flags += "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    target = folder / "results.npz"
    subprocess.run(
        [sys.executable, "-m", sharded_norms.__name__, str(target), what],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )
    return dict(np.load(target))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return run_on(8, "few", tmp_path_factory.mktemp("sharded"))


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


def assert_one_batch(sharded, way, kind):
    """All results of a way, on any number of devices, are those of one."""
    options = {"group_size": 8} if "ghost" in way else {}
    expected = sharded_norms.unsharded(kind, **options)
    counts = [n for n in (1, 2, 4, 8) if f"{way}/{kind}/{n}/y" in sharded]
    assert counts
    for count in counts:
        assert_equal(sharded, f"{way}/{kind}/{count}", expected)


WAYS = [(way, kind) for kind in ("none", "mask") for way in ("jit", "shard_map")]


@pytest.mark.parametrize(
    ("way", "kind"), [*WAYS, ("ghost", "none"), ("explicit", "mask")]
)
def test_a_divided_batch_is_one_batch(sharded, way, kind):
    assert_one_batch(sharded, way, kind)


@pytest.mark.slow
def test_a_batch_divided_in_any_way_is_one_batch(tmp_path):
    sharded = run_on(8, "all", tmp_path)
    ways = {tuple(name.split("/")[:2]) for name in sharded}
    assert len(ways) == 11
    for way, kind in ways:
        assert_one_batch(sharded, way, kind)


@pytest.mark.parametrize("way", ["jit", "shard_map"])
def test_in_float64_too(sharded, way):
    with jax.enable_x64(True):
        expected = sharded_norms.unsharded("mask", np.float64)
    assert_equal(sharded, f"{way}/mask/double", expected, 1e-10, 1e-10)


@pytest.mark.parametrize("way", ["groups", "unchecked groups"])
def test_a_group_of_shards_is_a_batch(sharded, way):
    assert_equal(sharded, f"{way}/none/4", sharded_norms.grouped())


@pytest.mark.parametrize("way", ["jit", "shard_map"])
def test_a_large_mean_costs_a_divided_batch_no_digits(sharded, way):
    expected = sharded_norms.far_inputs().astype(np.float64).var((0, 1))
    np.testing.assert_allclose(sharded[f"{way}/far/8/var"], expected, rtol=1e-5)


@pytest.mark.parametrize("way", ["jit", "shard_map"])
def test_a_channel_spoils_no_other(sharded, way):
    layer = nn.BatchNorm(use_running_average=False)
    params = sharded_norms.variables()["params"]
    x = sharded_norms.wild_inputs()
    expected = np.asarray(sharded_norms.apply(layer, params, x, None)[0])
    found = sharded[f"{way}/wild/8/y"]
    assert np.isnan(expected[..., 0]).all()
    assert np.isfinite(expected[..., 1:]).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# How many numbers of float32 are sent: forward for each channel and each layer, in two
# collectives; backward for each channel, in one.
FORWARD = {"none": (3, 1), "mask": (4, 1)}
BACKWARD = {"none": 2, "mask": 3}


def assert_sends_little(sharded, way, kind, count):
    a_channel, a_layer = FORWARD[kind]
    number, size = sharded[f"{way}/{kind}/{count}/sent"]
    assert number == 3
    assert size <= 4 * ((a_channel + BACKWARD[kind]) * FEATURES + a_layer)


@pytest.mark.parametrize(("way", "kind"), WAYS)
def test_what_is_sent_does_not_depend_on_the_number_of_devices(sharded, way, kind):
    for count in (2, 8):
        assert_sends_little(sharded, way, kind, count)


def test_two_collectives_are_of_the_forward_pass(sharded):
    for way, kind in (("jit", "mask"), ("shard_map", "none")):
        number, size = sharded[f"{way}/{kind}/forward/sent"]
        assert number == 2
        assert size <= 4 * (FORWARD[kind][0] * FEATURES + FORWARD[kind][1])


def test_an_explicit_mesh_sends_as_little(sharded):
    assert_sends_little(sharded, "explicit", "mask", 2)


def test_gradients_of_other_norms_are_summed_by_channel(sharded):
    number, size = sharded["layer norm/none/8/sent"]
    assert number == 1
    assert size == 4 * 2 * FEATURES


@pytest.mark.slow
def test_many_devices_send_no_more(tmp_path):
    sharded = run_on(64, "64", tmp_path)
    for way, kind in WAYS:
        assert_sends_little(sharded, way, kind, 64)
