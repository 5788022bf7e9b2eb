"""Killed at any instant and resumed, a run ends with the bits of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linsey.checkpoint import durable
from linsey.checkpoint.manifest import file_name
from tests.app.runs import SMALL, arrays, assert_same_run

START_SECONDS = 120


class Killed(BaseException):
    """Stops everything where it is, as a kill does."""


def test_kill_at_any_kind_of_write(linsey, blobs, tmp_path, monkeypatch):
    """Simulated: each run dies before a write to the disk that the next one repeats."""
    options = ("train", "--data", blobs, *SMALL)
    assert linsey(*options, "--out", "whole").code == 0
    deadly = ""

    def mortal(function):
        def call(*args):
            if deadly and " ".join(map(str, args)).endswith(deadly):
                raise Killed
            return function(*args)

        return call

    for module, name in ((durable, "_sync"), (os, "rename"), (os, "replace")):
        monkeypatch.setattr(module, name, mortal(getattr(module, name)))
    for deadly in (
        "run/config.toml",  # the options
        "/checkpoints/step_00000000",  # the first commit
        f"/.tmp-step_00000004/{file_name(0, 1)}",  # in the middle of a save
        "/checkpoints/step_00000008",  # the last commit
        "/.gone-step_00000000",  # the removal of an old step
    ):
        with pytest.raises(Killed):
            linsey(*options, "--resume", "--out", "run")
    deadly = ""
    assert linsey(*options, "--resume", "--out", "run").code == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def start(options: list[str], out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "linsey", "train", "--resume", "--out", str(out)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_once(options: list[str], out: Path, delay: float) -> bool:
    """Kills a run some time after it began to train; False if it ended before."""
    log = out / "metrics.jsonl"
    before = log.stat().st_size if log.exists() else 0
    process = start(options, out)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size > before:
            break
        time.sleep(0.005)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
    _, error = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), error.decode()
    return process.returncode != 0


def finish(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def check_kills(options: list[str], folder: Path, kills: int, longest: float) -> int:
    """Kills a run at random instants and compares its end with that of another."""
    whole = start(options, folder / "whole")
    instants = random.Random(0)
    killed = 0
    for _ in range(kills):
        killed += kill_once(options, folder / "run", instants.uniform(0, longest))
    finish(start(options, folder / "run"))
    finish(whole)
    assert_same_run(folder / "run", folder / "whole")
    return killed


def test_kill_of_the_process(tmp_path):
    """Real kills, with a save after every sixth step."""
    options = ["--model", "mlp", "--width", "8", "--epochs", "3", "--seed", "3",
               "--checkpoint-every", "6", "--eval-every", "22"]  # fmt: skip
    assert check_kills(options, tmp_path, kills=2, longest=3.0) >= 1
    assert arrays(tmp_path / "run")["step"] == 3 * 22


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_20_random_instants(tmp_path):
    """The default model, killed while it compiles, trains, evaluates and saves."""
    options = ["--epochs", "12", "--checkpoint-every", "5"]
    assert check_kills(options, tmp_path, kills=20, longest=6.0) >= 15
    assert arrays(tmp_path / "run")["step"] == 12 * 22
