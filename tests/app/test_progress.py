import io
import re
import sys
import threading
import time
from contextlib import redirect_stdout

import pytest

from linsey.app.progress import (
    INTERVAL,
    Moment,
    Progress,
    Remaining,
    bar_line,
    busy,
    duration,
    progress,
)
from linsey.app.speed import Speedometer


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def moment(step, total=100, loss=0.5, speed=4321.0):
    return Moment(step, total, step / 10, loss, speed)


def lines(shown, clock, steps, seconds=1.0):
    """What is printed while steps are done that take so long."""
    with redirect_stdout(io.StringIO()) as out:
        for step in steps:
            clock.time += seconds
            shown.advance(moment(step))
    return out.getvalue().splitlines()


def test_a_line_about_every_ten_seconds_without_a_terminal():
    clock = Clock()
    told = lines(Progress(100, now=clock), clock, range(1, 41))
    assert told == [
        f"step     {step}/100  epoch   {step / 10:.2f}  loss 0.5000  "
        f"4,321 examples/s  0:01:{40 - step:02} left"
        for step in (10, 20, 30, 40)
    ]


def test_lines_of_evaluations_count_as_signs_of_life(capsys):
    clock = Clock()
    shown = Progress(100, now=clock)
    clock.time += INTERVAL - 1
    shown.say("a line [with brackets]")
    clock.time += INTERVAL - 1
    shown.advance(moment(1))
    assert capsys.readouterr().out == "a line [with brackets]\n"
    clock.time += 1
    shown.advance(moment(2, loss=None, speed=None))
    # The second step is the first one that tells how long a step takes.
    assert re.fullmatch(
        r"step +2/100  epoch +0.20  0:01:38 left\n", capsys.readouterr().out
    )


def test_what_takes_long_is_told_again():
    told, again = [], threading.Event()

    def later(text):
        told.append(text)
        again.set()

    with busy("reading", told.append, later, interval=0.01):
        assert again.wait(10)
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count  # no more after the block
    assert told[:2] == ["reading ...", "reading: 0:00:00 so far"]


def test_what_fails_is_not_told_again():
    told = []
    with pytest.raises(KeyError), busy("reading", told.append, told.append):
        raise KeyError
    assert told == ["reading ..."]


def test_what_one_of_several_runs_does_is_a_detail(capsys):
    shown = Progress(10)
    with shown.busy("compiling"):
        pass
    with shown.busy("evaluating", is_told=False):
        pass
    shown.begin_part("run 1 of 2", 0)
    with shown.busy("compiling"):
        pass
    assert capsys.readouterr().out == "compiling ...\n"


def test_remaining_time_leaves_out_the_step_that_compiles():
    clock = Clock()
    remaining = Remaining(clock)
    assert remaining.text(10) == ""
    for seconds in (60.0, 2.0, 2.0):
        clock.time += seconds
        remaining.count()
    assert remaining.text(10) == "0:00:20 left"
    assert remaining.text(0) == ""


def test_runs_that_belong_together_show_what_is_left_of_all(capsys):
    clock = Clock()
    shown = Progress(300, now=clock)
    shown.begin_part("run 2 of 3", 100)
    shown.detail("a detail")
    told = lines(shown, clock, range(1, 12))
    assert told == [
        "run 2 of 3  step     10/100  epoch   1.00  loss 0.5000  4,321 examples/s  "
        "0:03:10 left of all runs"
    ]
    assert shown.left(200) == "0:01:40 left"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_a_bar_fits_the_terminal_and_cuts_no_time_off(width):
    parts = ["run 12 of 12", "123456/999999", "loss 12.3456", "123,456/s",
             "11:22:33 left"]  # fmt: skip
    line = bar_line(width, 0.5, parts, "=")
    assert len(line) < width
    assert line.endswith("11:22:33 left")
    if width >= 80:
        assert line.endswith("  ".join(parts))


def test_a_bar_on_a_terminal_of_60_columns(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    with progress(0, 10, plain=True) as shown:
        assert shown.bar is None
    with progress(2, 10, plain=False) as shown:
        assert shown.bar is not None
        shown.advance(moment(3, total=10))
        shown.advance(moment(9, total=10))
        shown.advance(moment(10, total=10))
        shown.say("a line [with brackets]")
    text = capsys.readouterr().out
    assert "a line [with brackets]" in text
    assert re.search(r"10/10  loss 0.5000  4,321/s", text)
    assert "…" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (86_400, "24:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_speed_leaves_out_the_step_that_compiles():
    speed = Speedometer(batch_size=10)
    assert (speed.recent, speed.take()) == (None, None)
    speed.add(30.0)
    assert (speed.recent, speed.take()) == (None, None)
    speed.add(0.5)
    speed.add(1.5)
    assert speed.recent == speed.take() == 10.0
    assert (speed.recent, speed.take()) == (10.0, None)
