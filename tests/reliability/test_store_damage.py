"""Whatever happens to the bytes of a step, no other numbers are loaded."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore, manifest, open_checkpoint, tensors
from linsey.errors import DiskError, InputError
from tests.reliability.faults import Faults, flip
from tests.reliability.figures import record

pytestmark = pytest.mark.timeout(120)

DATA = manifest.file_name(0, 1)
TREE = {
    "params": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)},
    "batch_stats": {"mean": np.linspace(0, 1, 3), "none": np.zeros((0, 2), np.int8)},
    "mask": np.array([True, False, True]),
    "phase": np.array([1j, 2], np.complex64),
    "step": np.int32(7),
}


@pytest.fixture
def store(memory) -> CheckpointStore:
    store = CheckpointStore(memory / "checkpoints")
    store.save(7, TREE, {"note": "seven"})
    return store


def array_at(content: bytes) -> list[str]:
    """For each byte of a file the array it belongs to; nothing for the header."""
    header, start = tensors.parse_header(content, Path(DATA))
    names = [""] * len(content)
    for name, tensor in header.items():
        first, last = (start + offset for offset in tensor.data_offsets)
        names[first:last] = [name] * (last - first)
    return names


def assert_named(error: Exception, file: Path, key: str) -> None:
    """The file is named, and so is the array if it is one."""
    assert f"{file}: {key and f'{key}: '}" in str(error)


def assert_right(found: dict) -> None:
    np.testing.assert_array_equal(found["params"]["kernel"], TREE["params"]["kernel"])
    np.testing.assert_array_equal(found["phase"], TREE["phase"])
    assert found["step"] == 7


def test_every_byte_flipped_on_the_disk_is_caught(store, effort):
    folder = store.path(7)
    count = 0
    for file in (DATA, manifest.NAME):
        path = folder / file
        content = path.read_bytes()
        names = array_at(content) if file == DATA else [""] * len(content)
        for position in range(0, len(content), round(0.5 / effort) or 1):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises(InputError) as caught:
                open_checkpoint(folder)
            assert_named(caught.value, path, names[position] or "")
            count += 1
        path.write_bytes(content)
    assert_right(open_checkpoint(folder).read())
    if effort == 1:
        record(
            "each byte of a small step is flipped on the disk", f"{count} of {count}"
        )


def test_a_bit_flipped_inside_of_a_write_is_caught(store, effort):
    trials = round(1000 * effort)
    random = np.random.default_rng(0)
    with Faults(only=["write"]) as counted:
        store.save(8, TREE, {})
    content = (store.path(8) / DATA).read_bytes()
    names = array_at(content)
    for trial in range(trials):
        write = trial % len(counted.calls)
        place: list[int] = []

        def act(function, descriptor, buffer):
            damaged = bytearray(buffer)
            position = int(random.integers(len(damaged)))
            damaged[position] ^= 1 << int(random.integers(8))
            place.append(os.lseek(descriptor, 0, os.SEEK_CUR) + position)
            return function(descriptor, damaged)

        with Faults(write, act, only=["write"]), pytest.raises(DiskError) as caught:
            store.save(9, TREE, {})
        is_manifest = write == len(counted.calls) - 1
        file = store.path(9) / (manifest.NAME if is_manifest else DATA)
        assert_named(caught.value, file, "" if is_manifest else names[place[0]])
        assert sorted(os.listdir(store.folder)) == ["step_00000007", "step_00000008"]
    assert_right(store.newest().read())
    if effort == 1:
        record("single bits are flipped inside of writes", f"{trials} of {trials}")


def test_a_bit_flipped_in_memory_after_the_hash_is_caught(store, monkeypatch):
    """Between the hash and the write, such as by another thread or a bad memory."""
    from linsey.checkpoint import durable

    write_new = durable.write_new
    tree = {"w": np.zeros(100)}

    def late(path, chunks):
        tree["w"][50] = 1.0
        write_new(path, chunks)

    monkeypatch.setattr(durable, "write_new", late)
    with pytest.raises(DiskError, match=": w: the array is not the one that was"):
        store.save(8, tree, {})
    assert store.steps() == [7]


def test_a_change_between_verification_and_use_changes_nothing(store, tmp_path):
    """At each of 40 instants while a step is opened and used, its data change."""
    folder = store.path(7)
    content = (folder / DATA).read_bytes()

    def use() -> None:
        checkpoint = open_checkpoint(folder)
        os.stat(folder)  # an instant between opening and using
        assert_right(checkpoint.restore(TREE))
        os.stat(folder)
        assert_right(checkpoint.read())

    with Faults() as counted:
        use()
    total = len(counted.calls)
    for trial in range(40):

        def act(function, *args, **kwargs):
            flip(folder / DATA, -1 - trial % 90, trial % 8)
            return function(*args, **kwargs)

        refused = False
        with Faults(trial % total, act):
            try:
                use()
            except InputError as error:
                assert str(folder / DATA) in str(error)
                refused = True
        # As it was read before or after.
        assert refused or trial % total > 4
        (folder / DATA).write_bytes(content)
    record("data change between verification and use", "40 of 40")


def test_other_lengths_are_refused(store, effort):
    path = store.path(7) / DATA
    content = path.read_bytes()
    lengths = np.linspace(0, 2 * len(content), round(500 * effort), dtype=int)
    for file in (DATA, manifest.NAME):
        path = store.path(7) / file
        content = path.read_bytes()
        for length in set(lengths) - {len(content)}:
            path.write_bytes((content + bytes(length))[:length])
            with pytest.raises(InputError) as caught:
                store.open(7)
            assert str(path) in str(caught.value)
        path.write_bytes(content)
    store.open(7)
    if effort == 1:
        record(
            "files are truncated and grown", f"{2 * len(lengths)} of {2 * len(lengths)}"
        )


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])


DAMAGES = {
    "data of another step": lambda new, old: shutil.copy(old / DATA, new / DATA),
    "manifest of another step": lambda new, old: shutil.copy(
        old / manifest.NAME, new / manifest.NAME
    ),
    "a copy of another step": lambda new, old: (
        shutil.rmtree(new), shutil.copytree(old, new),
    ),
    "data and manifest exchanged": lambda new, old: exchange(
        new / DATA, new / manifest.NAME
    ),
    "no data": lambda new, old: (new / DATA).unlink(),
    "no manifest": lambda new, old: (new / manifest.NAME).unlink(),
    "empty data": lambda new, old: (new / DATA).write_bytes(b""),
    "empty manifest": lambda new, old: (new / manifest.NAME).write_bytes(b""),
    "an empty folder": lambda new, old: (shutil.rmtree(new), new.mkdir()),
    "a file": lambda new, old: (shutil.rmtree(new), new.write_bytes(b"")),
    "a link to another step": lambda new, old: (
        shutil.rmtree(new), new.symlink_to(old),
    ),
    "data that are a link": lambda new, old: (
        (new / DATA).unlink(), (new / DATA).symlink_to(old / DATA),
    ),
    "data that are a FIFO": lambda new, old: (
        (new / DATA).unlink(), os.mkfifo(new / DATA),
    ),
    "data that are a folder": lambda new, old: (
        (new / DATA).unlink(), (new / DATA).mkdir(),
    ),
    "a file too many": lambda new, old: (new / "x").write_bytes(b""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_step_is_named_and_passed_over_on_request(store, name):
    other = {**TREE, "step": np.int32(8)}
    store.save(8, other, {"note": "eight"})
    new, old = store.path(8), store.path(7)
    DAMAGES[name](new, old)
    with pytest.raises(InputError, match=r"step 7 is intact: `discard_damaged`") as one:
        store.newest()
    with pytest.raises(InputError) as two:
        store.open(8)
    for caught in (one, two):
        assert caught.value.file.startswith(str(new))
    reasons = store.discard_damaged()
    assert [reason.file.startswith(str(new)) for reason in reasons] == [True]
    assert store.newest().step == 7
    assert_right(store.newest().read())
    store.save(8, other, {})
    store.prune({8})  # what was put aside stays
    assert store.steps() == [8]
    assert os.path.lexists(new.with_name("step_00000008.refused"))


def test_a_link_that_is_pruned_is_removed_and_not_followed(store, tmp_path):
    shutil.copytree(store.path(7), tmp_path / "elsewhere")
    store.path(3).symlink_to(tmp_path / "elsewhere")
    store.prune({7})
    assert store.steps() == [7]
    assert len(os.listdir(tmp_path / "elsewhere")) == 2


def test_a_store_that_is_a_link_is_not_written_to(store, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    linked = CheckpointStore(link)
    assert linked.newest().step == 7
    for write in (
        lambda: linked.save(8, TREE, {}),
        lambda: linked.prune({7}),
        lambda: linked.discard_damaged(),
        lambda: linked.clean(),
    ):
        with pytest.raises(InputError, match="links are not followed"):
            write()
    assert store.steps() == [7]
