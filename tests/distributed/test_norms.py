"""Batch normalization is the same however processes and devices divide the batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.jobs import Jobs

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc"),
    pytest.mark.slow,
]
# Of each number of processes, the numbers of devices of each: one job computes them.
SPLITS = {1: (1, 2, 4, 8), 2: (1, 2, 4), 3: (1, 2)}
# Relative to the largest number of an array.
TOLERANCES = {"float32": {"gradient": 1e-5, "value": 1e-6},
              "float64": {"gradient": 1e-10, "value": 1e-10}}  # fmt: skip


Split = tuple[int, int]  # processes, and devices of each


def computed(jobs: Jobs, folder: Path, monkeypatch) -> dict[Split, dict]:
    """What the jobs compute, for each split."""
    # A process has as many threads as devices, or more; bits depend on their number.
    monkeypatch.setenv("NPROC", "2")
    found = {}
    for processes, devices in SPLITS.items():
        flag = f"--xla_force_host_platform_device_count={max(devices)}"
        monkeypatch.setenv("XLA_FLAGS", flag)
        ended = jobs.norms(processes, folder, *devices).end()
        assert ended.codes == [0] * processes, ended.texts
        for number in devices:
            with np.load(folder / f"{processes}x{number}.npz") as arrays:
                found[processes, number] = dict(arrays)
    return found


def test_all_splits_give_what_one_device_does(jobs: Jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.distributed.jobs.SECONDS", 300)
    found = computed(jobs, tmp_path, monkeypatch)
    whole = found.pop((1, 1))
    assert len(whole) == 2 * 2 * 3 * 2 * 6  # dtypes, sizes, weights, ways, arrays
    for split, arrays in found.items():
        assert arrays.keys() == whole.keys()
        for name, expected in whole.items():
            is_gradient = name.rpartition("/")[2].startswith("d")
            bars = TOLERANCES[name.partition("/")[0]]
            bar = bars["gradient" if is_gradient else "value"]
            difference = np.abs(arrays[name] - expected).max()
            assert difference <= bar * np.abs(expected).max(), (split, name)
    for name in whole:
        assert found[1, 2][name].tobytes() == found[2, 1][name].tobytes(), name
