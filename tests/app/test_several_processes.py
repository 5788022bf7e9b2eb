"""One model trained by several processes: what they compute, write and say."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from linsey.app import metrics_log, run_folder
from linsey.app.config import TrainConfig
from linsey.app.run_folder import RunFolder
from tests.app.runs import (
    SMALL,
    arrays,
    assert_same_run,
    evaluations,
    final,
    wait_until_written,
    written,
)
from tests.app.several import data as data
from tests.app.several import patience as patience
from tests.app.several import said, start, train
from tests.distributed.jobs import Jobs, free_port, with_mark
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
IMAGES = ("--data", "digits", "--model", "cnn", "--width", 4, "--depth", 1,
          "--epochs", 1, "--augment", "flip,crop,color", "--dropout", 0.3,
          "--batch-size", 24, "--eval-every", 20)  # fmt: skip


def half(run: Path, name: str) -> Path:
    """A copy of a run that has only the older half of its checkpoints."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    store = RunFolder(copy).checkpoints
    store.prune(store.steps()[: len(store.steps()) // 2])
    return copy


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


def test_two_processes_train_and_write_as_one_does(jobs, linsey, data, tmp_path):
    options = (*data, *SMALL, "--dropout", 0.5)
    two = start(jobs, 2, tmp_path / "two", *options)
    assert linsey("train", *options, "--out", "one").code == 0
    ended = two.end()
    assert ended.codes == [0, 0], ended.texts
    assert_close(tmp_path / "one", tmp_path / "two")
    assert "test accuracy" in ended.texts[0]
    assert said(ended.texts[1]) == ""
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "two").iterdir()}
    step = final(tmp_path / "two")
    shares = {f"state-0000{rank}-of-00002.safetensors" for rank in (0, 1)}
    assert {path.name for path in step.folder.iterdir()} == {"manifest.json", *shares}
    environment = step.metadata["environment"]
    assert (environment["devices"], environment["processes"]) == (2, 2)


# --- 9: the same bits elsewhere -----------------------------------------------------


@slow
@pytest.mark.parametrize("options", [ALL, IMAGES], ids=["mlp", "cnn"])
def test_two_processes_give_the_bits_of_two_devices(
    jobs, data, tmp_path, monkeypatch, options
):
    """So they do where a run goes on with the other number of processes."""
    options = options if "--data" in options else (*data, *options)
    # XLA has at least as many threads as devices in a process; bits depend on them.
    options = (*options, "--threads", 2, "--checkpoint-every", 4, "--keep", 99)
    two, one = tmp_path / "two", tmp_path / "one"
    train(jobs, 2, two, *options)
    monkeypatch.setenv("XLA_FLAGS", TWO_DEVICES)
    train(jobs, 1, one, *options)
    train(jobs, 1, half(two, "two-one"), *options, "--resume")
    monkeypatch.delenv("XLA_FLAGS")
    train(jobs, 2, half(one, "one-two"), *options, "--resume")
    for other in ("two", "two-one", "one-two"):
        assert_same_run(one, tmp_path / other)
    record("two processes and one of two devices, and back", "the same bits")


@slow
@pytest.mark.parametrize("processes", [2, 3])
def test_60_steps_of_processes_are_those_of_one(
    jobs, data, linsey, tmp_path, processes
):
    options = (*ALL, "--batch-size", 12, "--epochs", 12)
    train(jobs, processes, tmp_path / "several", *data, *options)
    assert linsey("train", *data, *options, "--out", "one").code == 0
    assert final(tmp_path / "one").step == 60
    assert_close(tmp_path / "one", tmp_path / "several")
    if processes == 3:
        record("60 steps of several processes and of one", "equal to 1e-5")


