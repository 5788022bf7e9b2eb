"""What saving in place of Flax adds: whole files, and nothing unfinished is listed."""

from __future__ import annotations

import os
import shutil
import types

import numpy as np
import pytest

from linsey import config, io
from linsey.training import checkpoints

TREE = {"w": np.arange(3.0)}


@pytest.fixture(autouse=True)
def bytes_only():
    with config.temp_flip_flag("use_orbax_checkpointing", False):
        yield


class Killed(BaseException):
    """Stops everything where it is, as a kill does."""


@pytest.mark.parametrize("prefix", ["checkpoint_", ""])
def test_interrupted_save_leaves_the_checkpoints_that_were_there(
    tmp_path, monkeypatch, prefix
):
    checkpoints.save_checkpoint(tmp_path, TREE, 1, prefix=prefix)

    def die(*_):
        raise Killed

    for call in ("replace", "unlink"):  # the dead clean nothing up
        monkeypatch.setattr(os, call, die)
    with pytest.raises(Killed):
        checkpoints.save_checkpoint(tmp_path, {"w": np.ones(3)}, 2, prefix=prefix)
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2  # something unfinished is there
    assert checkpoints.available_steps(tmp_path, prefix) == [1]
    found = checkpoints.restore_checkpoint(tmp_path, None, prefix=prefix)
    np.testing.assert_array_equal(found["w"], TREE["w"])
    checkpoints.save_checkpoint(tmp_path, TREE, 2, prefix=prefix)
    assert os.listdir(tmp_path) == [f"{prefix}2"]


def test_remote_folders_are_written_by_their_file_system(tmp_path, monkeypatch):
    """A stand-in for `tensorflow.io.gfile`, which records what it renames."""
    renamed = []

    def rename(source, target, overwrite):
        assert overwrite
        renamed.append((os.path.basename(source), os.path.basename(target)))
        os.replace(source, target)

    gfile = types.SimpleNamespace(
        GFile=open, copy=shutil.copy, exists=os.path.exists, isdir=os.path.isdir,
        listdir=os.listdir, makedirs=lambda path: os.makedirs(path, exist_ok=True),
        remove=os.remove, rename=rename, rmtree=shutil.rmtree,
    )  # fmt: skip
    monkeypatch.setattr(io, "_gfile", lambda: gfile)
    with io.override_mode(io.BackendMode.TF):
        checkpoints.save_checkpoint(tmp_path / "run", TREE, 1)
        found = checkpoints.restore_checkpoint(tmp_path / "run", TREE)
    assert renamed == [("checkpoint_tmp", "checkpoint_1")]
    np.testing.assert_array_equal(found["w"], TREE["w"])
