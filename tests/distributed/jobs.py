"""Jobs of several processes for tests: started, watched to their end, and counted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOP = "tests.distributed.loop"
SECONDS = 100  # after which a job is killed, and its test fails


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def environment(mark: str) -> dict[str, str]:
    # The source beside the tests, whichever linsey is installed.
    path = os.pathsep.join([os.fspath(ROOT / "src"), os.fspath(ROOT)])
    return {
        **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu", "LINSEY_TEST_JOB": mark,
    }  # fmt: skip


def with_mark(mark: str) -> list[int]:
    """The processes that are still there of those started with a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"LINSEY_TEST_JOB={mark}".encode() in variables and state != "Z":
            found.append(int(entry.name))
    return found


@dataclass
class Ended:
    """How a job ended.

    Attributes:
        codes: the exit code of each process.
        texts: what each one printed.
        at: when each one was gone, in seconds after the job began.
    """

    codes: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Seconds from the first end to the last."""
        return max(self.at) - min(self.at)


class Running:
    """Processes that write into files, so that none waits for a reader."""

    def __init__(self, folder: Path, commands: Sequence[Sequence[str]]) -> None:
        self.mark = f"{os.getpid()}-{folder.name}-{time.monotonic_ns()}"
        self.began = time.monotonic()
        self.files = [folder / f"{self.mark}-{n}.txt" for n in range(len(commands))]
        self.processes = []
        for file, command in zip(self.files, commands, strict=True):
            with file.open("wb") as output:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, cwd=ROOT,
                    stderr=subprocess.STDOUT, env=environment(self.mark),
                )  # fmt: skip
            self.processes.append(process)

    def texts(self) -> list[str]:
        return [file.read_text(errors="replace") for file in self.files]

    def wait_for(self, text: str, number: int = 0) -> None:
        """Wait until a process has printed a text."""
        while text not in self.files[number].read_text(errors="replace"):
            assert time.monotonic() - self.began < SECONDS, self.texts()
            assert self.processes[number].poll() is None, self.texts()
            time.sleep(0.01)

    def end(self) -> Ended:
        """Wait for the end of all; nothing that they started may be left."""
        ended: dict[int, float] = {}
        while len(ended) < len(self.processes):
            for number, process in enumerate(self.processes):
                if number not in ended and process.poll() is not None:
                    ended[number] = time.monotonic() - self.began
            assert time.monotonic() - self.began < SECONDS, self.texts()
            time.sleep(0.01)
        deadline = time.monotonic() + 3
        while (left := with_mark(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left
        codes = [process.returncode for process in self.processes]
        return Ended(codes, self.texts(), [ended[n] for n in sorted(ended)])

    def clean(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for number in with_mark(self.mark):
            os.kill(number, signal.SIGKILL)


class Jobs:
    """Starts jobs; what is left of them ends with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Running] = []

    def start(self, *commands: Sequence[str]) -> Running:
        running = Running(self._folder, commands)
        self._running.append(running)
        return running

    def loop(self, processes: int, module: str = LOOP, **given: object) -> Running:
        """Start a job of `tests.distributed.loop`."""
        address = f"127.0.0.1:{free_port()}"
        return self.start(
            *(
                self.rank(address, processes, n, module, **given)
                for n in range(processes)
            )
        )

    def norms(self, processes: int, folder: Path, *devices: int) -> Running:
        """Start a job of `tests.distributed.norms`."""
        address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "tests.distributed.norms", address]
        last = [str(folder), *map(str, devices)]
        ranks = [[str(processes), str(n), *last] for n in range(processes)]
        return self.start(*([*command, *rank] for rank in ranks))

    @staticmethod
    def rank(
        address: str, processes: int, rank: int, module: str = LOOP, **given: object
    ) -> list[str]:
        """The command line of a rank."""
        arguments = [f"{name}={value}" for name, value in given.items()]
        numbers = (str(processes), str(rank))
        return [sys.executable, "-m", module, address, *numbers, *arguments]

    def launch(self, processes: int, *options: str, **given: object) -> Running:
        """Start a job of `tests.distributed.loop` by `linsey launch`."""
        return self.start(self.launched(processes, *options, **given))

    @staticmethod
    def launched(processes: int, *options: str, **given: object) -> list[str]:
        """The command line for it."""
        arguments = [f"{name}={value}" for name, value in given.items()]
        loop = ["python", "-m", LOOP, "launched", "0", "0", *arguments]
        command = [sys.executable, "-m", "linsey", "launch", "-n", str(processes)]
        return [*command, *options, "--", *loop]

    def clean(self) -> None:
        for running in self._running:
            running.clean()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    started = Jobs(tmp_path)
    yield started
    started.clean()
