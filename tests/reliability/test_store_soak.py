"""Thousands of saves: memory, open files and the folder do not grow."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore
from tests.reliability.figures import record

SAVES = 5000
ARRAYS = 30
BYTES = 2**20


def resident() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(store: CheckpointStore, saves: int) -> tuple[np.ndarray, float, int]:
    """Seconds of each save; growth of memory after a start, and of open files."""
    random = np.random.default_rng(0)
    size = BYTES // 4 // ARRAYS
    seconds, memory, files = [], [], []
    for step in range(saves):
        tree = {f"w{i}": random.random(size, np.float32) for i in range(ARRAYS)}
        start = time.perf_counter()
        store.save(step, {"params": tree}, {"step": step, "note": "soak"})
        seconds.append(time.perf_counter() - start)
        store.prune({step, step - 1, step - 2})
        memory.append(resident())
        files.append(len(os.listdir("/proc/self/fd")))
        assert len(os.listdir(store.folder)) <= 3
    warm = saves // 20
    return np.array(seconds), max(memory[warm:]) - memory[warm], files[-1] - files[0]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("saves", [
    pytest.param(60, id="some"),
    pytest.param(SAVES, id="all", marks=pytest.mark.soak),
])  # fmt: skip
@pytest.mark.timeout(3600)
def test_saves_leave_nothing_behind(tmp_path, saves):
    seconds, grown, files = soak(CheckpointStore(tmp_path / "checkpoints"), saves)
    assert grown < 20
    assert files == 0
    half, most = 1000 * np.quantile(seconds, [0.5, 0.99])
    told = f"p50 {half:.1f} ms, p99 {most:.1f} ms, {grown:.1f} MiB more memory"
    print(f"{saves} saves of 1 MB: {told}")
    if saves == SAVES:
        record(f"{SAVES:,} saves of 1 MB, each with a prune", told)
