"""The whole text of what training, files and summaries refuse, provoked by programs."""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import AbstractMesh

import linsey.linen as nn
from linsey import checkpoint, config, errors, io
from linsey.metrics.tensorboard import SummaryWriter
from linsey.training import checkpoints, state_sharding

TEXTS = dict(
    re.findall(
        r"# (\w+)\n(.*?)\n(?:\n|\Z)",
        Path(__file__).with_name("error_texts.txt").read_text(),
        re.S,
    )
)
TREE = {"w": np.zeros(2)}


def older_step(folder, monkeypatch):
    with config.temp_flip_flag("use_orbax_checkpointing", False):
        checkpoints.save_checkpoint(folder, TREE, 5)
        checkpoints.save_checkpoint(folder, TREE, 4)


def step_that_is_not_there(folder, monkeypatch):
    with config.temp_flip_flag("use_orbax_checkpointing", False):
        checkpoints.save_checkpoint(folder, TREE, 5)
        checkpoints.restore_checkpoint(folder, TREE, step=3)


def checkpoint_without_orbax(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    golden = Path(__file__).parents[1] / "checkpoint" / "golden_run.tar.gz"
    with tarfile.open(golden) as archive:
        archive.extractall(folder, filter="data")
    checkpoint.CheckpointStore(folder / "run" / "checkpoints").newest()


def damaged_step(folder, monkeypatch):
    store = checkpoint.CheckpointStore(folder)
    store.save(1, TREE, {})
    store.save(2, TREE, {})
    (store.path(2) / "manifest.json").unlink()
    store.newest()


def file_that_exists(folder, monkeypatch):
    (folder / "a").write_text("a")
    io.copy(folder / "a", folder / "a")


def unknown_mode(folder, monkeypatch):
    io.set_mode("local")


def remote_without_tensorflow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    io.set_mode(io.BackendMode.TF)


def sound_without_channels(folder, monkeypatch):
    pytest.importorskip("tensorboardX")
    writer = SummaryWriter(folder)
    try:
        writer.audio("sound", np.zeros(8), 1)
    finally:
        writer.close()


def divided(names, **options):
    box = nn.with_partitioning(nn.initializers.ones, names)(None, (10, 8))
    state_sharding({"kernel": box}, AbstractMesh((4,), ("data",)), **options)


def axis_that_the_mesh_lacks(folder, monkeypatch):
    divided(("data", None), axis="fsdp")


def name_that_is_no_axis(folder, monkeypatch):
    divided((None, "model"))


def uneven_division(folder, monkeypatch):
    divided(("data", None))


PROGRAMS = {
    older_step: errors.InvalidCheckpointError,
    step_that_is_not_there: errors.OptionError,
    checkpoint_without_orbax: ImportError,
    damaged_step: errors.InputError,
    file_that_exists: errors.AlreadyExistsError,
    unknown_mode: errors.OptionError,
    remote_without_tensorflow: ImportError,
    sound_without_channels: errors.ShapeError,
    axis_that_the_mesh_lacks: errors.OptionError,
    name_that_is_no_axis: errors.OptionError,
    uneven_division: errors.ShapeError,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboardX")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_full_text(program, tmp_path, monkeypatch):
    with pytest.raises(PROGRAMS[program]) as caught:
        program(tmp_path, monkeypatch)
    assert isinstance(caught.value, errors.LinseyError)
    text = str(caught.value).replace(str(tmp_path), "FOLDER")
    assert text == TEXTS[program.__name__]


def test_every_text_has_its_program():
    assert {program.__name__ for program in PROGRAMS} == TEXTS.keys()
