import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from linsey.app.stopping import Stopped, StopRequest

SECOND = """
import os, signal, time
from linsey.app.stopping import Stopped, StopRequest
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


def test_an_import_is_not_torn(tmp_path, monkeypatch):
    """Libraries that are imported halfway print tracebacks, or take us for missing."""
    name = "module_that_is_interrupted"
    lines = "import os, signal", "os.kill(os.getpid(), signal.SIGTERM)", "done = True"
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Stopped, match="SIGTERM"), StopRequest(at_once=True):
        module = importlib.import_module(name)
        assert module.done
        time.sleep(10)
        raise AssertionError("not stopped")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
