"""What was documented under `linsey.training` is still imported from there."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import pytest

from linsey import checkpoint, errors

NAMES = {
    "checkpoint_store.CheckpointStore": checkpoint.CheckpointStore,
    "verified_checkpoint.ArraySpec": checkpoint.ArraySpec,
    "verified_checkpoint.VerifiedCheckpoint": checkpoint.VerifiedCheckpoint,
    "verified_checkpoint.flatten": checkpoint.flatten,
    "verified_checkpoint.open_checkpoint": checkpoint.open_checkpoint,
    "verified_checkpoint.write_checkpoint": checkpoint.write_checkpoint,
    "manifest.NAME": checkpoint.manifest.NAME,
    "durable.write_file": checkpoint.durable.write_file,
    "input_error.InputError": errors.InputError,
}


@pytest.mark.parametrize("name", NAMES)
def test_old_path_leads_to_the_same_object(name):
    module, _, attribute = name.partition(".")
    found = importlib.import_module(f"linsey.training.{module}")
    assert getattr(found, attribute) is NAMES[name]


def test_old_paths_lead_there_in_a_new_process():
    program = (
        "from linsey.training.input_error import InputError\n"
        "from linsey.training.checkpoint_store import CheckpointStore\n"
        "import linsey.training.durable\n"
        "print(CheckpointStore.__module__, InputError.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["linsey.checkpoint.store", "linsey.errors.files"]


def test_pickles_that_name_an_old_path_are_read():
    pickled = b"clinsey.training.verified_checkpoint\nArraySpec\n((I3\ntVint8\ntR."
    assert pickle.loads(pickled) == checkpoint.ArraySpec((3,), "int8")
