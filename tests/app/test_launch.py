"""`linsey launch`: its options, and what it starts; jobs are in tests/distributed."""

from __future__ import annotations

import sys

import pytest

from linsey.app.commands import launch
from linsey.distributed import launcher
from linsey.errors import InputError


class Started:
    """In the place of a launcher: notes what is started, and how it ends."""

    commands: list[list[str]] = []
    codes: list[int] = []
    is_stopping = False

    def __init__(self, processes: int, devices: int | None) -> None:
        assert (processes, devices) == (2, 3)

    def run(self, command: list[str], restart: int) -> tuple[int, int]:
        self.commands.append(command)
        return self.codes[restart], 1


@pytest.fixture
def started(monkeypatch):
    monkeypatch.setattr(launcher, "Launcher", Started)
    Started.commands = []
    return Started


def run(*program: str, restarts: int = 2) -> int:
    options = ("-n", "2", "--devices-per-process=3", "--max-restarts", str(restarts))
    return launch.main([*options, "--", *program])


@pytest.mark.parametrize(
    ("codes", "expected", "times"),
    [
        ([0], 0, 1), ([75], 75, 1), ([2], 2, 1), ([5], 5, 1),
        ([1, 137, 0], 0, 3), ([1, 1, 137], 137, 3),
    ],
)  # fmt: skip
def test_job_that_failed_is_started_again(started, codes, expected, times, capsys):
    started.codes = codes
    assert run("train.py", "x") == expected
    assert started.commands == [[sys.executable, "train.py", "x"]] * times
    restarts = capsys.readouterr().err.count("starting all again")
    assert restarts == times - 1


def test_training_goes_on_in_its_folder(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started.codes = [1, 1, 0]
    assert run("train", "--epochs", "1", "--out", "run") == 0
    linsey = [sys.executable, "-m", "linsey", "train", "--epochs", "1", "--out", "run"]
    assert started.commands == [linsey] * 3  # nothing was begun
    started.commands = []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    assert run("train", "--epochs", "1", "--out", "run") == 0
    assert started.commands == [linsey, [*linsey, "--resume"], [*linsey, "--resume"]]


def test_all_processes_get_the_same_new_folder(started):
    started.codes = [0]
    run("train", "--epochs", "1")
    assert started.commands[0][-2] == "--out"
    assert started.commands[0][-1].startswith("runs/digits-cnn-batch-")


@pytest.mark.parametrize(
    ("program", "command"),
    [
        (["python", "-m", "x"], [sys.executable, "-m", "x"]),
        (["eval", "run"], [sys.executable, "-m", "linsey", "eval", "run"]),
        (["./program", "x"], ["./program", "x"]),
    ],
)
def test_programs(started, program, command):
    started.codes = [0]
    run(*program)
    assert started.commands == [command]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-n", "0", "--", "x"],
            "-n: not a number: expected a number from 1 on, found 0",
        ),
        (["-n"], "-n: not a number"),
        (["--max-restarts", "-1", "--", "x"], "--max-restarts: not a number"),
        (["--nodes", "2"], "--nodes: no such option"),
        (["--", "x"], "-n: how many processes? (linsey launch -n 2 -- ...)"),
    ],
)
def test_options_that_are_wrong(arguments, message):
    with pytest.raises(InputError) as error:
        launch.main(arguments)
    assert message in str(error.value)


def test_help(capsys):
    assert launch.main(["--help"]) == 0
    assert launch.main([]) == 2
    assert "--max-restarts K" in capsys.readouterr().out
