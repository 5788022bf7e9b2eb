"""A rank's side of the link to its keeper: it starts the keeper, and ends on demand."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from socket import socketpair
from types import TracebackType
from typing import NoReturn

import linsey
from linsey.distributed import life, stacks
from linsey.distributed.job import Job
from linsey.distributed.life import Life, new_file
from linsey.distributed.wire import Channel, Message
from linsey.errors import InputError

_SPEAK_SECONDS = 8.0
_LONGEST = 300  # characters of an error that the other ranks show
# Words in errors of collectives that may only be a consequence of another rank's death.
_ECHOES = ("Gloo", "NCCL", "CoordinationService", "Connection reset", "Socket closed")
_BLOCKED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
# The path is passed because Python may not find this package by itself.
_PROGRAM = """\
import sys
sys.path.append({folder!r})
from linsey.distributed.keeper import main
main({link})
"""
Reporting = Callable[[], object]
Reporter = Callable[[BaseException], tuple[int, str]]
"""Function from an error to the exit code of the job and the text to print."""


def full_traceback(error: BaseException) -> tuple[int, str]:
    """Return the exit code 1 and the traceback that Python would print."""
    return 1, "".join(traceback.format_exception(error))


class Link:
    """The connection of this process to its keeper, which it starts.

    Args:
        job: the job, which is passed to the keeper.
        seconds: how long to wait for the other ranks.

    Raises:
        InputError: the job cannot start.
    """

    def __init__(self, job: Job, seconds: float) -> None:
        self.job = job
        life_file, stack_file = new_file(), stacks.offer()
        self.life = Life(life_file)
        self._may_speak = threading.Event()
        self._is_failing = False
        ours, theirs = socketpair()
        self.channel = Channel(ours)
        host, port = job.address
        files = (theirs.fileno(), life_file, stack_file)
        _start_keeper(files)
        theirs.close()
        numbers = (job.processes, os.getpid(), *files[1:], int(1000 * seconds))
        text = f"{host}\n{port}\n{job.token}"
        self.channel.send(Message("job", job.rank, numbers, text))
        self.jax_port = self._meet()
        threading.Thread(target=self._listen, name="linsey-fate", daemon=True).start()
        atexit.register(self.leave_unless_failing)
        self._excepthook = sys.excepthook
        sys.excepthook = self._fail_uncaught

    def _meet(self) -> int:
        self.channel.wait(None)
        while self.channel.is_open:
            for message in self.channel.receive():
                if message.kind == "welcome":
                    return message.numbers[0]
                if message.kind == "refused":
                    problem, _, hint = message.text.partition("\n")
                    where = f"--coordinator {self.job.coordinator}"
                    raise InputError(problem, key=where, hint=hint or None)
        raise InputError("the process that watches over this one did not start")

    def _listen(self) -> None:
        while self.channel.is_open:
            for message in self.channel.receive():
                if message.kind == "speak":
                    self._may_speak.set()
                elif message.kind == "end":
                    _flush()  # if this hangs, the keeper kills this process
                    os._exit(message.numbers[0])
        if self._is_failing:
            self._may_speak.set()
            return
        # Without its keeper, nobody would watch this rank.
        _write(f"linsey: rank {self.job.rank} ends: its keeper is gone")
        os._exit(1)

    def ask(self, action: int) -> None:
        """Request that all ranks save or stop together."""
        self.channel.send(Message("ask", self.job.rank, (action,)))

    def leave(self) -> None:
        """Declare that this rank and the others no longer depend on each other."""
        self.life.words[life.LEFT] = 1

    def leave_unless_failing(self) -> None:
        """Leave at the end of the process, unless an exception ended it."""
        if not self._is_failing:
            self.leave()

    def fail(self, error: BaseException, code: int, speak: Reporting) -> NoReturn:
        """End the job: first the other ranks, then print the error, then this rank.

        Args:
            error: the exception.
            code: the exit code of all ranks.
            speak: prints the error.
        """
        self._is_failing = True
        _flush()
        text = "".join(traceback.format_exception_only(error)).strip()
        is_echo = any(word in text for word in _ECHOES)
        summary = text.partition("\n")[0][:_LONGEST]
        numbers = (code, int(is_echo))
        self.channel.send(Message("failed", self.job.rank, numbers, summary))
        self._may_speak.wait(_SPEAK_SECONDS)
        speak()
        _flush()
        os._exit(code)

    def _fail_uncaught(
        self, kind: type[BaseException], error: BaseException,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.fail(error, 1, lambda: self._excepthook(kind, error, trace))


def _start_keeper(files: tuple[int, int, int]) -> None:
    """Start the keeper as a new process that inherits only the given files."""
    folder = str(Path(linsey.__file__).parents[1])
    program = _PROGRAM.format(folder=folder, link=files[0])
    arguments = [sys.executable, "-I", "-S", "-c", program]
    nothing = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)
    ]
    # Signals are meant for the ranks; keepers must survive to watch the effects.
    blocked = [getattr(signal, name) for name in _BLOCKED]
    for number in files:
        os.set_inheritable(number, True)
    try:
        os.posix_spawn(
            sys.executable, arguments, os.environ, file_actions=nothing,
            setsigmask=blocked,
        )  # fmt: skip
    finally:
        for number in files:
            os.set_inheritable(number, False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError):  # closed, or `None`
            pass


def _write(text: str) -> None:
    os.write(2, f"{text}\n".encode())
