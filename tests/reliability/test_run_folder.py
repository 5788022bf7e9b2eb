"""Who may write into the folder of a run: one process, and nothing through a link."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from linsey.app import curves
from linsey.app.checkpoint_choice import choose
from linsey.app.config import InspectConfig
from linsey.app.curves import drawn
from linsey.app.one_process import refuse_several_processes
from linsey.app.run_folder import lock
from linsey.checkpoint import CheckpointStore, durable
from linsey.errors import InputError
from tests.reliability.figures import record
from tests.reliability.runs import OPTIONS, assert_one_history

pytestmark = pytest.mark.timeout(120)

# Claims a folder at an instant, and holds it until told; says what became of it.
WRITER = """
import sys, time
from pathlib import Path
from linsey.app.config import TrainConfig
from linsey.app.run_folder import claim
from linsey.errors import InputError
for line in sys.stdin:
    path, instant = line.split()
    time.sleep(max(0, float(instant) - time.time()))
    start = time.monotonic()
    try:
        with claim(Path(path), TrainConfig()) as folder:
            print("claimed", flush=True)
            sys.stdin.readline()
            assert "jax" not in sys.modules
    except InputError as error:
        print(f"{time.monotonic() - start:.3f} {error}", flush=True)
"""


def start_writers(count):
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip


def tell(writers, line):
    for writer in writers:
        writer.stdin.write(line)
        writer.stdin.flush()


@pytest.mark.parametrize(("count", "rounds"), [(2, 4), (8, 2)])
def test_of_writers_released_at_one_instant_one_proceeds(tmp_path, count, rounds):
    check_rounds(tmp_path, count, rounds)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_of_writers_released_at_one_instant_one_proceeds_20_times(tmp_path, count):
    check_rounds(tmp_path, count, 20)


def check_rounds(tmp_path, count, rounds):
    writers = start_writers(count)
    processes = {writer.pid for writer in writers}
    for number in range(rounds):
        tell(writers, f"{tmp_path}/run{number} {time.time() + 0.3}\n")
        answers = [writer.stdout.readline() for writer in writers]
        assert answers.count("claimed\n") == 1, answers
        for answer in set(answers) - {"claimed\n"}:
            match = re.search(r"in use by process (\d+) on \S+ \(wait", answer)
            assert match and int(match[1]) in processes, answer
            assert rounds < 20 or float(answer.split()[0]) < 1
        tell([writers[answers.index("claimed\n")]], "that is enough\n")
    for writer in writers:
        writer.communicate()  # ends its input, and closes the pipes
        assert writer.returncode == 0
    if rounds == 20:
        record(
            "writers released at one instant", f"{rounds} of {rounds} rounds of {count}"
        )


def test_lock_of_a_killed_process_is_recovered(tmp_path):
    for number in range(20):  # one folder, held by one after the other
        (writer,) = start_writers(1) if number % 10 == 0 else (None,)
        if writer is None:
            (tmp_path / "run" / "lock").write_text("process 999999999 on nowhere")
        else:
            tell([writer], f"{tmp_path}/run 0\n")
            assert writer.stdout.readline() == "claimed\n"
            with pytest.raises(InputError, match=f"in use by process {writer.pid} "):
                lock(tmp_path / "run").__enter__()
            writer.kill()
            writer.communicate()
        with lock(tmp_path / "run"):
            text = (tmp_path / "run" / "lock").read_text()
            assert text.startswith(f"process {os.getpid()} on ")


def test_a_lock_that_does_not_say_yet_whose_it_is(tmp_path):
    """Between taking it and writing who did: a moment is waited, then it is said."""
    with lock(tmp_path):
        path = tmp_path / "lock"
        text = path.read_text()
        path.write_text("")
        writing = threading.Timer(0.05, lambda: os.system(f"printf '{text}' > {path}"))
        writing.start()
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} "):
            lock(tmp_path).__enter__()
        writing.join()
        path.write_text("process 999999999 on " + text.rpartition(" ")[2])
        with pytest.raises(InputError, match="in use by another process"):
            lock(tmp_path).__enter__()


def test_live_run_is_refused_before_jax_is_imported(tmp_path):
    code = (
        "import sys\nfrom linsey.app import cli\n"
        "assert cli.main(['train', '--out', 'run', *sys.argv[1:]]) == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    (tmp_path / "run").mkdir()
    with lock(tmp_path / "run"):
        for more in ([], ["--resume"]):
            done = subprocess.run(
                [sys.executable, "-c", code, *more], cwd=tmp_path,
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert f"run: in use by process {os.getpid()}" in done.stderr


@pytest.mark.slow
def test_a_run_that_never_began_leaves_no_folder(linsey, whole, tmp_path):
    data = ("--data", whole.parent / "blobs.npz")
    result = linsey("train", *data, *OPTIONS, "--batch-size", 65, "--out", "a/b/run")
    assert result.code == 2
    assert list(tmp_path.iterdir()) == []


NAMES = ("lock", "metrics.jsonl", "config.toml", "checkpoints", "tensorboard",
         "summary.txt", "report.html", "curves.png")  # fmt: skip


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_through_a_link(linsey, whole, tmp_path, monkeypatch, name):
    """Refused, or the link itself is replaced: never what it points to."""
    outside = tmp_path / "outside"
    if name in ("checkpoints", "tensorboard"):
        outside.mkdir()
        (outside / "mine").write_text("mine")
    else:
        outside.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_bytes((whole / "config.toml").read_bytes())
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(outside)
    monkeypatch.setattr(curves, "drawn", drawn)
    result = linsey("train", "--resume", "--tensorboard", "--out", "run")
    kept = outside if outside.is_file() else outside / "mine"
    assert kept.read_text() == "mine"
    assert kept == outside or list(outside.iterdir()) == [kept]
    if name in NAMES[:5]:
        assert result.code == 2
        assert name in result.error and "link" in result.error
    else:
        assert result.code == 0


def test_log_and_lock_are_regular_files_of_one_name(linsey, whole, tmp_path):
    for name in ("lock", "metrics.jsonl"):
        for make in (os.mkfifo, lambda path: os.link(tmp_path / "mine", path)):
            run = tmp_path / f"{name}-{make.__name__}"
            run.mkdir()
            (tmp_path / "mine").write_text("mine")
            (run / "config.toml").write_bytes((whole / "config.toml").read_bytes())
            make(run / name)
            result = linsey("train", "--resume", "--out", run)
            assert result.code == 2
            assert f"{run / name}: " in result.error
            assert (tmp_path / "mine").read_text() == "mine"


def test_link_in_the_place_of_a_run_of_a_comparison(linsey, whole, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    data = ("--data", whole.parent / "blobs.npz")
    options = (*data, *OPTIONS, "--compare", "--compare-factors", 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("compare = true\n")
    (tmp_path / "run" / "batch-lr0.2").symlink_to(outside)
    result = linsey("train", *options, "--resume", "--out", "run")
    assert result.code == 2
    assert list(outside.iterdir()) == []


def test_folders_and_records_are_durable(linsey, whole, tmp_path, monkeypatch):
    """New folders, those they are in, and the log before each checkpoint."""
    synced, fsync = [], os.fsync

    def seen(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    data = ("--data", whole.parent / "blobs.npz")
    assert linsey("train", *data, *OPTIONS, "--out", "a/run").code == 0
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/run")} <= {*synced}
    log = str(tmp_path / "a/run/metrics.jsonl")
    first_save = next(i for i, name in enumerate(synced) if "/checkpoints" in name)
    assert log in synced[:first_save]
    steps = CheckpointStore(whole / "checkpoints").steps()
    assert synced.count(log) > len(steps)
    assert_one_history(tmp_path / "a/run", whole)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"},
        {"PMI_SIZE": "2", "PMI_RANK": "0"},
        {"JAX_PROCESS_COUNT": "2"},
        {"WORLD_SIZE": "2", "RANK": "1"},
    ],
)
def test_one_of_several_processes_is_refused(
    linsey, whole, tmp_path, monkeypatch, environment
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    data = ("--data", whole.parent / "blobs.npz")
    result = linsey("train", *data, *OPTIONS, "--out", "run")
    assert result.code == 2
    assert "training in several processes is not supported yet" in result.error
    assert list(tmp_path.iterdir()) == []


def test_one_process_in_an_allocation_for_several_is_not_refused():
    refuse_several_processes(
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}
    )
    refuse_several_processes({"SLURM_NTASKS": "", "WORLD_SIZE": "1", "RANK": "0"})


def test_best_step_beside_a_writer_that_finds_a_better_one(
    whole, tmp_path, monkeypatch
):
    """It is removed after the newest step, which names it, was read."""
    shutil.copytree(whole, tmp_path / "run")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    newest = store.newest()
    cursor = {**newest.metadata["cursor"], "best_step": 20, "evaluated_at": 20}
    open_step = CheckpointStore.open
    moves = []

    def racing(self, step):
        if step == newest.metadata["cursor"]["best_step"] and not moves:
            moves.append(step)
            store.save(20, newest.read(), {**newest.metadata, "cursor": cursor})
            durable.remove_folder(store.path(step))
        return open_step(self, step)

    monkeypatch.setattr(CheckpointStore, "open", racing)
    config = InspectConfig(checkpoint=tmp_path / "run", best=True)
    assert choose(config).step == 20
    assert moves
