"""Jobs of `linsey train` of several processes, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.app.runs import make_blobs
from tests.distributed.jobs import Ended, Jobs, Running, free_port


def start(jobs: Jobs, processes: int, out: Path, *options: object) -> Running:
    """Start a job of `linsey train`, of one process as well."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "linsey", "train", "--out", out, *options]
    job = ["--coordinator", address, "--processes", processes]
    commands = [[*command, *job, "--rank", rank] for rank in range(processes)]
    return jobs.start(*([str(part) for part in one] for one in commands))


def train(jobs: Jobs, processes: int, out: Path, *options: object) -> Ended:
    ended = start(jobs, processes, out, *options).end()
    assert ended.codes == [0] * processes, ended.texts
    return ended


def said(text: str) -> str:
    """What a process printed, without what Gloo says of its connections."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[Gloo]"))


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Convolutions take long to compile where others use the cores."""
    monkeypatch.setattr("tests.distributed.jobs.SECONDS", 300)


@pytest.fixture
def data(tmp_path) -> tuple[str, Path]:
    x, y = make_blobs(count=81)
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    return "--data", tmp_path / "blobs.npz"
