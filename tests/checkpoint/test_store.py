import shutil

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore, durable
from linsey.errors import DiskError, InputError, OptionError
from tests.checkpoint.steps import DATA, flip, make_tree


def test_nothing_saved_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.newest() is None
    assert store.steps() == []


def test_damaged_newest_names_the_intact_one_and_is_put_aside_only_on_request(store):
    store.save(8, make_tree(1), {})
    store.save(9, make_tree(2), {})
    for step in (8, 9):
        flip(store.path(step) / DATA, 0.5, 3)
    with pytest.raises(InputError, match="step 7 is intact: `discard_damaged`"):
        store.newest()
    assert store.steps() == [7, 8, 9]
    reasons = store.discard_damaged()
    assert len(reasons) == 2
    assert store.newest().step == 7
    assert store.path(9).with_name("step_00000009.refused").is_dir()
    store.save(9, make_tree(2), {})  # the name is free again
    flip(store.path(9) / DATA, 0.5, 3)
    store.discard_damaged()
    assert store.path(9).with_name("step_00000009.refused-2").is_dir()


def test_prune_keeps_what_it_is_told_and_never_the_last_good_step_goes(store):
    store.save(8, make_tree(1), {})
    store.save(9, make_tree(2), {})
    store.prune({7, 9})
    assert store.steps() == [7, 9]
    flip(store.path(9) / DATA, 0.5, 3)
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


def test_a_step_is_replaced_by_a_new_revision(store):
    for note in ("second", "third"):
        store.save(7, make_tree(1), {"note": note}, replace=True)
    assert store.path(7).name == "step_00000007+2"
    assert store.newest().metadata == {"note": "third"}
    assert store.newest().revision == 2
    assert [path.name for path in store.folder.iterdir()] == ["step_00000007+2"]
    with pytest.raises(DiskError, match=r"step_00000007\+2: cannot save: there is"):
        store.save(7, make_tree(1), {})
    store.save(np.int64(8), make_tree(2), {}, replace=True)
    assert store.path(8).name == "step_00000008"


def test_a_revision_that_a_crash_left_is_not_used_and_is_pruned(store, tmp_path):
    shutil.copytree(store.path(7), tmp_path / "old")
    store.save(7, make_tree(1), {"note": "new"}, replace=True)
    (tmp_path / "old").rename(store.folder / "step_00000007")
    assert store.steps() == [7]
    assert store.open(7).metadata == {"note": "new"}
    store.prune({7})
    assert [path.name for path in store.folder.iterdir()] == ["step_00000007+1"]


def test_a_revision_that_is_damaged_leaves_the_old_one(store, tmp_path):
    shutil.copytree(store.path(7), tmp_path / "old")
    store.save(7, make_tree(1), {"note": "new"}, replace=True)
    (tmp_path / "old").rename(store.folder / "step_00000007")
    flip(store.path(7) / DATA, 0.99, 3)
    store.prune({7})
    assert len(store.discard_damaged()) == 1
    assert store.newest().metadata == {"note": 0.1}


def test_steps_are_counted_from_zero(store):
    with pytest.raises(OptionError, match="The step is -1"):
        store.save(-1, {}, {})


@pytest.mark.parametrize("name", [
    "step_7", "step_000000008", "step_00000008+0", "step_00000008+01",
    "step_0000000\u0668",
    "xstep_00000008", "step_00000008.refused", "step_00000008 ",
])  # fmt: skip
def test_other_names_are_no_steps(store, name):
    shutil.copytree(store.path(7), store.folder / name)
    assert store.steps() == [7]
