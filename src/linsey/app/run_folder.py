"""What is where in the folder of a run, and who may begin one there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from linsey.app import config_file
from linsey.app.config import TrainConfig
from linsey.training import durable
from linsey.training.checkpoint_store import CheckpointStore
from linsey.training.input_error import InputError
from linsey.training.run_lock import NAME as LOCK_NAME
from linsey.training.run_lock import RunLock

CHECKPOINTS = "checkpoints"


class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / config_file.NAME
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.summary = path / "summary.txt"
        self.curves = path / "curves.png"
        self.report = path / "report.html"
        self.checkpoints = CheckpointStore(path / CHECKPOINTS)


def default_out(config: TrainConfig) -> Path:
    """A new name under runs/ that tells what was trained, and when."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kind = "compare" if config.compare else config.norm
    name = f"{Path(config.data).stem}-{config.model}-{kind}-{stamp}"
    path, number = Path("runs", name), 1
    while path.exists():
        number += 1
        path = Path("runs", f"{name}-{number}")
    return path


@contextlib.contextmanager
def claim(path: Path, config: TrainConfig) -> Iterator[RunFolder]:
    """Holds the folder of a run while the run goes on.

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
    with RunLock(path):
        # Again, now that nobody else can write.
        refuse_occupied(path, config.resume)
        durable.sweep(path)
        folder.checkpoints.clean()
        if not folder.config.exists():
            config_file.save_config(folder.config, config)
        yield folder


def refuse_occupied(path: Path, resume: bool) -> None:
    """Refuses a folder that holds anything but a run to be resumed.

    Raises:
        InputError: it does; nothing was changed.
    """
    if (path / config_file.NAME).exists():
        if not resume:
            raise InputError(
                "holds a run already", file=path, key="--out",
                hint="--resume continues it; nothing was changed",
            )  # fmt: skip
        return
    if path.exists() and not path.is_dir():
        raise InputError("not a folder", file=path, key="--out")
    # What a kill leaves before the options are saved may stay.
    ours = (LOCK_NAME, durable.TEMPORARY + config_file.NAME)
    if path.exists() and any(entry.name not in ours for entry in path.iterdir()):
        raise InputError(
            "the folder is not empty and holds no run", file=path, key="--out",
            hint="choose another folder; nothing was changed",
        )  # fmt: skip
