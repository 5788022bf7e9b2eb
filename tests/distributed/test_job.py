"""Which process of which job this is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from linsey.distributed import find, initialize, life, shared_fate
from linsey.distributed.job import Job
from linsey.errors import InputError, OptionError

LAUNCHED = {
    "LINSEY_COORDINATOR": "127.0.0.1:4000", "LINSEY_PROCESSES": "3", "LINSEY_RANK": "2",
    "LINSEY_TOKEN": "x", "LINSEY_LOCAL_DEVICES": "4,5",
}  # fmt: skip


def test_launcher_says_all():
    job = find(environment=LAUNCHED)
    assert job == Job(3, 2, "127.0.0.1:4000", (4, 5), "linsey launch", "x")
    assert job.is_on_one_machine and not job.is_first and not job.is_alone


def test_arguments_win():
    assert find("h:1", 2, 1, LAUNCHED).coordinator == "h:1"
    assert find(processes=1, environment=LAUNCHED).is_alone
    assert find("[::1]:80", 2, 0, {}).address == ("::1", 80)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}],
)
def test_process_that_is_alone(environment):
    assert find(environment=environment).is_alone


def test_launcher_that_names_the_coordinator_by_jax():
    environment = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    environment["JAX_COORDINATOR_ADDRESS"] = "h:1"
    assert find(environment=environment).coordinator == "h:1"


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (("h:1", 2, None), {}, "--rank: one of several processes has to know its job"),
        ((None, 2, 0), {}, "--coordinator: one of several"),
        (("h:1", 2, 2), {}, "--rank: no such rank: expected 0 to 1, found 2"),
        (("h:1", -2, 0), {}, "--processes: there has to be a process: found -2"),
        (("h", 2, 0), {}, "--coordinator: not an address: expected HOST:PORT, found h"),
        (("h:70000", 2, 0), {}, "--coordinator: not an address"),
        (
            (None, None, None),
            {"WORLD_SIZE": "2", "RANK": "0"},
            "WORLD_SIZE did not say",
        ),
        (
            (None, None, None),
            {**LAUNCHED, "LINSEY_RANK": "a"},
            "LINSEY_RANK: not a num",
        ),
    ],
)
def test_what_is_no_job_is_refused(given, environment, message):
    with pytest.raises(InputError) as error:
        find(*given, environment=environment)
    assert message in str(error.value)


def test_slurm_is_found_by_jax(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "12", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    job = find()
    assert (job.processes, job.rank, job.found_by) == (2, 1, "Slurm")
    assert job.coordinator == f"node3:{12 + 65536 - 4096}"
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "1")
    assert find().is_on_one_machine
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a step of its own
    assert find().is_alone


def test_process_that_is_alone_needs_no_jax():
    program = (
        "import sys; from linsey import distributed\n"
        "assert distributed.initialize().is_alone\n"
        "with distributed.shared_fate() as fate: fate.step(0)\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


def test_block_of_a_process_that_is_alone_passes_errors_on():
    assert initialize(processes=1).is_alone
    with pytest.raises(ValueError, match="x"), shared_fate():
        raise ValueError("x")


def test_save_is_answered_once_and_stop_for_good():
    with shared_fate() as fate:
        answers = [fate.step(0)]
        fate.ask("save")
        answers += [fate.step(1), fate.step(2)]
        fate.ask("stop")
        answers += [fate.step(3), fate.step(4)]
        with pytest.raises(OptionError, match="`action` is 'end'"):
            fate.ask("end")
    assert answers == ["", "save", "", "stop", "stop"]


def test_limit_is_the_longest_that_holds():
    with shared_fate(10, first_step_timeout=100) as fate:

        def limit() -> float:
            return fate._words[life.LIMIT] / 1000

        limits = [limit()]
        fate.step(0)
        with fate.allow(50, "saving"):
            limits.append(limit())
            fate.step(1)
            limits.append(limit())
        limits.append(limit())
    assert limits == [100, 100, 50, 10]
