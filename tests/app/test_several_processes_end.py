"""Several processes that train are stopped or stuck, whatever they are doing."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest

from linsey.app import metrics_log
from linsey.checkpoint import CheckpointStore
from tests.app.images import make_photos
from tests.app.runs import (
    SMALL,
    assert_same_run,
    evaluations,
    wait_until_written,
    written,
)
from tests.app.several import data as data
from tests.app.several import patience as patience
from tests.app.several import said, start, train
from tests.distributed.jobs import Jobs, Running, free_port
from tests.distributed.jobs import jobs as jobs
from tests.reliability.figures import record

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc"),
    pytest.mark.slow,
]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
TIMEOUT = 4


# --- 12: signals at any instant -------------------------------------------------------


def check_instants(jobs: Jobs, data: tuple, folder: Path, trials: int) -> None:
    """Signals to any rank while it imports, compiles, trains, evaluates or saves."""
    options = (*data, *SMALL, "--dropout", 0.5, "--epochs", 12, "--eval-every", 2,
               "--checkpoint-every", 1)  # fmt: skip
    began, whole = time.monotonic(), folder / "whole"
    train(jobs, 2, whole, *options)
    duration, records = time.monotonic() - began, written(whole)
    instants, latest, stopped = random.Random(12), 0.0, 0
    for trial in range(trials):
        out, number = folder / f"run{trial}", NUMBERS[trial % 4]
        running = start(jobs, 2, out, *options)
        if trial % 3:  # on a busy machine, seconds alone would often be too many
            records_before = instants.randrange(1, records // 2)
            wait_until_written(out, records_before, running.processes[0])
        else:
            # The interpreters have to begin: handlers are the first thing that follows.
            time.sleep(instants.uniform(0.7, duration))
        running.processes[trial // 4 % 2].send_signal(number)
        asked = time.monotonic()
        ended = running.end()
        if 2 in ended.codes:  # one was gone before the other one had met it
            assert sorted(ended.codes) == [2, 75], ended.texts
            assert any("did not" in text for text in ended.texts), ended.texts
        elif ended.codes != [0, 0]:
            assert ended.codes == [75, 75], ended.texts
            assert number is not signal.SIGUSR1, ended.texts
            latest, stopped = max(latest, time.monotonic() - asked), stopped + 1
        if ended.codes != [0, 0]:
            is_begun = (out / "config.toml").exists()
            train(jobs, 2, out, *options, *["--resume"] * is_begun)
        assert_same_run(whole, out)
    assert stopped >= trials // 3  # and not too late all the time
    figure = f"{trials} of {trials}; {latest:.1f} s at most"
    record("signals to one of two processes at random instants", figure)


def test_signals_at_12_instants(jobs, data, tmp_path):
    check_instants(jobs, data, tmp_path, 12)


# Rank 1 fails while JAX connects the processes, in a way that the command knows.
UNCONNECTED = """
import os, signal, sys
from linsey.app import cli
from linsey.distributed import start

connect = start._connect_gloo

def fail():
    if sys.argv[-1] == "1":
        if sys.argv[1] == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(28, "No space left on device", "/dev/shm")
    connect()

start._connect_gloo = fail
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("what", "code"), [("SIGTERM", 75), ("OSError", 6)])
def test_a_rank_that_ends_while_all_connect_ends_all(jobs, data, tmp_path, what, code):
    """Though the command catches what was raised, and would end in good order."""
    ended = with_program(jobs, tmp_path, UNCONNECTED, what, *data, *SMALL).end()
    assert ended.codes == [code, code], ended.texts
    assert ended.spread < 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_signals_at_50_instants(jobs, data, tmp_path):
    check_instants(jobs, data, tmp_path, 50)


# --- 12 and 15: in a place that is known ----------------------------------------------

# Rank 1 stays where the second word says, from some call on.
STUCK = """
import sys, time
from linsey.app import cli, steps, trainer

_, where, *arguments = sys.argv
rank, calls = int(arguments[-1]), []

def slowly(function, after):
    def call(*args, **kwargs):
        calls.append(1)
        if rank == 1 and len(calls) > after:
            print("stuck in", where, flush=True)
            time.sleep(600)
        return function(*args, **kwargs)
    return call

if where == "training":
    steps.train_step = slowly(steps.train_step, 3)
elif where == "evaluation":
    steps.eval_step = slowly(steps.eval_step, 5)
elif where == "saving":
    trainer.Trainer._tree = slowly(trainer.Trainer._tree, 3)
else:
    load = trainer.Trainer._loader
    def loader(self):
        found = load(self)
        found.take = slowly(found.take, 3)
        return found
    trainer.Trainer._loader = loader
sys.exit(cli.main(arguments))
"""
PLACES = ("training", "data loading", "evaluation", "saving")


def stuck(jobs: Jobs, folder: Path, where: str, *options: object) -> Running:
    """A job whose rank 1 does not go on."""
    return with_program(jobs, folder, STUCK, where, *options)


