"""A layer between linsey and the system, in which the k-th call fails.

SQLite is tested in this way: run an operation, count its calls, then run it once for
each call and let that one fail. `Faults` stands before the functions of `os`, and
before the reading of files, until the end of its block.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = """
    open fdopen read write fsync close replace rename unlink rmdir mkdir listdir scandir
    stat lstat fstat
""".split()


class Killed(BaseException):
    """The process is dead: this call and each that follows does nothing."""


class Faults:
    """Count the calls in a block; do something to one of them.

    Args:
        at: which one, from 0; `None` only counts.
        act: is given the function and its arguments in place of the call.
        only: the names of the calls that are counted.

    Attributes:
        calls: the names of the calls, in order.
    """

    def __init__(
        self,
        at: int | None = None,
        act: Callable[..., Any] | None = None,
        only: tuple[str, ...] | list[str] = CALLS,
    ) -> None:
        self.at, self.act, self.only = at, act, only
        self.calls: list[str] = []
        self.is_dead = False
        self._lock = threading.Lock()
        self._true: dict[str, Any] = {}

    def __enter__(self) -> Faults:
        for name in CALLS:
            if hasattr(os, name):
                self._true[name] = getattr(os, name)
                setattr(os, name, self._guarded(name, self._true[name]))
        os.fdopen = lambda *args: _Reader(self._true["fdopen"](*args), self)
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._true.items():
            setattr(os, name, function)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                is_it = name in self.only and len(self.calls) == self.at
                if name in self.only:
                    self.calls.append(name)
                if self.is_dead:
                    raise Killed
                self.is_dead = is_it and self.act is kill
            if is_it and self.act:
                return self.act(function, *args, **kwargs)
            return function(*args, **kwargs)

        return call


class _Reader:
    """An open file whose reading counts as a call."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file = file
        self.read = faults._guarded("read", file.read)
        self.fileno = file.fileno

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def refuse(number: int) -> Callable[..., Any]:
    """Let a call fail with an error number."""

    def act(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if function.__name__ == "close":
            function(*args)
        raise OSError(number, os.strerror(number))

    return act


def shorten(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Write half of what is to be written; fail where nothing is written."""
    if function.__name__ == "write":
        return function(args[0], args[1][: len(args[1]) // 2])
    return refuse(errno.EINTR)(function, *args, **kwargs)


def kill(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stop there, as SIGKILL does: nothing is cleaned up."""
    raise Killed


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
