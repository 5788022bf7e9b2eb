"""The log of a run: one JSON object per line, appended and never changed.

A killed run leaves records of steps after its newest checkpoint. When the run is
resumed, it logs this (`"kind": "resume"`), and readers drop the records after that
step: `read` returns the history of one uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from linsey.checkpoint import durable
from linsey.errors import InputError
from linsey.files import open_own, parsing, read_regular, reporting
from linsey.metrics.tensorboard import SummaryWriter
from linsey.schema import Between, conform, parse_json

MAX_BYTES = 2**28
_START = b'{"kind": "'
Record = dict[str, Any]

# The entries that each kind of record must have. Others may hold any plain value, so
# that the log of a newer version can be read.
_Kind = Literal["start", "resume", "extend", "train", "eval", "skip", "final"]
_Value = Annotated[str, Between(0, 1000)] | int | float | bool | list[int] | None
_Number = Annotated[float, Between(-1e300, 1e300)]
_STEP = {"step": Annotated[int, Between(0, 2**53)]}
_SCORES = {**_STEP, "loss": _Number | None, "accuracy": Annotated[float, Between(0, 1)]}
_KINDS: dict[str, dict[str, Any]] = {
    "start": _STEP,
    "resume": _STEP,
    "extend": _STEP,
    "train": {**_SCORES, "epoch": _Number},
    "eval": {**_SCORES, "epoch": _Number},
    "skip": _STEP,
    "final": _SCORES,
}


class MetricsLog:
    """A log that appends records to a file, and to TensorBoard if asked.

    Args:
        path: the file; created if it does not exist.
        tensorboard: folder for event files. If `None`, none are written.

    Raises:
        InputError: the file is a link, not a regular file, or has an invalid line.
        DiskError: a file cannot be read or written; `write` and `sync` raise it too.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self._writer = None if tensorboard is None else SummaryWriter(tensorboard)
        self.path = path
        self._descriptor = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with reporting(path):
            durable.sync_folder(path.parent)
            size = os.fstat(self._descriptor).st_size
            if size > 0:
                self._check()
            if size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self._append(b"\n")  # ends a line that a kill cut short

    def _check(self) -> None:
        """Read the existing log, to find an invalid line now and not after training."""
        try:
            read(self.path)
        except BaseException:
            self.close()
            raise

    def write(self, kind: str, step: int, **values: object) -> None:
        """Append a record.

        Args:
            kind: `start`, `resume`, `extend` (to more epochs), `train`, `eval`,
                `skip` or `final`.
            step: the step it belongs to.
            **values: JSON values; numbers also go to TensorBoard.
        """
        values = {key: _json(value) for key, value in values.items()}
        record = {"kind": kind, "step": step, **values}
        self._append(json.dumps(record).encode() + b"\n")
        if self._writer is not None and kind in ("train", "eval"):
            for key, value in values.items():
                if isinstance(value, int | float):
                    self._writer.scalar(f"{kind}/{key}", value, step)

    def _append(self, line: bytes) -> None:
        with reporting(self.path, needed=len(line)):
            while line:
                line = line[os.write(self._descriptor, line) :]

    def sync(self) -> None:
        """Make the records durable."""
        with reporting(self.path, "save"):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the files."""
        os.close(self._descriptor)
        if self._writer is not None:
            self._writer.close()


class Unwritten(MetricsLog):
    """The log of a process that does not write it, because another one does.

    Args:
        path: the file that the other process writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, step: int, **values: object) -> None:
        """Leave a record to the other process."""

    def sync(self) -> None:
        """Leave syncing to the other process."""

    def close(self) -> None:
        """Do nothing: no file is open."""


def read(path: Path) -> list[Record]:
    """Read the history of a run, as if it had not been interrupted.

    Args:
        path: the file of a `MetricsLog`.

    Returns:
        Records in the order of their steps; of several with the same kind and step, the
        last one. A line that a kill cut short is left out.

    Raises:
        InputError: a line is not a record; the error says which.
        DiskError: a file cannot be read or written.
    """
    with parsing(path, "not the log of a run"):
        return _history(read_regular(path, limit=MAX_BYTES), path)


def _history(content: bytes, path: Path) -> list[Record]:
    history: dict[tuple[str, int], Record] = {}
    torn: InputError | None = None
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            entries = parse_json(line, path)
        except InputError as error:
            torn = InputError(error.problem, file=path, key=where)
            # A kill cuts a line short; a crash of the system may leave zeros.
            if not _START.startswith(line.rstrip(b"\0")[: len(_START)]):
                raise torn from None
            continue
        record = _checked(entries, path, where)
        if torn is not None and record["kind"] not in ("start", "resume"):
            raise torn  # a run that continues after a kill logs it
        torn = None
        if record["kind"] in ("start", "resume"):
            step = record["step"]
            history = {key: value for key, value in history.items() if key[1] <= step}
        if record["kind"] == "resume":
            continue
        history[record["kind"], record["step"]] = record
    return sorted(history.values(), key=lambda record: record["step"])


def _checked(entries: object, path: Path, where: str) -> Record:
    """Check a record against the type of its kind; it may have further entries."""
    if not isinstance(entries, dict):
        raise InputError("not a record", file=path, key=where)
    kind = conform(entries.get("kind"), _Kind, file=path, key=f"{where}.kind")
    hints = _KINDS[kind]
    more = {name: entries[name] for name in entries.keys() - hints.keys()}
    conform(more, dict[str, _Value], file=path, key=where)
    for name, hint in hints.items():
        if name not in entries:
            raise InputError("an entry is missing", file=path, key=f"{where}.{name}")
        conform(entries[name], hint, file=path, key=f"{where}.{name}")
    return entries


def _json(value: object) -> object:
    # JSON has no NaN and no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value
