import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linsey.checkpoint import CheckpointStore, durable, manifest, open_checkpoint
from linsey.errors import InputError


def make_tree(seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {
        "step": np.int32(seed),
        "params": {
            "Dense_0": {"kernel": random.standard_normal((3, 4), np.float32)},
            "half": random.standard_normal(5).astype(ml_dtypes.bfloat16),
            "complex": random.standard_normal(2).astype(np.complex64),
            "empty": np.zeros((0, 3), np.float32),
            "flag": np.array(True),
        },
        "batch_stats": {},
        "opt_state": {"0": {}, "1": {"count": np.zeros((), np.int32)}},
        "noise": np.array([1, 2**32 - 1], np.uint32),
        "not_finite": np.array([np.nan, np.inf, -0.0], np.float32),
    }


def assert_same_bits(found: dict, expected: dict) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    CheckpointStore(folder).save(7, make_tree(), {"note": 0.1})
    return folder


@pytest.fixture
def store(written, tmp_path) -> CheckpointStore:
    """One good step, 7."""
    shutil.copytree(written, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, position: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    path.write_bytes(content)


def test_restore_of_save_is_identity(store):
    checkpoint = store.newest()
    assert checkpoint.step == 7
    assert checkpoint.metadata == {"note": 0.1}
    assert_same_bits(checkpoint.restore(make_tree(seed=1)), make_tree())


def test_template_may_be_abstract(store):
    template = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, make_tree()))
    assert_same_bits(store.newest().restore(template), make_tree())


def test_nothing_saved_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.newest() is None
    assert store.steps() == []


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_any_flipped_bit_is_refused(store, which, position, bit):
    files = [path for path in files_of(store.path(7)) if path.stat().st_size]
    path = files[int(which * len(files))]
    flip(path, position, bit)
    try:
        with pytest.raises(InputError) as caught:
            store.newest()
        assert str(path) in str(caught.value)
        assert "no older step is intact" in str(caught.value)
    finally:
        flip(path, position, bit)
    assert store.newest().step == 7


def test_missing_added_and_strange_files_are_refused(store):
    folder = store.path(7)
    victim = folder / "state" / "_METADATA"
    content = victim.read_bytes()
    victim.unlink()
    with pytest.raises(InputError, match="is missing"):
        store.open(7)
    victim.write_bytes(content[:-1])
    with pytest.raises(InputError, match="not the one that was written"):
        store.open(7)
    victim.write_bytes(content)
    extra = folder / "state" / "extra"
    extra.write_bytes(b"")
    with pytest.raises(InputError, match="not in the manifest"):
        store.open(7)
    extra.unlink()
    extra.symlink_to(victim)
    with pytest.raises(InputError, match="not a regular file"):
        store.open(7)
    extra.unlink()
    (folder / manifest.NAME).unlink()
    with pytest.raises(InputError, match="no manifest"):
        store.open(7)


def test_manifest_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 99)
    manifest.write_manifest(tmp_path, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="another format: expected 1, found 99"):
        manifest.verify_manifest(tmp_path)


def test_every_difference_from_the_template_is_listed(store):
    template = make_tree()
    template["params"]["Dense_0"]["kernel"] = np.zeros((3, 5), np.float32)
    template["params"]["flag"] = np.zeros((), np.int32)
    template["params"]["new"] = np.zeros(2, np.float32)
    del template["noise"]
    with pytest.raises(InputError) as caught:
        store.newest().restore(template)
    assert str(caught.value) == (
        f"{store.path(7)}: checkpoint of another model: "
        "`noise` is not in this model; "
        "`params/Dense_0/kernel` is float32[3,4], not float32[3,5]; "
        "`params/flag` is bool[], not int32[]; "
        "`params/new` is missing "
        "(use the options the checkpoint was written with)"
    )


def test_damaged_newest_names_the_intact_one_and_is_put_aside_only_on_request(store):
    store.save(8, make_tree(1), {})
    store.save(9, make_tree(2), {})
    for step in (8, 9):
        flip(store.path(step) / "state" / "manifest.ocdbt", 0.5, 3)
    with pytest.raises(InputError, match="step 7 is intact: `discard_damaged`"):
        store.newest()
    assert store.steps() == [7, 8, 9]
    reasons = store.discard_damaged()
    assert len(reasons) == 2
    assert store.newest().step == 7
    assert store.path(9).with_name("step_00000009.refused").is_dir()
    store.save(9, make_tree(2), {})  # the name is free again
    flip(store.path(9) / "state" / "manifest.ocdbt", 0.5, 3)
    store.discard_damaged()
    assert store.path(9).with_name("step_00000009.refused-2").is_dir()


def test_prune_keeps_what_it_is_told_and_never_the_last_good_step_goes(store):
    store.save(8, make_tree(1), {})
    store.save(9, make_tree(2), {})
    store.prune({7, 9})
    assert store.steps() == [7, 9]
    flip(store.path(9) / "state" / "manifest.ocdbt", 0.5, 3)
    store.prune({9})
    assert store.steps() == [7, 9]
    assert not list(store.folder.glob(durable.DOOMED + "*"))


def test_steps_ignores_leftovers_and_clean_removes_them(store):
    (store.folder / f"{durable.TEMPORARY}step_00000010").mkdir()
    (store.folder / f"{durable.DOOMED}step_00000003").mkdir()
    (store.folder / "step_x").mkdir()
    assert store.steps() == [7]
    store.clean()
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"step_00000007", "step_x"}


def test_save_does_not_replace_a_step(store):
    with pytest.raises(OSError):
        store.save(7, make_tree(3), {})
    assert_same_bits(store.newest().restore(make_tree()), make_tree())


def test_open_needs_a_folder_and_a_known_step(store, tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no such step: expected one of \[7\]"):
        store.open(3)


def test_the_name_appears_after_every_byte_is_on_the_disk(tmp_path, monkeypatch):
    """The order that makes a crash harmless: fsync of all files, then the rename."""
    synced: set[Path] = set()
    at_rename: list[set[Path]] = []
    rename = durable.os.replace
    monkeypatch.setattr(durable, "sync_file", lambda path: synced.add(path))

    def record(source, target):
        if Path(target).name == "step_00000001":
            at_rename.append(set(files_of(Path(source))) - synced)
        rename(source, target)

    monkeypatch.setattr(durable.os, "replace", record)
    CheckpointStore(tmp_path / "store").save(1, make_tree(), {})
    assert at_rename == [set()]