def with_program(
    jobs: Jobs, folder: Path, text: str, what: str, *options: object
) -> Running:
    """A job of two that run a program, with a word and the options of the command."""
    program = folder / "program.py"
    program.write_text(text)
    job = ["train", "--out", folder / "run", "--coordinator",
           f"127.0.0.1:{free_port()}", "--processes", 2, *options]  # fmt: skip
    commands = [
        [sys.executable, program, what, *job, "--rank", rank] for rank in (0, 1)
    ]
    return jobs.start(*([str(part) for part in one] for one in commands))


@pytest.mark.parametrize("where", PLACES)
def test_a_stuck_rank_ends_all(jobs, data, tmp_path, where):
    options = (*data, *SMALL, "--epochs", 30, "--eval-every", 2,
               "--checkpoint-every", 3, "--step-timeout", TIMEOUT)  # fmt: skip
    running = stuck(jobs, tmp_path, where, *options)
    running.wait_for(f"stuck in {where}", 1)
    began = time.monotonic()
    ended = running.end()
    assert time.monotonic() - began < TIMEOUT + 5
    assert 0 not in ended.codes
    assert "--- stack of rank 0" in ended.texts[0]
    assert "--- stack of rank 1" in ended.texts[0]
    assert "in call" in ended.texts[0]
    for text in ended.texts:
        assert "ends: rank 1 gave no sign of life for" in text, text
        assert f", in {where}" in text, text


def test_a_stopped_rank_ends_all(jobs, data, tmp_path):
    """At any instant, whatever it was that it did."""
    options = (*data, *SMALL, "--epochs", 3000, "--eval-every", 2,
               "--checkpoint-every", 5, "--step-timeout", TIMEOUT)  # fmt: skip
    instants, latest = random.Random(15), 0.0
    for trial in range(4):
        out, victim = tmp_path / f"run{trial}", trial % 2
        running = start(jobs, 2, out, *options)
        running.wait_for("compiling the training step")
        while len(metrics_log.read(out / "metrics.jsonl")) < 5:
            time.sleep(0.005)
        time.sleep(instants.uniform(0, 1))
        running.processes[victim].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        ended = running.end()
        latest = max(latest, time.monotonic() - began)
        assert 0 not in ended.codes
        for text in (said(text) for text in ended.texts):
            assert f"ends: rank {victim} gave no sign of life for" in text, text
            assert "stopped by a signal" in text, text
    assert latest < TIMEOUT + 5
    figure = f"4 of 4; gone {latest - TIMEOUT:.1f} s after the limit at most"
    record("one of two processes is stopped", figure)


def test_a_second_signal_ends_all_at_once(jobs, data, tmp_path):
    options = (*data, *SMALL, "--epochs", 30, "--eval-every", 2,
               "--step-timeout", 60)  # fmt: skip
    running = stuck(jobs, tmp_path, "training", *options)
    running.wait_for("stuck in training", 1)
    running.processes[1].send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert running.processes[1].poll() is None  # it waits for the step, to save
    running.processes[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    ended = running.end()
    assert ended.at[1] + running.began - asked < 1
    assert ended.codes[1] == -signal.SIGTERM
    assert time.monotonic() - asked < 5
    assert "rank 0 ends: rank 1 was killed" in ended.texts[0], ended.texts


# --- 14: a rank cannot read its data --------------------------------------------------

# To the victim, every photo is a broken one as soon as there is one.
BREAKING = """
import sys
from pathlib import Path
from linsey.app import cli, image_array

_, victim, *arguments = sys.argv
broken = Path(arguments[arguments.index("--data") + 1]).with_name("broken.jpg")
decode = image_array.decode

def decode_broken(path, size):
    return decode(broken if broken.exists() else path, size)

if arguments[-1] == victim:
    image_array.decode = decode_broken
sys.exit(cli.main(arguments))
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_cannot_read_its_data_ends_all(jobs, tmp_path, victim):
    photos = make_photos(tmp_path / "photos", 40)
    options = ("--data", photos, "--workers", 0, "--image-size", 6,
               "--image-memory", 0, "--model", "mlp", "--width", 2, "--depth", 1,
               "--epochs", 3000, "--batch-size", 8, "--log-every", 1,
               "--checkpoint-every", 10**6)  # fmt: skip
    running = with_program(jobs, tmp_path, BREAKING, str(victim), *options)
    wait_until_written(tmp_path / "run", 4, running.processes[0])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    ended = running.end()
    assert ended.codes == [2, 2], ended.texts
    assert ended.spread < 5
    assert f"rank {1 - victim} ends: rank {victim} failed: " in ended.texts[1 - victim]
    last = ended.texts[victim].splitlines()[-1]
    assert last.startswith(f"linsey: error: {tmp_path / 'broken.jpg'}: "), ended.texts
    assert "not a readable image" in last
    # The others wait for it in a collective, so that there is no save before the end:
    # there are only those that follow evaluations.
    newest = CheckpointStore(tmp_path / "run" / "checkpoints").newest()
    evaluated = [step for step, *_ in evaluations(tmp_path / "run")]
    assert newest is None or newest.step in (0, *evaluated)
