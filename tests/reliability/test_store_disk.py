"""A disk that is full, and readers beside a writer."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore
from linsey.errors import DiskError
from tests.reliability import kills
from tests.reliability.figures import record

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
POINTS = 50


def make_tree(step: int) -> dict:
    return {"params": {f"w{i}": np.full(1000, step + i / 10) for i in range(26)}}


def assert_right(store: CheckpointStore, step: int) -> None:
    found = store.newest()
    assert (found.step, store.steps()) == (step, [step])
    for name, array in found.restore(make_tree(0))["params"].items():
        np.testing.assert_array_equal(array, make_tree(step)["params"][name])


def assert_told(error: DiskError, store: CheckpointStore) -> None:
    size = sum(path.stat().st_size for path in store.path(1).iterdir())
    assert error.file == str(store.path(2))
    assert abs(error.needed - size) < 100
    assert f"{error.needed:,} bytes are needed, {error.free:,} are free" in str(error)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_file_that_may_not_grow(memory):
    store = CheckpointStore(memory)
    store.save(1, make_tree(1), {})
    largest = max(path.stat().st_size for path in store.path(1).iterdir())
    for size in np.linspace(0, largest - 1, POINTS, dtype=int):
        with largest_file(int(size)), pytest.raises(DiskError) as caught:
            store.save(2, make_tree(2), {})
        assert caught.value.errno == errno.EFBIG
        assert_told(caught.value, store)
        assert os.listdir(memory) == ["step_00000001"]
        assert_right(store, 1)
    record("files may not grow, at points of a save", f"{POINTS} of {POINTS}")


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_disk_that_is_full(small):
    store = CheckpointStore(small / "checkpoints")
    store.save(1, make_tree(1), {})
    filler, page = small / "filler", os.sysconf("SC_PAGE_SIZE")
    needed = sum(-(-p.stat().st_size // page) + 1 for p in store.path(1).iterdir())
    disk = os.statvfs(small)
    points = 0
    for room in range(0, needed):  # all that there are, in pages
        filler.write_bytes(bytes((disk.f_bavail - room) * disk.f_frsize))
        try:
            store.save(2, make_tree(2), {})
        except DiskError as error:
            assert error.errno == errno.ENOSPC
            assert_told(error, store)
            assert error.free < error.needed
            assert_right(store, 1)
            points += 1
        else:
            break
        filler.unlink()
    assert points >= POINTS
    store.prune({2})
    assert_right(store, 2)
    record("the disk is full, at each page of a save", f"{points} of {points}")


def test_readers_beside_a_writer_that_prunes_get_a_step(memory, effort):
    """The writer replaces and prunes with no break; each read gets a right step."""
    trials = round(300 * effort)
    store = CheckpointStore(memory / "store")
    command = [sys.executable, "-m", "tests.reliability.kills", "write", store.folder]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        seen = set()
        while len(seen) < 2:  # until it writes
            assert writer.poll() is None
            seen |= {*store.steps()}
        steps = []
        for _ in range(trials):
            checkpoint = store.newest()
            found = checkpoint.restore(kills.make_tree(checkpoint.step))
            right = kills.make_tree(checkpoint.step)
            for name, array in found["params"].items():
                np.testing.assert_array_equal(array, right["params"][name])
            steps.append(checkpoint.step)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    assert steps == sorted(steps)
    assert len(set(steps)) > trials / 50  # it went on meanwhile
    if effort == 1:
        record("readers beside a writer that prunes", f"{trials} of {trials}")
