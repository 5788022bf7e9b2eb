import os
import socket
import subprocess
import sys

import pytest

from linsey.app.run_folder import lock
from linsey.errors import InputError

HOLDER = """
import pathlib, sys
from linsey.app.run_folder import lock
with lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_holder_is_refused_and_told_who_holds_it(tmp_path):
    with lock(tmp_path):
        with pytest.raises(InputError) as caught, lock(tmp_path):
            pass
    assert str(caught.value) == (
        f"{tmp_path}: in use by process {os.getpid()} on {socket.gethostname()} "
        "(wait for it to end, or choose another --out)"
    )
    with lock(tmp_path):
        pass


def test_lock_falls_with_the_process_that_held_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} "):
            lock(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with lock(tmp_path):
            pass
