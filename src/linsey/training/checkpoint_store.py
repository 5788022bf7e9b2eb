"""A folder of checkpoints, one for each saved step.

There is no pointer to the latest step that could be wrong: the steps are listed and
verified, newest first. A step is removed by renaming it away and then deleting it,
and the last one that verifies is never removed. One process writes at a time (see
`run_lock`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from linsey.training import durable
from linsey.training.input_error import InputError
from linsey.training.verified_checkpoint import (
    VerifiedCheckpoint,
    open_checkpoint,
    write_checkpoint,
)

_STEP = re.compile(r"step_(\d{8,})")
REFUSED = ".refused"


class CheckpointStore:
    """Saves, finds and prunes checkpoints.

    Args:
        folder: where the steps are; created by the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """The folder of a step, whether it exists or not."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """The saved steps, oldest first; their bytes are not verified here."""
        if not self.folder.is_dir():
            return []
        names = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def clean(self) -> None:
        """Removes what an interrupted save or removal left; only for the writer."""
        if self.folder.is_dir():
            durable.sweep(self.folder)

    def save(self, step: int, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Saves a step; when this returns it is complete and on the disk.

        Args:
            step: the training step, not saved before.
            tree: nested dictionaries of arrays.
            metadata: JSON values.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.path(step), step, tree, metadata)

    def open(self, step: int) -> VerifiedCheckpoint:
        """Verifies a step.

        Raises:
            InputError: there is no such step, or its bytes changed.
        """
        if step not in self.steps():
            raise InputError(
                "no such step",
                file=self.folder,
                expected=f"one of {self.steps()}",
                found=step,
            )
        return open_checkpoint(self.path(step))

    def newest(self) -> VerifiedCheckpoint | None:
        """The newest step, verified; None if nothing was saved.

        Raises:
            InputError: the newest step is damaged; says which older one is good.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return self.open(steps[-1])
        except InputError as error:
            raise self._refusal(error, steps[:-1]) from error

    def discard_damaged(self) -> list[InputError]:
        """Puts aside damaged steps that are newer than the newest good one.

        Nothing is deleted: a step that does not verify gets the ending `.refused`.

        Returns:
            Why each was put aside, newest first.
        """
        reasons = []
        for step in reversed(self.steps()):
            try:
                self.open(step)
                break
            except InputError as error:
                reasons.append(error)
                path = self.path(step)
                os.rename(path, _unused(path.with_name(path.name + REFUSED)))
                durable.sync_folder(self.folder)
        return reasons

    def prune(self, keep: Collection[int]) -> None:
        """Removes all steps but those to keep, and never the last good one.

        Args:
            keep: the steps that stay.
        """
        steps = self.steps()
        doomed = [step for step in steps if step not in keep]
        if doomed and not any(self._is_good(s) for s in reversed(steps) if s in keep):
            return
        for step in doomed:
            durable.remove_folder(self.path(step))

    def _is_good(self, step: int) -> bool:
        try:
            self.open(step)
        except InputError:
            return False
        return True

    def _refusal(self, error: InputError, older: list[int]) -> InputError:
        good = next((step for step in reversed(older) if self._is_good(step)), None)
        hint = (
            "no older step is intact"
            if good is None
            else f"step {good} is intact: train --resume --fallback continues from it"
        )
        return InputError(
            error.problem,
            file=error.file,
            key=error.key,
            expected=error.expected,
            found=error.actual,
            hint=hint,
        )


def _unused(path: Path) -> Path:
    """The path, numbered if something has that name already."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
