import os

import pytest

from linsey.checkpoint import durable
from linsey.errors import DiskError


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    durable.write_file(path, b"old")

    def die(*_):
        raise Killed

    monkeypatch.setattr(os, call, die)
    with pytest.raises(Killed):
        durable.write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    durable.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_remove_takes_the_name_away_before_the_content(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")

    def die(*_):
        raise Killed

    monkeypatch.setattr(durable, "_sync", die)
    with pytest.raises(Killed):
        durable.remove_folder(folder)
    monkeypatch.undo()
    assert not folder.exists()
    durable.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_folders_are_created_with_their_parents_and_refused_below_a_file(tmp_path):
    durable.make_folder(tmp_path / "a" / "b")
    durable.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DiskError, match=r"cannot create: .* \(ENOTDIR\)"):
            durable.make_folder(path)


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"untouched")
    link.symlink_to(target)
    durable.write_file(link, b"new")
    assert (target.read_bytes(), link.read_bytes()) == (b"untouched", b"new")


def test_syncs_do_without_threads(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(durable, "ThreadPoolExecutor", refuse)
    durable.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
