"""The folder of a run: its files, when a run may begin in it, and its lock.

Two writers in one folder would destroy each other's checkpoints while both report
success. The lock is the operating system's own (`flock`): it is held as long as the
process lives, and released when the process dies, however it dies. The file names the
holder, for the message that a second writer gets.

Nothing here imports jax, so that an unusable folder is refused at once. A run never
writes through a symbolic link that somebody put into its folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from linsey.app.config import TrainConfig
from linsey.app.model_name import is_architecture, is_own, parted
from linsey.app.options import CONFIG_FILE, load_options, save_config
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint, durable
from linsey.checkpoint.group import ALONE, Group
from linsey.errors import DiskError, InputError
from linsey.files import open_own, reporting

CHECKPOINTS = "checkpoints"
LOCK = "lock"
_READ_AGAIN = 20
"""How often a lock is read while it does not yet name the process that just took it."""


class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
        group: the processes that write its checkpoints.
    """

    def __init__(self, path: Path, group: Group = ALONE) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.summary = path / "summary.txt"
        self.curves = path / "curves.png"
        self.report = path / "report.html"
        self.checkpoints = CheckpointStore(path / CHECKPOINTS, group)

    def begin(self, config: TrainConfig) -> None:
        """Save the options, which makes it the folder of a run, and tidy it up.

        Args:
            config: the options; a run that is resumed keeps its own.
        """
        durable.sweep(self.path)
        self.checkpoints.clean()
        if not self.config.exists():
            save_config(self.config, config)

    def lengthen(self, epochs: int) -> None:
        """Raise the number of epochs in the saved options."""
        saved = TrainConfig(**load_options(self.config))
        if saved.epochs < epochs:
            save_config(self.config, dataclasses.replace(saved, epochs=epochs))


def newest_checkpoint(store: CheckpointStore) -> VerifiedCheckpoint | None:
    """Verify the newest step of a run; return `None` if nothing was saved.

    Raises:
        InputError: the newest step is damaged; the error names the options that skip
            it.
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
    """Return a new path under runs/ that tells what is trained, and when."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kind = "compare" if config.compare else config.norm
    if is_own(config.model) or is_architecture(config.model):
        kind = parted(config.model)[1]
        name = f"{Path(config.data).stem}-{kind}-{stamp}"
    else:
        name = f"{Path(config.data).stem}-{config.model}-{kind}-{stamp}"
    return durable.unused(Path("runs", name))


@contextlib.contextmanager
def claim(path: Path, config: TrainConfig) -> Iterator[RunFolder]:
    """Lock the folder of a run while the run goes on.

    A folder that was made for a run that never began is removed again.

    Args:
        path: the folder; created if it does not exist.
        config: the options.

    Yields:
        The folder, locked.

    Raises:
        InputError: the folder holds something else, or another process has locked it.
        DiskError: a file cannot be read or written.
    """
    try:
        refuse_occupied(path, config.resume)
    except InputError:
        if (path / LOCK).exists():
            os.close(_locked(path / LOCK))  # raises if another process writes there
        raise
    with contextlib.ExitStack() as undo:
        folder = RunFolder(path)
        for created in _make_folders(path):
            undo.callback(_remove_if_empty, created)
        with lock(path):
            # Again, now that nobody else can write.
            refuse_occupied(path, config.resume)
            try:
                yield folder
            finally:
                if folder.config.exists():
                    undo.pop_all()
                else:
                    (path / LOCK).unlink(missing_ok=True)


def refuse_occupied(path: Path, resume: bool) -> None:
    """Refuse a folder that holds anything but a run to be resumed.

    Raises:
        InputError: the folder holds something else; nothing was changed.
    """
    wrong = functools.partial(InputError, file=path, key="--out")
    if path.exists() and not path.is_dir():
        raise wrong("not a folder")
    folder = RunFolder(path)
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if CONFIG_FILE in names:
        if not resume:
            hint = "--resume continues it; nothing was changed"
            raise wrong("holds a run already", hint=hint)
    # Files that a killed run left before its options were saved may stay.
    elif names - {LOCK, durable.TEMPORARY + CONFIG_FILE}:
        hint = "choose another folder; nothing was changed"
        raise wrong("the folder is not empty and holds no run", hint=hint)
    for written in (folder.config, folder.checkpoints.folder, folder.tensorboard):
        refuse_link(written)


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link in place of a file or folder that a run writes.

    Raises:
        InputError: the path is a link.
    """
    if path.is_symlink():
        problem, hint = "a link, and links are not followed", "move it away"
        raise InputError(problem, file=path, hint=hint)


def _make_folders(path: Path) -> list[Path]:
    """Create a folder and its parents, durably; return those that did not exist."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        durable.make_folder(path)
    except DiskError as error:
        if error.errno in (errno.ENOTDIR, errno.EACCES, errno.EROFS):
            problem = f"cannot be created: {error.strerror}"
            raise InputError(problem, file=path, key="--out") from error
        raise
    return missing[::-1]


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


# -- the lock ------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a run folder, so that only this process writes into it.

    Args:
        folder: the run folder, which exists.

    Yields:
        Nothing; the folder is locked until the block ends.

    Raises:
        InputError: another process has locked the folder, or the lock is not a regular
            file.
    """
    path = folder / LOCK
    descriptor = _locked(path)
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()}".encode()
        with reporting(path, needed=len(holder)):
            os.pwrite(descriptor, holder, 0)  # never empty meanwhile
            os.ftruncate(descriptor, len(holder))
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Open and lock a file, and make sure that it still has its name afterwards."""
    while True:
        descriptor = open_own(path)
        try:
            _take(descriptor, path)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it: the run had not begun


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "wait for it to end, or choose another --out"
        problem = f"in use by {_holder(descriptor)}"
        raise InputError(problem, file=path.parent, hint=hint) from None
    except OSError as error:
        raise DiskError(error, path, "lock") from error


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Read which process holds a lock.

    A process writes its name right after it takes the lock; until then the file is
    empty, or names a process that is gone.
    """
    for _ in range(_READ_AGAIN):
        text = os.pread(descriptor, 200, 0).decode(errors="replace")
        match = re.fullmatch(r"process (\d{1,9}) on (\S+)", text)
        if match and (match[2] != socket.gethostname() or _is_alive(int(match[1]))):
            return text
        time.sleep(0.01)
    return "another process"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
