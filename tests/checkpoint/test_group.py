"""Steps that several processes write together; here each of them is a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore, Processes, durable, flatten
from linsey.errors import DiskError, InputError
from tests.checkpoint.steps import assert_same_bits, make_tree

KERNEL = np.arange(48, dtype=np.float32).reshape(6, 8)
KEYS = jax.random.split(jax.random.key(3), 6)


class Threads:
    """Threads that save together."""

    def __init__(self, index: int, count: int, shared: SimpleNamespace) -> None:
        self.index, self.count, self._shared = index, count, shared

    def gather(self, content: bytes) -> list[bytes]:
        self._shared.told[self.index] = content
        self._shared.barrier.wait(10)
        found = list(self._shared.told)
        self._shared.barrier.wait(10)
        return found


class Divided:
    """An array whose rows are divided over processes, as one of them sees it."""

    is_fully_addressable = False

    def __init__(self, array: np.ndarray, index: int, count: int) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        size = len(array) // count
        rows = slice(index * size, (index + 1) * size)
        rest = (slice(None),) * (array.ndim - 1)
        shard = SimpleNamespace(index=(rows, *rest), data=array[rows], replica_id=0)
        copy = SimpleNamespace(index=(), data=None, replica_id=1)
        self.addressable_shards = [shard, copy]


def together(count: int, save: Callable[[Threads], object]) -> list[object]:
    """Call a function in each of several threads; return what they return or raise."""
    shared = SimpleNamespace(
        told=[b""] * count, barrier=threading.Barrier(count), failed=[]
    )

    def run(index: int) -> object:
        try:
            return save(Threads(index, count, shared))
        except threading.BrokenBarrierError as error:
            return error
        except Exception as error:
            shared.barrier.abort()  # as shared fate ends the others
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def divided_tree(group: Threads) -> dict:
    of = group.index, group.count
    return make_tree() | {"kernel": Divided(KERNEL, *of), "keys": Divided(KEYS, *of)}


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_writes_its_pieces_and_one_reads_the_whole(tmp_path, count):
    folder = tmp_path / "checkpoints"

    def save(group: Threads) -> None:
        store = CheckpointStore(folder, group)
        for step in (4, 5, 5):
            store.save(step, divided_tree(group), {"note": 1}, replace=True)
        store.prune({5})

    assert together(count, save) == [None] * count
    (step,) = folder.iterdir()
    assert step.name == "step_00000005+1"
    files = [f"state-{i:05d}-of-{count:05d}.safetensors" for i in range(count)]
    assert sorted(path.name for path in step.iterdir()) == ["manifest.json", *files]
    found = CheckpointStore(folder).newest().read()
    keys = found.pop("keys")
    expected = make_tree() | {"kernel": KERNEL}
    assert_same_bits(found, expected)
    assert (jax.random.key_data(keys) == jax.random.key_data(KEYS)).all()
    # What all have is written once, and so is what each has a part of.
    bytes_written = sum((step / name).stat().st_size for name in files)
    bytes_held = sum(np.asarray(a).nbytes for a in flatten(expected).values())
    header = 2000
    assert bytes_written < bytes_held + 6 * 8 + header * count


def test_what_one_process_lacks_is_not_sealed(tmp_path):
    def save(group: Threads) -> None:
        tree = {"kernel": Divided(KERNEL, group.index, group.count)}
        if group.index == 1:
            tree = {"other": tree["kernel"]}
        CheckpointStore(tmp_path, group).save(0, tree, {})

    first, _ = together(2, save)
    assert isinstance(first, InputError)
    assert "kernel" in str(first) or "other" in str(first)
    assert CheckpointStore(tmp_path).steps() == []


def test_pieces_with_a_gap_are_not_sealed(tmp_path):
    def save(group: Threads) -> None:
        array = Divided(KERNEL, group.index, group.count)
        if group.index == 1:
            array.addressable_shards.pop(0)
        CheckpointStore(tmp_path, group).save(0, {"kernel": array}, {})

    first, _ = together(2, save)
    assert isinstance(first, InputError)
    assert "pieces with gaps or overlaps" in str(first)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_one_process_leaves_the_step_before(tmp_path, monkeypatch):
    folder, write_new = tmp_path / "checkpoints", durable.write_new

    def refuse(path: Path, chunks) -> None:
        if "step_00000002" in str(path) and "state-00001" in path.name:
            raise OSError(28, "No space left on device")
        write_new(path, chunks)

    def save(group: Threads) -> None:
        store = CheckpointStore(folder, group)
        for step in (1, 2):
            store.save(step, divided_tree(group), {})

    monkeypatch.setattr(durable, "write_new", refuse)
    first, second = together(2, save)
    assert isinstance(first, threading.BrokenBarrierError)
    assert isinstance(second, DiskError)
    assert "state-00001-of-00002.safetensors: cannot save" in str(second)
    assert CheckpointStore(folder).steps() == [1]
    assert CheckpointStore(folder).newest().step == 1


def test_a_process_without_others_is_a_group():
    alone = Processes()
    assert (alone.index, alone.count, alone.gather(b"x")) == (0, 1, [b"x"])
