"""Signals at any instant of the command, and streams that are closed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linsey.app import cli
from tests.app.runs import wait_until_written, written
from tests.reliability.figures import record
from tests.reliability.runs import OPTIONS, assert_one_history

pytestmark = pytest.mark.timeout(300)
LINSEY = [sys.executable, "-m", "linsey"]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*LINSEY, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, error = process.communicate()
    assert "Traceback" not in error, error
    return process.returncode, out


def go_on(out: str) -> None:
    """Do, in this process, what the command said."""
    line = out.splitlines()[-1]
    assert line.startswith("  linsey train"), out
    assert cli.main(line.split()[1:]) == 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_signal_at_the_first_line_of_output_or_in_the_imports(whole, tmp_path, number):
    data = ("--data", whole.parent / "blobs.npz")
    process = start("train", *data, *OPTIONS, "--out", tmp_path / "run")
    if number is signal.SIGTERM:
        assert process.stdout.readline().startswith("training an mlp")
    else:
        while not (tmp_path / "run" / "lock").exists():
            time.sleep(0.005)
    process.send_signal(number)
    code, out = ended(process)
    assert code == 75
    assert f"stopped by {number.name}" in out
    go_on(out)
    assert_one_history(tmp_path / "run", whole)


def check_instants(folder: Path, count: int) -> None:
    data = ("--data", folder / "blobs.npz")
    options = (*data, *OPTIONS[:-1], 1, "--epochs", 12, "--eval-every", 2)
    start_time = time.monotonic()
    assert ended(start("train", *options, "--out", folder / "whole"))[0] == 0
    duration, records = time.monotonic() - start_time, written(folder / "whole")
    instants, latest, stopped = random.Random(5), 0.0, 0
    for trial in range(count):
        out = folder / f"run{trial}"
        process = start("train", *options, "--out", out)
        if trial % 3:  # on a busy machine, seconds alone would often be too many
            wait_until_written(out, instants.randrange(1, records // 2), process)
        else:
            # The interpreter has to begin: handlers are the first thing that follows.
            time.sleep(instants.uniform(0.3, duration))
        number = NUMBERS[trial % 4]
        process.send_signal(number)
        asked = time.monotonic()
        code, text = ended(process)
        latest = max(
            latest, 0 if number is signal.SIGUSR1 else time.monotonic() - asked
        )
        assert code == (0 if number is signal.SIGUSR1 else 75) or "report  " in text
        if code == 75:
            stopped += 1
            go_on(text)
        assert_one_history(out, folder / "whole")
    assert stopped >= count // 3  # and not too late all the time
    record("signals at random instants", f"{count} of {count}; {latest:.1f} s at most")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_signals_at_12_random_instants(whole, tmp_path):
    (tmp_path / "blobs.npz").write_bytes((whole.parent / "blobs.npz").read_bytes())
    check_instants(tmp_path, 12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_signals_at_50_random_instants(whole, tmp_path):
    (tmp_path / "blobs.npz").write_bytes((whole.parent / "blobs.npz").read_bytes())
    check_instants(tmp_path, 50)


SLOW = """
import sys, time
from linsey.app import cli, steps
steps.train_step = lambda *_: (print("in the step", flush=True), time.sleep(60))
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_second_signal_ends_the_process_at_once(whole, tmp_path):
    data = ("--data", whole.parent / "blobs.npz")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "train", *map(str, (*data, *OPTIONS))],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert any("in the step" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None  # it waits for the step, to save after it
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert time.monotonic() - asked < 1


def test_closed_streams(whole):
    """`linsey eval >&-`: nothing to write to, and no file takes their numbers."""
    command = f"{' '.join(LINSEY)} eval {whole} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], timeout=120).returncode == 0


@pytest.mark.slow
def test_run_goes_on_when_nobody_reads_its_output(whole, tmp_path):
    data = ("--data", whole.parent / "blobs.npz")
    process = start("train", *data, *OPTIONS, "--out", tmp_path / "run")
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert_one_history(tmp_path / "run", whole)


# Takes its standard input, a terminal, as the one that controls it.
IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "linsey", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_run_outlives_its_terminal_long_enough_to_save(whole, tmp_path):
    """A terminal that hangs up: SIGHUP, and every write to it fails from then on."""
    data = ("--data", whole.parent / "blobs.npz")
    arguments = ("train", *data, *OPTIONS, "--epochs", 300, "--out", tmp_path / "run")
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *map(str, arguments)],
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    while b"step " not in seen:
        seen += os.read(screen, 1000)
    os.close(screen)
    assert process.wait() == 75
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
