"""The command run in this process, and runs that others are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linsey.app import cli, report
from tests.app.conftest import blobs, linsey  # noqa: F401
from tests.app.runs import make_blobs
from tests.reliability.runs import OPTIONS


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A run of 15 steps that nothing disturbed; its data lie beside it."""
    folder = tmp_path_factory.mktemp("whole")
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    options = ("--data", folder / "blobs.npz", *OPTIONS, "--out", folder / "run")
    assert cli.main(["train", *map(str, options)]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Curves take most of the time of a small run, and no test here looks at them."""
    monkeypatch.setattr(report, "drawn", lambda *arguments: "")
