import os
import signal
import subprocess
import sys

import pytest

from linsey.app.terminal import Progress, Stopped, StopRequest, progress

SECOND = """
import os, signal, time
from linsey.app.terminal import Stopped, StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    try:
        stop.check()
    except Stopped as signal_name:
        assert str(signal_name) == "SIGINT"
        print("flagged", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_lines_where_there_is_no_terminal(capsys):
    with progress("title", 0, 10, plain=False) as shown:
        assert shown == Progress()
        shown.advance(5, 0.5)
        shown.say("a line [with brackets]")
    assert capsys.readouterr().out == "a line [with brackets]\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with progress("title", 0, 10, plain=True) as shown:
        assert shown == Progress()
    with progress("title", 2, 10, plain=False) as shown:
        assert shown.bar is not None
        shown.advance(5, None)
        shown.advance(10, 0.25)
        shown.say("a line [with brackets]")
    text = capsys.readouterr().out
    assert "a line [with brackets]" in text
    assert "10/10" in text
    assert "loss 0.2500" in text


def test_first_signal_is_a_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_signal_ends_the_process_at_once():
    done = subprocess.run(
        [sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "flagged\n"
    assert done.returncode == -signal.SIGTERM