@slow
def test_divided_parameters_are_written_by_their_owners(
    jobs, data, tmp_path, monkeypatch
):
    options = (*data, *SMALL, "--width", 64, "--depth", 2, "--threads", 2,
               "--checkpoint-every", 4, "--keep", 9)  # fmt: skip
    two, whole = tmp_path / "two", tmp_path / "whole"
    train(jobs, 2, two, *options, "--shard-params")
    train(jobs, 2, whole, *options)
    assert_close(whole, two)
    manifest = json.loads((final(two).folder / "manifest.json").read_text())
    for path in ("params/Dense_1/kernel", "opt_state/1/0/trace/Dense_1/kernel"):
        files = [piece["file"][:11] for piece in manifest["arrays"][path]["pieces"]]
        assert files == ["state-00000", "state-00001"]
    # Of both there is about a half in each file.
    sizes = [entry["bytes"] for _, entry in sorted(manifest["files"].items())]
    assert 0.8 < sizes[1] / sizes[0] < 1
    train(jobs, 2, half(whole, "divided"), *options, "--resume", "--shard-params")
    monkeypatch.setenv("XLA_FLAGS", TWO_DEVICES)
    train(jobs, 1, half(two, "one"), *options, "--resume", "--shard-params")
    train(jobs, 1, half(two, "undivided"), *options, "--resume")
    for name in ("divided", "one", "undivided"):
        assert_close(whole, tmp_path / name)
    assert_same_run(two, tmp_path / "one")


# --- 17: uneven data ----------------------------------------------------------------

_UNEVEN = "tests.app.uneven"


@slow
def test_each_example_counts_once_whatever_their_number(jobs, tmp_path):
    found = {}
    for processes in (1, 2, 3):
        address = f"127.0.0.1:{free_port()}"
        names = [tmp_path / f"{processes}-{rank}.json" for rank in range(processes)]
        ended = jobs.start(
            *(
                [sys.executable, "-m", _UNEVEN, address, str(processes), str(rank),
                 str(name)]
                for rank, name in enumerate(names)
            )
        ).end()  # fmt: skip
        assert ended.codes == [0] * processes, ended.texts
        first, *others = (json.loads(name.read_text()) for name in names)
        assert all(other == first for other in others)
        found[processes] = first
    for processes in (2, 3):
        for count, one in found[1].items():
            several = found[processes][count]
            assert several["count"] == int(count)
            assert several["confusion"] == one["confusion"]
            assert several["loss"] == pytest.approx(one["loss"], rel=1e-6)
            assert several["rows"] == list(range(int(count)))
    figure = f"{len(found[1])} numbers of examples, 1 to 3 processes"
    record("any number of examples in several processes", figure)


# --- 1 and 12: killed and stopped at any instant ------------------------------------


