"""One writer for a run folder.

Two writers in one folder destroy each other's checkpoints while both report
success. The lock is the operating system's own (`flock`): it is held for the life
of the process and falls when the process dies, however it dies. The file says who
holds it, for the message the second writer gets.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from linsey.training.input_error import InputError

NAME = "lock"


class RunLock:
    """Holds a run folder, for use in a `with` statement.

    Args:
        folder: the run folder; it exists.

    Raises:
        InputError: another process holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise InputError(
                f"in use by {holder or 'another process'}",
                file=self.path.parent,
                hint="wait for it to end, or choose another --out",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(
            descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
        )
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The file stays: removing it would let a third process lock a new file of
        # that name while a second one waits for the old.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
