"""Killed at any instant and resumed, a run ends with the bits of one that was not."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linsey.app.run_folder import CHECKPOINTS
from linsey.checkpoint import durable
from linsey.checkpoint.manifest import file_name
from tests.app.runs import SMALL, assert_same_run, final
from tests.reliability.figures import record
from tests.reliability.runs import assert_one_history


class Killed(BaseException):
    """Stops everything where it is, as a kill does."""


@pytest.mark.timeout(120)
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


# Every step is saved, so that half of the kills can hit a save.
OPTIONS = ["--model", "mlp", "--width", "8", "--seed", "3", "--checkpoint-every", "1",
           "--eval-every", "10", "--epochs"]  # fmt: skip


def start(options: list[str], out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "linsey", "train", "--resume", "--out", str(out)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_once(options: list[str], out: Path, delay: float, in_save: bool) -> bool:
    """Kill a run some time after it began to train; False if it ended before."""
    log, folder = out / "metrics.jsonl", out / CHECKPOINTS
    before = log.stat().st_size if log.exists() else 0
    process = start(options, out)
    while process.poll() is None:
        if log.exists() and log.stat().st_size > before:
            break
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    while in_save and process.poll() is None:
        names = os.listdir(folder) if folder.is_dir() else []
        if any(name.startswith(durable.TEMPORARY) for name in names):
            break
    process.kill()
    _, error = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), error.decode()
    return process.returncode != 0


def finish(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def check_kills(folder: Path, kills: int) -> None:
    """Kill a run again and again, and compare its end with that of another."""
    options, run = [*OPTIONS, str(kills + 5)], folder / "run"
    finish(start(options, folder / "whole"))
    instants, saved = random.Random(0), -1
    for number in range(kills):
        assert kill_once(options, run, instants.uniform(0, 0.4), number % 2 == 0)
        newest = final(run).step  # it loads, and what was saved before is not lost
        assert newest >= saved
        saved = newest
    finish(start(options, run))
    assert_one_history(run, folder / "whole")
    names = [path.name for path in run.rglob("*")]
    assert not [n for n in names if n.startswith((durable.TEMPORARY, durable.DOOMED))]
    row = "the command is killed at random instants, half of them inside of saves"
    record(row, f"{kills} of {kills}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_storm_of_30(tmp_path):
    check_kills(tmp_path, kills=30)


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
def test_kill_storm_of_200(tmp_path):
    check_kills(tmp_path, kills=200)
