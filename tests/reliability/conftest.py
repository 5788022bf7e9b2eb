"""What linsey promises about files, tested by what destroys them.

Each test states how many trials it makes and that all of them have to pass; the fast
suite makes a part of them, `make test-all` all, `make soak` those that take many
minutes. A test that hangs fails: each has a time limit.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linsey.app import cli, curves
from tests.app.conftest import blobs, linsey  # noqa: F401
from tests.app.runs import make_blobs
from tests.reliability.runs import OPTIONS


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a disk: a sync costs nothing there."""
    disk = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = tempfile.mkdtemp(prefix="linsey-", dir=disk)
    yield Path(folder)
    shutil.rmtree(folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `effort` once with 1 trial in some, and once with all."""
    if "effort" in metafunc.fixturenames:
        every = pytest.param(1.0, id="all", marks=pytest.mark.slow)
        metafunc.parametrize("effort", [pytest.param(0.1, id="some"), every])


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
def terminal_may_hang_up() -> Iterator[None]:
    """Under `nohup` the tests ignore SIGHUP, and so would what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Curves take most of the time of a small run, and no test here looks at them."""
    monkeypatch.setattr(curves, "drawn", lambda *arguments, **options: "")
