"""Which checkpoint a path means."""

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
    """Tell whether a path is a run, its folder of checkpoints, or one of them."""
    names = (manifest.NAME, CHECKPOINTS)
    is_one = any(os.path.lexists(path / name) for name in names)
    return is_one or (path.is_dir() and bool(CheckpointStore(path).steps()))


def refuse_special(path: Path) -> None:
    """Refuse what is neither a folder nor a regular file; what is not there may pass.

    This needs no jax, which those who look closer import first.
    """
    if os.path.lexists(path) and not path.is_dir():
        open_regular(path).close()


def choose(config: InspectConfig) -> VerifiedCheckpoint:
    """Find and verify the checkpoint that options name.

    Args:
        config: a run, its folder of checkpoints, or one of them; and which.

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
        if newest is None:  # a writer removed them meanwhile
            raise InputError("no checkpoint in this folder", file=path)
        if not config.best:
            return newest
        best = run_metadata(newest).cursor.best_step
        if best < 0:
            raise InputError("no step was evaluated so far", file=path, key="--best")
        try:
            return store.open(best)
        except InputError:
            # A writer that found a better one removes this one.
            steps = store.steps()
            if best in steps or max(steps, default=newest.step) == newest.step:
                raise
