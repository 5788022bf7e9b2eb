"""Jobs of several processes that start, go on, stop and end together."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linsey.distributed import launcher
from tests.distributed.jobs import Jobs, free_port

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc"),
]
slow = pytest.mark.slow


def pid(text: str) -> int:
    return int(re.findall(r"pid (\d+)", text)[-1])


def left_at(text: str) -> str:
    return re.findall(r"left at (\d+)", text)[0]


# --- fast: what nothing else shows ----------------------------------------------------


def test_jobs_use_the_source_beside_the_tests(jobs: Jobs):
    program = "import linsey; print(linsey.__file__)"
    ended = jobs.start([sys.executable, "-P", "-c", program]).end()
    source = Path(__file__).parents[2] / "src" / "linsey" / "__init__.py"
    assert Path(ended.texts[0].strip()).samefile(source)


def test_rank_that_raises_ends_all_and_says_why_last(jobs: Jobs):
    ended = jobs.launch(2, what="raise", victim=1, at=1).end()
    assert ended.codes == [1]
    *_, before, last = ended.texts[0].splitlines()
    assert (before, last) == (
        '[1]     raise ValueError("a bad sample")', "[1] ValueError: a bad sample"
    )  # fmt: skip
    assert "rank 0 ends: rank 1 failed: ValueError: a bad sample" in ended.texts[0]


def test_ranks_that_do_not_agree_are_refused(jobs: Jobs):
    address = f"127.0.0.1:{free_port()}"
    ended = jobs.start(jobs.rank(address, 2, 0), jobs.rank(address, 3, 1)).end()
    assert ended.codes == [1, 1]
    assert max(ended.at) < 15
    for text in ended.texts:
        assert "rank 1 was started as one of 3, rank 0 as one of 2" in text


# --- 12: signals ----------------------------------------------------------------------


@slow
@pytest.mark.parametrize("processes", [2, 3])
def test_signal_to_any_rank_stops_all_at_one_step(jobs: Jobs, processes):
    for victim in range(processes):
        ended = jobs.loop(
            processes, what="term", victim=victim, at=5, steps=10_000
        ).end()
        assert ended.codes == [75] * processes, ended.texts
        assert len({left_at(text) for text in ended.texts}) == 1


@slow
def test_signal_to_the_launcher_stops_all_and_second_one_at_once(jobs: Jobs):
    running = jobs.launch(2, steps=100_000, pause=0.01)
    running.wait_for("rank 0 step 5")
    running.processes[0].send_signal(signal.SIGTERM)
    assert running.end().codes == [75]
    running = jobs.launch(2, what="sleep", victim=1, at=3)
    running.wait_for("rank 1 step 2")
    running.processes[0].send_signal(signal.SIGTERM)
    time.sleep(0.5)
    running.processes[0].send_signal(signal.SIGINT)
    asked = time.monotonic()
    assert running.end().codes[0] in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert time.monotonic() - asked < 5


# --- 13: a rank is killed -------------------------------------------------------------


def check_kills(jobs: Jobs, trials: int) -> None:
    instants, latest = random.Random(13), 0.0
    for trial in range(trials):
        processes = 2 + trial % 2
        victim = (trial // 2) % processes
        running = jobs.loop(processes, steps=100_000)
        running.wait_for("step 3", victim)
        time.sleep(instants.uniform(0, 1))
        running.processes[victim].kill()
        ended = running.end()
        assert ended.spread < 5
        latest = max(latest, ended.spread)
        for rank in {*range(processes)} - {victim}:
            assert ended.codes[rank] != 0
            ends = f"rank {rank} ends: rank {victim} was killed"
            assert ends in ended.texts[rank], ended.texts
    print(f"{trials} of {trials} named; gone in {latest:.2f} s at most")


@slow
def test_killed_rank_is_named_and_ends_all(jobs: Jobs):
    check_kills(jobs, 4)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_20_killed_ranks(jobs: Jobs):
    check_kills(jobs, 20)


@slow
def test_launcher_starts_again_what_was_killed(jobs: Jobs):
    ended = jobs.launch(2, "--max-restarts", "2", what="kill", victim=1, at=1).end()
    assert ended.codes == [128 + signal.SIGKILL]
    assert ended.texts[0].count("starting all again") == 2
    assert "rank 1 was ended by SIGKILL" in ended.texts[0].splitlines()[-1]


@slow
def test_killed_launcher_leaves_no_process(jobs: Jobs):
    running = jobs.launch(3, steps=100_000)
    running.wait_for("rank 2 step 3")
    running.processes[0].kill()
    assert running.end().codes == [-signal.SIGKILL]  # and counts


# --- 14: a rank raises, or does not start ---------------------------------------------


@slow
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_error_is_printed_after_all_others_ended(jobs: Jobs, victim):
    ended = jobs.loop(3, what="raise", victim=victim).end()
    assert ended.codes == [1, 1, 1]
    assert ended.spread < 5
    assert ended.texts[victim].endswith("ValueError: a bad sample\n")
    for rank in {0, 1, 2} - {victim}:
        ends = f"linsey: rank {rank} ends: rank {victim} failed: ValueError: a bad"
        assert ends in ended.texts[rank]


@slow
def test_one_of_several_errors_is_printed(jobs: Jobs):
    ended = jobs.launch(3, what="raise_all").end()
    assert ended.codes == [1]
    assert ended.texts[0].count("Traceback") == 1
    assert ended.texts[0].endswith("ValueError: a bad sample\n")


@slow
def test_processes_with_several_devices(jobs: Jobs):
    ended = jobs.launch(2, "--devices-per-process", "2", steps=3).end()
    assert ended.codes == [0], ended.texts  # the sum is over 4 devices


OWN_NETWORK = ["unshare", "--user", "--map-root-user", "--net", "--uts"]


@slow
def test_one_machine_needs_its_loopback_interface_only(jobs: Jobs):
    """There is no other one, and nobody knows the name of the machine."""
    if not (shutil.which("ip") and shutil.which("unshare")) or (
        subprocess.run([*OWN_NETWORK, "true"], capture_output=True).returncode != 0
    ):
        pytest.skip("needs a network of its own")
    job = jobs.launched(2, steps=3)
    prepare = 'hostname no-such-host && ip link set lo up && exec "$@"'
    ended = jobs.start([*OWN_NETWORK, "sh", "-c", prepare, "sh", *job]).end()
    assert ended.codes == [0], ended.texts


@slow
def test_error_outside_of_the_block_and_exit_codes_end_all(jobs: Jobs):
    ended = jobs.loop(2, what="raise_before", victim=1).end()
    assert ended.codes == [1, 1]
    assert ended.texts[1].endswith("ValueError: a bad file\n")
    assert jobs.loop(2, what="exit", victim=0).end().codes == [4, 4]


@slow
def test_jobs_that_cannot_start_end_in_15_seconds(jobs: Jobs):
    for rank, problem in (
        (0, "rank 1 of 2 did not come"),
        (1, "rank 0 did not answer"),
    ):
        address = f"127.0.0.1:{free_port()}"
        ended = jobs.start(jobs.rank(address, 2, rank)).end()
        assert ended.codes == [1]
        assert problem in ended.texts[0].splitlines()[-1]
        assert max(ended.at) < 15
    address = f"127.0.0.1:{free_port()}"
    twice = jobs.start(*(jobs.rank(address, 3, rank) for rank in (0, 1, 1))).end()
    assert all("two processes say that they are rank 1" in t for t in twice.texts[:1])
    assert max(twice.at) < 15


@slow
def test_taken_port(jobs: Jobs):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = f"127.0.0.1:{port}"
        ended = jobs.start(jobs.rank(address, 2, 0), jobs.rank(address, 2, 1)).end()
    assert ended.codes == [1, 1]
    assert f"the port {port} of the coordinator is taken" in ended.texts[0]
    assert max(ended.at) < 15


# --- 15: a rank is stuck --------------------------------------------------------------


@slow
@pytest.mark.parametrize("what", ["sleep", "stop"])
@pytest.mark.parametrize("victim", [0, 1])
def test_stuck_rank_is_named_with_the_stacks_of_all(jobs: Jobs, what, victim):
    # Stopped ranks run on while they write their stacks: not to the end of the loop.
    running = jobs.loop(2, what=what, victim=victim, at=3, timeout=4, pause=0.2)
    running.wait_for("step 2", victim)
    began = time.monotonic()
    ended = running.end()
    assert time.monotonic() - began < 4 + 5
    assert 0 not in ended.codes
    # Rank 0 is the one that knows, and shows it.
    assert "--- stack of rank 0" in ended.texts[0]
    assert "--- stack of rank 1" in ended.texts[0]
    assert "in happen" in ended.texts[0]
    for text in ended.texts:
        assert re.search(
            rf"ends: rank {victim} gave no sign of life for \d+ s, at step 2, in data "
            "loading" + (", stopped by a signal" if what == "stop" else ""), text,
        )  # fmt: skip


# --- 16: slow is not dead -------------------------------------------------------------


@slow
def test_slow_ranks_are_not_dead(jobs: Jobs):
    """40 s late at the first collective, 8 s late at another one."""
    ended = jobs.loop(
        2, what="sleep", seconds=8, victim=1, late=40, timeout=10, steps=6
    ).end()
    assert ended.codes == [0, 0], ended.texts


# --- programs that initialise JAX themselves ------------------------------------------

THEIRS = """
import sys, time, jax
coordinator, processes, rank = sys.argv[1], *map(int, sys.argv[2:4])
jax.distributed.initialize(coordinator, processes, rank)
from linsey.distributed import shared_fate
with shared_fate(10) as fate:
    for step in range(1000):
        time.sleep(0.01)
        if fate.step(step) == "stop":
            break
        if step == 5 and rank == 1:
            fate.ask("stop")
print("stopped", step, fate.is_stopped, flush=True)
"""


@slow
def test_block_serves_programs_that_initialised_jax(jobs: Jobs, tmp_path: Path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, os.fspath(tmp_path / "theirs.py"), address, "2"]
    ended = jobs.start([*command, "0"], [*command, "1"]).end()
    assert ended.codes == [0, 0], ended.texts
    stopped = {text.splitlines()[-1] for text in ended.texts}
    assert len(stopped) == 1 and stopped.pop().endswith("True")


@pytest.mark.filterwarnings("ignore:os.fork")  # jax is loaded here, not in `launch`
def test_the_launcher_kills_who_does_not_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(launcher, "_OTHERS_SECONDS", 0.2)
    script = "import os, sys, time; time.sleep(60 * int(os.environ['LINSEY_RANK']))"
    command = [sys.executable, "-c", f"{script}; sys.exit(3)"]
    began = time.monotonic()
    assert launcher.Launcher(2).run(command) == (3, 0)
    assert time.monotonic() - began < 30
