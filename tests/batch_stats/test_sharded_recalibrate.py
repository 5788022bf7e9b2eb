"""Batches on eight simulated devices give the statistics that float64 gives."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.batch_stats import sharded_recalibrate


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Statistics by way, number of devices and name, from a process that has eight."""
    target = tmp_path_factory.mktemp("sharded") / "results.npz"
    flags = "--xla_force_host_platform_device_count=8 "
    flags += "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    subprocess.run(
        [sys.executable, "-m", sharded_recalibrate.__name__, str(target)],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )
    return dict(np.load(target))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("way", ["linsey", "flax", "shard_map"])
@pytest.mark.parametrize("count", [1, 8])
def test_statistics_are_those_of_all_data(found, way, count):
    rows = [
        batch["x"][batch["mask"][..., 0]] for batch in sharded_recalibrate.batches()
    ]
    values = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(found[f"{way}/{count}/mean"], values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[f"{way}/{count}/var"], values.var(0), rtol=1e-6)
