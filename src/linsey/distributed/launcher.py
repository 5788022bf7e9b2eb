"""A launcher for the processes of a job on one machine, which leaves none behind.

Each rank has its own process group, so that the processes it starts end with it. If one
rank fails, the others end by themselves, since they share their fate; those that do not
end within seconds are killed. Rank 0 writes to the terminal directly. Lines from the
other ranks are passed on whole, each with the number of the rank. On Linux, the ranks
also end when the launcher ends, for whatever reason.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from linsey.distributed import job
from linsey.distributed.output import Output

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_LOOK_SECONDS = 0.05
_OTHERS_SECONDS = 4.0
_OUTPUT_SECONDS = 2.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
ORDERLY = (0, 75)
"""Exit codes that do not end the other ranks: done, and stopped after saving."""


class Launcher:
    """The processes of a job. Their signals and output are passed on.

    Args:
        processes: number of processes.
        devices: number of devices of each process. If `None`, one accelerator, or as
            many CPU devices as the environment says.
    """

    def __init__(self, processes: int, devices: int | None = None) -> None:
        self._processes = processes
        self._devices = devices
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._output: Output | None = None
        self.is_stopping = False

    def run(self, command: Sequence[str], restart: int = 0) -> tuple[int, int]:
        """Run a command in all processes until they end.

        Args:
            command: a program and its arguments.
            restart: how often the job was started before.

        Returns:
            The exit code and the rank of the first process that failed. If none failed,
            75 and the first rank that ended with it, or 0 and rank 0. The code of a
            process that was killed by signal N is 128 + N.
        """
        address = f"127.0.0.1:{_free_port()}"
        token = secrets.token_hex(16)
        previous = {each: signal.signal(each, self._pass_on) for each in _SIGNALS}
        try:
            for rank in range(self._processes):
                environment = self._environment(rank, address, token, restart)
                self._start(rank, command, environment)
            self._pass_output()  # starts a thread, so do it after all processes
            return self._wait()
        finally:
            self._kill()
            self._forget()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _environment(
        self, rank: int, address: str, token: str, restart: int
    ) -> Mapping[str, str]:
        devices = self._devices or 1
        first = rank * devices
        environment = {
            **os.environ,
            job.COORDINATOR: address,
            job.PROCESSES: str(self._processes),
            job.RANK: str(rank),
            job.TOKEN: token,
            job.RESTART: str(restart),
            job.DEVICES: ",".join(map(str, range(first, first + devices))),
            "PYTHONUNBUFFERED": "1",  # so that output before a crash is not lost
        }
        if self._devices is not None:
            environment["JAX_NUM_CPU_DEVICES"] = str(devices)
        return environment

    def _start(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        output = None if rank == 0 else subprocess.PIPE
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, process_group=0, preexec_fn=_end_with(os.getpid()),
        )  # fmt: skip
        self._ranks.append(process)

    def _pass_output(self) -> None:
        self._output = Output(
            (rank, process.stdout, process.stderr)
            for rank, process in enumerate(self._ranks)
            if process.stdout is not None and process.stderr is not None
        )
        self._output.start()

    def _pass_on(self, number: int, frame: object) -> None:
        if number != signal.SIGUSR1:
            self.is_stopping = True
        for process in self._ranks:
            if process.returncode is None:
                process.send_signal(number)

    def _wait(self) -> tuple[int, int]:
        ended: dict[int, int] = {}
        deadline, first = None, None
        while len(ended) < self._processes:
            for rank, process in enumerate(self._ranks):
                if rank not in ended and process.poll() is not None:
                    ended[rank] = process.returncode
            failed = [rank for rank in ended if ended[rank] not in ORDERLY]
            if failed and deadline is None:
                # If several ended at the same time, one that was killed is the cause.
                first = min(failed, key=lambda rank: ended[rank] >= 0)
                deadline = time.monotonic() + _OTHERS_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                self._kill()
            time.sleep(_LOOK_SECONDS)
        if first is None:
            first = next((rank for rank in ended if ended[rank]), 0)
        code = ended[first]
        return (code if code >= 0 else 128 - code), first

    def _kill(self) -> None:
        """Kill the remaining processes of all ranks, and those that they started."""
        for process in self._ranks:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # no process is left

    def _forget(self) -> None:
        for process in self._ranks:
            process.wait()
        if self._output is not None:
            self._output.join(_OUTPUT_SECONDS)
        self._ranks, self._output = [], None


def _end_with(launcher: int) -> Callable[[], None] | None:
    """Return a function that makes a new process end when the launcher ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != launcher:  # the launcher has already ended
            os._exit(1)

    return prepare


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]
