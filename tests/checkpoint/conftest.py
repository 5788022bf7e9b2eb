"""A store with one step in it."""

import shutil
from pathlib import Path

import pytest

from linsey.checkpoint import CheckpointStore
from tests.checkpoint.steps import make_tree


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
