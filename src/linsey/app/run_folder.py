"""What is where in the folder of a run, who may begin one there, and who writes.

Two writers in one folder destroy each other's checkpoints while both report
success. The lock is the operating system's own (`flock`): it is held for the life
of the process and falls when the process dies, however it dies. The file says who
holds it, for the message that the second writer gets.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from linsey.app.config import TrainConfig
from linsey.app.options import CONFIG_FILE, save_config
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint, durable
from linsey.errors import InputError

CHECKPOINTS = "checkpoints"
LOCK = "lock"


class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.summary = path / "summary.txt"
        self.curves = path / "curves.png"
        self.report = path / "report.html"
        self.checkpoints = CheckpointStore(path / CHECKPOINTS)


def newest_checkpoint(store: CheckpointStore) -> VerifiedCheckpoint | None:
    """Verify the newest step of a run; return `None` if nothing was saved.

    Raises:
        InputError: the newest step is damaged; says which options pass it over.
    """
    try:
        return store.newest()
    except InputError as error:
        intact = store.newest_intact()
        if intact is None:
            raise
        raise error.with_hint(
            f"step {intact} is intact: train --resume --fallback continues from it"
        ) from error


def default_out(config: TrainConfig) -> Path:
    """Return a new name under runs/ that tells what was trained, and when."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kind = "compare" if config.compare else config.norm
    name = f"{Path(config.data).stem}-{config.model}-{kind}-{stamp}"
    return durable.unused(Path("runs", name))


@contextlib.contextmanager
def claim(path: Path, config: TrainConfig) -> Iterator[RunFolder]:
    """Hold the folder of a run while the run goes on.

    Args:
        path: created if it does not exist.
        config: the options, saved in the folder if the run begins.

    Yields:
        The folder, locked.

    Raises:
        InputError: the folder holds something else, or another process holds it.
    """
    refuse_occupied(path, config.resume)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror}", file=path) from error
    folder = RunFolder(path)
    with lock(path):
        # Again, now that nobody else can write.
        refuse_occupied(path, config.resume)
        durable.sweep(path)
        folder.checkpoints.clean()
        if not folder.config.exists():
            save_config(folder.config, config)
        yield folder


def refuse_occupied(path: Path, resume: bool) -> None:
    """Refuse a folder that holds anything but a run to be resumed.

    Raises:
        InputError: it does; nothing was changed.
    """
    wrong = functools.partial(InputError, file=path, key="--out")
    if path.exists() and not path.is_dir():
        raise wrong("not a folder")
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if CONFIG_FILE in names:
        if not resume:
            hint = "--resume continues it; nothing was changed"
            raise wrong("holds a run already", hint=hint)
    # What a kill leaves before the options are saved may stay.
    elif names - {LOCK, durable.TEMPORARY + CONFIG_FILE}:
        hint = "choose another folder; nothing was changed"
        raise wrong("the folder is not empty and holds no run", hint=hint)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a run folder.

    Args:
        folder: the run folder; it exists.

    Yields:
        Nothing; the folder is held until the block ends.

    Raises:
        InputError: another process holds the folder.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    # The file stays at the end: removing it would let a third process lock a new file
    # of that name while a second one waits for the old.
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            problem = f"in use by {holder or 'another process'}"
            hint = "wait for it to end, or choose another --out"
            raise InputError(problem, file=folder, hint=hint) from None
        os.ftruncate(descriptor, 0)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        os.write(descriptor, holder.encode())
        yield
    finally:
        os.close(descriptor)
