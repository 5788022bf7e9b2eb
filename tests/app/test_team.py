"""What the processes of a run tell each other; here each of them is a thread."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from linsey.app import team as teams
from linsey.app import terminal
from linsey.app.config import TrainConfig
from linsey.app.failures import report
from linsey.app.run_folder import lock
from linsey.app.stopping import Stopped, StopRequest
from linsey.app.team import Team, claimed
from linsey.errors import DiskError, InputError
from tests.checkpoint.test_group import Threads, together


class Fate:
    """Decides what is asked for at the second call after it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.doing: list[str | None] = []
        self.steps: list[int] = []

    def step(self, step: int) -> str:
        self.steps.append(step)
        return self.asked.pop(0) if self.asked and len(self.steps) % 2 == 0 else ""

    def beat(self, doing: str | None = None) -> None:
        self.doing.append(doing)

    def ask(self, action: str) -> None:
        if action not in self.asked:
            self.asked.append(action)


def test_what_the_first_one_says_is_told_to_all():
    found = together(3, lambda group: Team(group).told([group.index, None]))
    assert found == [[0, None]] * 3
    assert Team().told({1}) == {1}


def test_same_options_and_data_are_let_in():
    def compare(group: Threads) -> None:
        own = {"rank": group.index, "out": Path(str(group.index)), "workers": 3}
        config = dataclasses.replace(TrainConfig(), **own)
        Team(group).refuse_differences(config, "ab")

    assert together(3, compare) == [None] * 3


@pytest.mark.parametrize(("options", "data", "text"), [
    ({"lr": 0.5}, "ab", "--lr: not the same in all processes: expected 0.05 as in rank"
     " 0, found 0.5 in rank 1 (start all of them with the same options, on the same"
     " files)"),
    ({}, "cd", "the data: not the same in all processes: expected SHA-256 ab as in rank"
     " 0, found SHA-256 cd in rank 1 (start all of them with the same options, on the"
     " same files)"),
])  # fmt: skip
def test_other_options_or_data_are_refused_by_all(options, data, text):
    def compare(group: Threads) -> str:
        config = TrainConfig(**options) if group.index == 1 else TrainConfig()
        with pytest.raises(InputError) as refused:
            Team(group).refuse_differences(config, data if group.index == 1 else "ab")
        return str(refused.value)

    assert together(3, compare) == [text] * 3


def test_the_first_one_holds_the_folder_for_all(tmp_path):
    def hold(group: Threads) -> tuple[Path, int]:
        config = TrainConfig(out=tmp_path / "run" if group.index == 0 else None)
        with claimed(config, Team(group)) as folder:
            if group.index == 0:
                with pytest.raises(InputError, match="in use by"):
                    with lock(folder.path):
                        pass
            group.gather(b"")
            return folder.path, folder.checkpoints.group.index

    assert together(2, hold) == [(tmp_path / "run", 0), (tmp_path / "run", 1)]


def test_a_signal_here_stops_all():
    fate = Fate()
    with StopRequest() as own:
        stop = Team(fate=fate).stops(own)
        stop.check(4)
        assert fate.asked == []
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.check()
    assert fate.steps == [4, 4]


def test_a_signal_elsewhere_stops_this_one():
    fate = Fate()
    with StopRequest() as own:
        stop = Team(fate=fate).stops(own)
        fate.ask("save")
        fate.ask("stop")
        stop.check(1)
        assert not stop.takes_save()
        stop.check(2)
        assert (stop.takes_save(), stop.takes_save()) == (True, False)
        stop.check(3)
        with pytest.raises(Stopped, match="a signal to another process"):
            stop.check(4)


def test_a_signal_to_save_asks_all():
    fate = Fate()
    with StopRequest() as own:
        stop = Team(fate=fate).stops(own)
        signal.raise_signal(signal.SIGUSR1)
        stop.check(1)
        assert fate.asked == ["save"]
        stop.check(2)
        assert stop.takes_save()


def test_all_but_the_first_print_errors_alone(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_is_hushed", False)
    terminal.hush()
    terminal.say("step 3")
    terminal.warn("a lower --lr may help")
    terminal.say("linsey: error: no such file", terminal.sys.stderr)
    assert capsys.readouterr() == ("", "linsey: error: no such file\n")


@pytest.mark.parametrize(("error", "code", "text"), [
    (InputError("no such file", file=None, key="--data"), 2,
     "linsey: error: --data: no such file\n"),
    (DiskError(OSError(28, "full"), Path("a"), "save"), 6, "linsey: error: a: cannot"),
    (FileNotFoundError(2, "gone", "b"), 6, "linsey: error: b: "),
    (Stopped("SIGTERM"), 75, "stopped by SIGTERM before anything was saved\n"),
    (ValueError("odd"), 1, "ValueError: odd\n"),
])  # fmt: skip
def test_errors_and_their_exit_codes(error, code, text):
    assert report(error)[0] == code
    assert text in report(error)[1]


def test_a_job_of_one_process_is_no_job(monkeypatch):
    @contextlib.contextmanager
    def never(*_: object, **__: object) -> Iterator[None]:
        raise AssertionError
        yield

    monkeypatch.setattr("linsey.distributed.shared_fate", never, raising=False)
    with teams.joined(TrainConfig(processes=1)) as team:
        assert team.is_alone and team.is_first
