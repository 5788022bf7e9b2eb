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
# Processes, and devices of each.
SPLITS = ((1, 2), (2, 1), (1, 4), (2, 2), (1, 8), (2, 4), (3, 1), (3, 2))
# Relative to the largest number of an array.
TOLERANCES = {"float32": {"gradient": 1e-5, "value": 1e-6},
              "float64": {"gradient": 1e-10, "value": 1e-10}}  # fmt: skip


def computed(jobs: Jobs, folder: Path, processes: int, devices: int, monkeypatch):
    """What a job of so many processes and devices computes."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    monkeypatch.setenv("XLA_FLAGS", flag)
    # A process has as many threads as devices, or more; bits depend on their number.
    monkeypatch.setenv("NPROC", "2")
    ended = jobs.norms(processes, folder).end()
    assert ended.codes == [0] * processes, ended.texts
    with np.load(folder / f"{processes}x{devices}.npz") as found:
        return dict(found)


def test_all_splits_give_what_one_device_does(jobs: Jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.distributed.jobs.SECONDS", 300)
    whole = computed(jobs, tmp_path, 1, 1, monkeypatch)
    assert len(whole) == 2 * 2 * 3 * 2 * 6  # dtypes, sizes, weights, ways, arrays
    found = {split: computed(jobs, tmp_path, *split, monkeypatch) for split in SPLITS}
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
