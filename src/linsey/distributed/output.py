"""The output of processes, passed on line by line, each with its process number."""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Iterable
from typing import IO, NamedTuple

_STDOUT, _STDERR = 1, 2


class _Source(NamedTuple):
    """A pipe to which a process writes, and the destination of its lines."""

    rank: int
    target: int
    pipe: IO[bytes]


class Output(threading.Thread):
    """A thread that passes on lines until all pipes reach their ends.

    If both have lines at the same time, standard output comes before standard error,
    so a traceback follows the output printed before it.

    Args:
        pipes: number, standard output and standard error of each process.
    """

    def __init__(self, pipes: Iterable[tuple[int, IO[bytes], IO[bytes]]]) -> None:
        super().__init__(name="linsey-output", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._rests: dict[_Source, bytes] = {}
        for rank, output, errors in pipes:
            for source in (
                _Source(rank, _STDOUT, output),
                _Source(rank, _STDERR, errors),
            ):
                self._rests[source] = b""
                self._selector.register(source.pipe, selectors.EVENT_READ, source)

    def run(self) -> None:
        """Pass on lines. `start` calls this in the thread."""
        while self._rests:
            ready: list[_Source] = [key.data for key, _ in self._selector.select()]
            for source in sorted(ready, key=lambda source: source.target):
                self._read(source)
        self._selector.close()

    def _read(self, source: _Source) -> None:
        arrived = os.read(source.pipe.fileno(), 1 << 16)
        *lines, rest = (self._rests[source] + arrived).split(b"\n")
        self._rests[source] = rest
        if not arrived:
            lines += [rest] if rest else []
            self._selector.unregister(source.pipe)
            source.pipe.close()
            del self._rests[source]
        self._write(source, lines)

    @staticmethod
    def _write(source: _Source, lines: list[bytes]) -> None:
        start = f"[{source.rank}] ".encode()
        try:
            os.write(source.target, b"".join(start + line + b"\n" for line in lines))
        except OSError:
            pass  # nobody reads any more; the processes continue
