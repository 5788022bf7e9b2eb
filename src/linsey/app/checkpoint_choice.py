"""The choice of the checkpoint that a path and options refer to."""

from __future__ import annotations

import os
from pathlib import Path

from linsey.app.config import InspectConfig
from linsey.app.metadata import run_metadata
from linsey.app.run_folder import CHECKPOINTS, newest_checkpoint
from linsey.checkpoint import CheckpointStore, manifest
from linsey.checkpoint.step import VerifiedCheckpoint, open_checkpoint
from linsey.errors import InputError
from linsey.files import open_regular


def has_steps(path: Path) -> bool:
    """Tell whether a path is a run, its folder of checkpoints, or one checkpoint."""
    names = (manifest.NAME, CHECKPOINTS)
    is_one = any(os.path.lexists(path / name) for name in names)
    return is_one or (path.is_dir() and bool(CheckpointStore(path).steps()))


def refuse_special(path: Path) -> None:
    """Refuse a path that exists and is neither a folder nor a regular file.

    Unlike the functions that read such files, this does not need jax.
    """
    if os.path.lexists(path) and not path.is_dir():
        open_regular(path).close()


def choose(config: InspectConfig) -> VerifiedCheckpoint:
    """Find and verify the checkpoint that options name.

    Args:
        config: the path of a run, of its folder of checkpoints or of one checkpoint,
            and the options that choose one.

    Returns:
        The verified checkpoint.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = config.checkpoint
    if not path.is_dir():
        raise InputError("no such folder", file=path)
    if (path / manifest.NAME).exists():
        if config.best or config.step is not None:
            problem = "one step already; --step and --best need a run"
            raise InputError(problem, file=path)
        return open_checkpoint(path)
    folder = path / CHECKPOINTS
    store = CheckpointStore(folder if folder.is_dir() else path)
    if not store.steps():
        raise InputError("no checkpoint in this folder", file=path)
    if config.step is not None:
        return store.open(config.step)
    while True:
        newest = newest_checkpoint(store)
        if newest is None:  # the training run removed them meanwhile
            raise InputError("no checkpoint in this folder", file=path)
        if not config.best:
            return newest
        best = run_metadata(newest).cursor.best_step
        if best < 0:
            raise InputError("no step was evaluated so far", file=path, key="--best")
        try:
            return store.open(best)
        except InputError:
            # A training run removes this one when it finds a better one.
            steps = store.steps()
            if best in steps or max(steps, default=newest.step) == newest.step:
                raise
