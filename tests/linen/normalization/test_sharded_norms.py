"""BatchNorm on eight simulated devices does what it does on one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.linen.normalization import sharded_norms


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Results by way, mask and number of devices, from a process that has eight."""
    target = tmp_path_factory.mktemp("sharded") / "results.npz"
    flags = "--xla_force_host_platform_device_count=8 "
    flags += "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    subprocess.run(
        [sys.executable, "-m", sharded_norms.__name__, str(target)],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )
    return dict(np.load(target))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("way", "masked"),
    [(w, m) for w in ("jit", "shard_map") for m in (False, True)] + [("groups", False)],
)
def test_a_divided_batch_is_one_batch(sharded, way, masked):
    options = {"group_size": 8} if way == "groups" else {}
    expected = sharded_norms.unsharded(masked, **options)
    for count in (1, 2, 4, 8):
        for part, value in expected.items():
            found = sharded[f"{way}/{masked}/{count}/{part}"]
            scale = np.abs(value).max()
            np.testing.assert_allclose(
                found / scale, value / scale, rtol=0, atol=1e-6, err_msg=part
            )
