"""The command run in this process, and a tiny problem for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from linsey.app import cli
from tests.app import served
from tests.app.runs import make_blobs


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        assert self.err.count("\n") == 1, self.err
        return self.err.strip().removeprefix("linsey: error: ")


@pytest.fixture
def linsey(capfd, monkeypatch, tmp_path):
    """Runs the command with the current folder being empty."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # --help
            code = end.code
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def blobs(tmp_path) -> Path:
    path = tmp_path / "blobs.npz"
    x, y = make_blobs()
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="session")
def table_run(tmp_path_factory) -> Path:
    """A finished run on a table with texts and missing values, beside its data."""
    return served.train_on_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="session")
def image_run(tmp_path_factory) -> Path:
    """A finished run on a folder of images, beside its data."""
    return served.train_on_images(tmp_path_factory.mktemp("photos"))
