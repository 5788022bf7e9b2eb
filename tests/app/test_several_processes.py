"""One model trained by several processes: what they compute, write and say."""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from linsey.app import metrics_log
from linsey.app.run_folder import RunFolder
from tests.app.runs import (
    SMALL,
    arrays,
    assert_same_run,
    evaluations,
    final,
    make_blobs,
)
from tests.distributed.jobs import Ended, Jobs, Running, free_port
from tests.distributed.jobs import jobs as jobs
from tests.reliability.figures import record

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc"),
]
slow = pytest.mark.slow
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
# 81 examples: 65 to train on, 16 to test on; with all that draws numbers or adds up.
ALL = (*SMALL, "--dropout", 0.5, "--ema", 0.9, "--accumulate", 2, "--norm", "batch")
IMAGES = ("--data", "digits", "--model", "cnn", "--width", 4, "--epochs", 1,
          "--augment", "flip,crop,color", "--dropout", 0.3, "--batch-size", 24,
          "--checkpoint-every", 9)  # fmt: skip


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


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Arrays are equal, relative to the largest number in each; so are the scores."""
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name in first:
        size = np.abs(first[name].astype(np.float64)).max()
        np.testing.assert_allclose(
            second[name], first[name], rtol=0, atol=tolerance * size, err_msg=name
        )
    np.testing.assert_allclose(evaluations(other), evaluations(one), rtol=tolerance)


@pytest.fixture
def data(tmp_path) -> tuple[str, Path]:
    x, y = make_blobs(count=81)
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    return "--data", tmp_path / "blobs.npz"


def test_two_processes_train_and_write_as_one_does(jobs, linsey, data, tmp_path):
    two = start(jobs, 2, tmp_path / "two", *data, *ALL)
    assert linsey("train", *data, *ALL, "--out", "one").code == 0
    ended = two.end()
    assert ended.codes == [0, 0], ended.texts
    assert_close(tmp_path / "one", tmp_path / "two")
    assert said(ended.texts[1]) == ""
    assert "test accuracy" in ended.texts[0]
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "two").iterdir()}
    files = {path.name for path in final(tmp_path / "two").folder.iterdir()}
    shares = {f"state-0000{rank}-of-00002.safetensors" for rank in (0, 1)}
    assert files == {"manifest.json", *shares}
    environment = final(tmp_path / "two").metadata["environment"]
    assert (environment["devices"], environment["processes"]) == (2, 2)
    # One of them goes on with what both wrote, and refuses other data.
    again = ("train", "--resume", "--out", "two", "--early-stopping", 1)
    assert linsey(*again, *data, *ALL).code == 0