def check_kills(jobs: Jobs, data: tuple, folder: Path, trials: int) -> None:
    """Kill a rank, in turn, after a drawn number of records, and go on."""
    options = (*data, *ALL, "--checkpoint-every", 1, "--epochs", 6)
    train(jobs, 2, folder / "whole", *options)
    instants, records = random.Random(3), written(folder / "whole")
    latest, killed = 0.0, 0
    for trial in range(trials):
        out, victim = folder / f"run{trial}", trial % 2
        running = start(jobs, 2, out, *options)
        before = instants.randrange(1, records // 2)
        wait_until_written(out, before, running.processes[0])
        time.sleep(instants.uniform(0, 0.1))  # in the middle of a save, for example
        running.processes[victim].kill()
        ended = running.end()
        if ended.codes != [0, 0]:
            assert ended.codes[victim] == -signal.SIGKILL, ended.texts
            ends = f"rank {1 - victim} ends: rank {victim} was killed"
            assert ends in ended.texts[1 - victim], ended.texts
            latest, killed = max(latest, ended.spread), killed + 1
        # Where both had come to their end, nothing is left to do.
        processes = 2 - trial // 2 % 2
        train(jobs, processes, out, *options, "--resume")
        assert not list(out.glob("checkpoints/.*"))
        assert_close(folder / "whole", out, 0 if processes == 2 else 1e-5)
    assert killed >= trials // 2 and latest < 5
    figure = f"{trials} of {trials}; the other one gone in {latest:.1f} s at most"
    record("one of two processes is killed while they save", figure)


@slow
def test_killed_ranks_lose_no_step(jobs, data, tmp_path):
    check_kills(jobs, data, tmp_path, 4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_20_killed_ranks_lose_no_step(jobs, data, tmp_path):
    check_kills(jobs, data, tmp_path, 20)


def rank_of(mark: str, rank: int) -> int:
    """The process of a rank of `linsey train` that a launcher started."""
    for process in with_mark(mark):
        folder = Path("/proc", str(process))
        variables = (folder / "environ").read_bytes().split(b"\0")
        if f"LINSEY_RANK={rank}".encode() in variables:
            if b"train" in (folder / "cmdline").read_bytes().split(b"\0"):
                return process
    raise AssertionError(f"there is no rank {rank}")


@slow
def test_a_killed_rank_is_started_again_with_the_others(jobs, data, tmp_path):
    options = (*data, *ALL, "--checkpoint-every", 1, "--epochs", 6)
    train(jobs, 2, tmp_path / "whole", *options)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "linsey", "launch", "-n", "2",
               "--max-restarts", "1", "--", "train", "--out", out]  # fmt: skip
    running = jobs.start([str(part) for part in (*command, *options)])
    while len(list(out.glob("checkpoints/step_*"))) < 2:
        assert running.processes[0].poll() is None, running.texts()
        time.sleep(0.01)
    os.kill(rank_of(running.mark, 1), signal.SIGKILL)
    ended = running.end()
    assert ended.codes == [0], ended.texts
    assert "rank 1 was ended by SIGKILL" in ended.texts[0]
    assert_same_run(tmp_path / "whole", out)


@slow
def test_a_signal_to_any_rank_stops_or_saves_all_at_one_step(jobs, data, tmp_path):
    options = (*data, *SMALL, "--dropout", 0.5, "--epochs", 30, "--eval-every", 2,
               "--checkpoint-every", 999)  # fmt: skip
    train(jobs, 2, tmp_path / "whole", *options)
    latest = 0.0
    for rank, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)):
        out = tmp_path / number.name
        running = start(jobs, 2, out, *options)
        running.wait_for("compiling the training step")
        while len(metrics_log.read(out / "metrics.jsonl")) < 5:
            time.sleep(0.005)
        asked = time.monotonic()
        running.processes[1 - rank % 2].send_signal(number)
        ended = running.end()
        if number is signal.SIGUSR1:
            assert ended.codes == [0, 0], ended.texts
        else:
            assert ended.codes == [75, 75], ended.texts
            latest = max(latest, time.monotonic() - asked)
            assert "after saving; to continue:" in ended.texts[0]
            assert said(ended.texts[1]) == ""
            assert 0 < final(out).step < final(tmp_path / "whole").step
            train(jobs, 2, out, *options, "--resume")
        assert_same_run(tmp_path / "whole", out)
    assert latest < 10
    record("a signal to one of two processes", f"3 of 3; {latest:.1f} s at most")


# --- refusals -----------------------------------------------------------------------


@slow
def test_a_folder_in_use_is_refused_by_all(jobs, data, tmp_path):
    run = tmp_path / "run"
    with run_folder.claim(run, TrainConfig()):
        ended = start(jobs, 2, run, *data, *SMALL).end()
    assert ended.codes == [2, 2], ended.texts
    text = f"linsey: error: {run}: in use by process {os.getpid()} on"
    assert sum(text in printed for printed in ended.texts) == 1


@slow
def test_an_error_in_one_rank_ends_all(jobs, data, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "linsey", "train", *map(str, (*data, *SMALL)),
               "--out", str(tmp_path / "run"), "--coordinator", address,
               "--processes", "2", "--rank"]  # fmt: skip
    ended = jobs.start([*command, "0"], [*command, "1", "--epochs", "3"]).end()
    assert ended.codes == [2, 2], ended.texts
    text = (
        "--epochs: not the same in all processes: expected 2 as in rank 0, found 3 in "
        "rank 1 (start all of them with the same options, on the same files)"
    )
    assert any(text in printed for printed in ended.texts), ended.texts
    assert not (tmp_path / "run").exists()
