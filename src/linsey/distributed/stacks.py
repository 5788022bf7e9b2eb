"""The stacks of a process that may be stuck, requested from another process.

The signal handler of `faulthandler` writes them in C, even if the process can no longer
run Python code.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time

from linsey.distributed.life import new_file

_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 3) + 3  # SIGUSR2 on a Mac
_SECONDS = 1.0  # for the handler to write
_COMPILER = "/jax/_src/compiler.py"
# The compiled functions that ours call wait for other ranks without a frame of JAX.
_JAX = (
    "/jax/", "/jaxlib/", "/linsey/checkpoint/group.py", "/linsey/app/devices.py",
    "/linsey/app/compiling.py",
)  # fmt: skip


def offer() -> int:
    """Make this process write its stacks to a file when it receives the signal.

    Returns:
        The descriptor of the file.
    """
    file = new_file(0)
    faulthandler.register(_SIGNAL, file=file, all_threads=True)
    return file


def take(process: int, file: int) -> str:
    """Ask a process for its stacks.

    Args:
        process: the process ID. A process stopped by a signal is continued for a
            moment.
        file: descriptor of the file to which it writes them.

    Returns:
        The stacks as `faulthandler` writes them; empty if there is no answer.
    """
    start = os.fstat(file).st_size
    was_stopped = is_stopped(process)
    os.kill(process, _SIGNAL)
    os.kill(process, signal.SIGCONT)
    end, size = time.monotonic() + _SECONDS, start
    while time.monotonic() < end:
        time.sleep(0.005)  # a stopped process should do nothing else meanwhile
        before, size = size, os.fstat(file).st_size
        if start < before == size:
            break
    if was_stopped:
        os.kill(process, signal.SIGSTOP)
    # `pread` keeps the offset of the file, which the other process shares.
    return os.pread(file, size - start, start).decode(errors="replace")


def is_compiling(text: str) -> bool:
    """Tell whether a thread is in JAX's compiler."""
    return _COMPILER in text


def is_in_jax(text: str) -> bool:
    """Tell whether the main thread, which is listed last, waits inside JAX."""
    main = text.rstrip().rpartition("\n\n")[2]
    frames = [line for line in main.split("\n") if line.lstrip().startswith("File ")]
    return bool(frames) and any(name in frames[0] for name in _JAX)


def is_stopped(process: int) -> bool:
    """Tell whether a signal has stopped a process; False if this is unknown."""
    if sys.platform != "linux":
        return False
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
