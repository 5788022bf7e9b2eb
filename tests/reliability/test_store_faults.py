"""Every call of a save and of a prune fails once."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore
from linsey.errors import DiskError
from tests.reliability.faults import Faults, Killed, kill, refuse, shorten
from tests.reliability.figures import record

pytestmark = pytest.mark.timeout(120)

KINDS = {
    "EIO": refuse(errno.EIO),
    "ENOSPC": refuse(errno.ENOSPC),
    "short write": shorten,
    "SIGKILL": kill,
}


def make_tree(step: int) -> dict:
    return {"w": np.arange(100.0) * step, "n": {"count": np.int32(step)}}


def operate(store: CheckpointStore) -> None:
    """Everything that a writer does."""
    store.clean()
    store.save(2, make_tree(2), {"note": "two"})
    store.save(2, make_tree(3), {"note": "again"}, replace=True)
    store.prune({2})


def assert_right(store: CheckpointStore) -> None:
    """The newest step is there and right: the first, the second, or its revision."""
    checkpoint = store.newest()
    assert checkpoint is not None
    value = checkpoint.step + checkpoint.revision
    found = checkpoint.restore(make_tree(0))
    np.testing.assert_array_equal(found["w"], make_tree(value)["w"])
    assert found["n"]["count"] == value


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_save_and_prune_fails_once(memory, kind):
    store = CheckpointStore(memory / "run" / "checkpoints")
    first = CheckpointStore(memory / "first")
    first.save(1, make_tree(1), {})
    shutil.copytree(first.folder, store.folder)
    with Faults() as counted:
        operate(store)
    total = len(counted.calls)
    for at in range(total):
        shutil.rmtree(store.folder)
        shutil.copytree(first.folder, store.folder)
        (store.folder / ".tmp-step_00000009").mkdir()  # left by a kill
        error = None
        with Faults(at, KINDS[kind]) as faults:
            try:
                operate(store)
            except (DiskError, Killed) as caught:
                error = caught
        call = faults.calls[at]
        assert_right(store)
        if isinstance(error, DiskError):
            # `shutil.rmtree` closes again what could not be closed.
            numbers = {errno.EIO, errno.ENOSPC, errno.EINTR}
            assert error.errno in numbers | (
                {errno.EBADF} if call == "close" else set()
            )
            assert error.file.startswith(str(store.folder))
            assert errno.errorcode[error.errno] in str(error)
            assert not list(store.folder.glob(".tmp-step_00000002*")), call
        elif error is None:
            assert (kind, call) == ("short write", "write")  # the rest followed
            assert store.newest().revision == 1
        store.clean()
        assert not [n for n in os.listdir(store.folder) if n.startswith(".")]
        store.save(2, make_tree(2), {}, replace=True)
        assert store.newest().metadata == {}
    row = "each call of a save and a prune fails, in four ways"
    record(row, f"{total} of {total} calls x {len(KINDS)}")


def test_a_failed_save_says_what_it_needs_and_what_is_free(memory):
    store = CheckpointStore(memory)
    with Faults(3, refuse(errno.ENOSPC), only=["write", "fsync"]):
        with pytest.raises(DiskError, match="No space left on device") as caught:
            store.save(1, make_tree(1), {})
    error = caught.value
    assert error.file == str(store.path(1))
    assert (error.errno, error.needed > 800) == (errno.ENOSPC, True)
    assert f"{error.needed:,} bytes are needed, {error.free:,} are free" in str(error)
    assert os.listdir(memory) == []


def test_what_cannot_be_proven_is_not_pruned(memory):
    store = CheckpointStore(memory)
    for step in (1, 2):
        store.save(step, make_tree(step), {})
    with Faults(0, refuse(errno.EIO), only=["read"]):
        with pytest.raises(DiskError, match="cannot read"):
            store.prune({2})
    assert store.steps() == [1, 2]


def test_a_read_that_is_refused_is_no_damage(memory):
    store = CheckpointStore(memory)
    store.save(1, make_tree(1), {})
    for at in range(8):
        with Faults(at, refuse(errno.EIO), only=["open", "read", "fstat", "listdir"]):
            with pytest.raises(DiskError) as caught:
                store.discard_damaged()
        assert Path(caught.value.file).is_relative_to(memory)
    assert store.newest().step == 1
