import pytest

from linsey.checkpoint import CheckpointStore, durable
from linsey.errors import InputError
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
