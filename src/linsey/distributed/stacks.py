"""The stacks of a process that may be stuck, taken from outside of it.

The handler of `faulthandler` writes them in C, also where no Python can run any more.
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
# The last one calls a compiled collective, which waits without a frame of JAX.
_JAX = ("/jax/", "/jaxlib/", "/linsey/checkpoint/group.py")


def offer() -> int:
    """Have this process write its stacks into a file when it gets the signal.

    Returns:
        The descriptor of the file.
    """
    file = new_file(0)
    faulthandler.register(_SIGNAL, file=file, all_threads=True)
    return file


def take(process: int, file: int) -> str:
    """Ask a process for its stacks.

    Args:
        process: its number. One that is stopped by a signal runs for a moment.
        file: where it writes them.

    Returns:
        The stacks as `faulthandler` writes them; empty if nothing comes.
    """
    start = os.fstat(file).st_size
    was_stopped = is_stopped(process)
    os.kill(process, _SIGNAL)
    os.kill(process, signal.SIGCONT)
    end, size = time.monotonic() + _SECONDS, start
    while time.monotonic() < end:
        time.sleep(0.02)
        before, size = size, os.fstat(file).st_size
        if start < before == size:
            break
    if was_stopped:
        os.kill(process, signal.SIGSTOP)
    # The offset of the file is that of the other process too: it stays where it is.
    return os.pread(file, size - start, start).decode(errors="replace")


def is_compiling(text: str) -> bool:
    """Tell whether a thread is in the compiler of JAX."""
    return _COMPILER in text


def is_in_jax(text: str) -> bool:
    """Tell whether the main thread, which is the last, waits inside of JAX."""
    main = text.rstrip().rpartition("\n\n")[2]
    frames = [line for line in main.split("\n") if line.lstrip().startswith("File ")]
    return bool(frames) and any(name in frames[0] for name in _JAX)


def is_stopped(process: int) -> bool:
    """Tell whether a signal has stopped a process; false where that is unknown."""
    if sys.platform != "linux":
        return False
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
