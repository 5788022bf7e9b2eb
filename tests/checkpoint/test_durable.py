import os

import pytest

from linsey.checkpoint import durable


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
