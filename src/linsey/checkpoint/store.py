"""A folder of checkpoints, one for each saved step.

There is no pointer to the latest step that could be wrong: the steps are listed and
verified, newest first. A step is removed by renaming it away and then deleting it,
and the last one that verifies is never removed. One process writes at a time: the
writer has to see to that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from linsey.checkpoint import durable
from linsey.checkpoint.step import VerifiedCheckpoint, open_checkpoint, write_checkpoint
from linsey.errors import InputError

_STEP = re.compile(r"step_(\d{8,})")
REFUSED = ".refused"


class CheckpointStore:
    """Save, find and prune checkpoints.

    Args:
        folder: where the steps are; created by the first `save`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> store = CheckpointStore(Path(tempfile.mkdtemp()))
        >>> store.save(7, {"params": {"w": np.arange(3.0)}}, {"note": "first"})
        >>> checkpoint = store.newest()
        >>> checkpoint.step, checkpoint.metadata["note"]
        (7, 'first')
        >>> checkpoint.restore({"params": {"w": np.zeros(3)}})
        {'params': {'w': array([0., 1., 2.])}}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return the folder of a step, whether it exists or not."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """List the saved steps, oldest first; their bytes are not verified here."""
        if not self.folder.is_dir():
            return []
        names = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def clean(self) -> None:
        """Remove what an interrupted save or removal left; only for the writer."""
        if self.folder.is_dir():
            durable.sweep(self.folder)

    def save(
        self, step: int, tree: Mapping[str, object], metadata: Mapping[str, object]
    ) -> None:
        """Save a step; when this returns it is complete and on the disk.

        Args:
            step: the training step, not saved before.
            tree: nested dictionaries of arrays.
            metadata: JSON values.

        Raises:
            OSError: the step was saved before, or the disk refused.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.path(step), step, tree, metadata)

    def open(self, step: int) -> VerifiedCheckpoint:
        """Verify a step.

        Raises:
            InputError: there is no such step, or its bytes changed.
        """
        if step not in self.steps():
            steps = f"one of {self.steps()}"
            raise InputError(
                "no such step", file=self.folder, expected=steps, found=step
            )
        return open_checkpoint(self.path(step))

    def newest(self) -> VerifiedCheckpoint | None:
        """Verify the newest step; return `None` if nothing was saved.

        Raises:
            InputError: the newest step is damaged; says which older one is intact.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return self.open(steps[-1])
        except InputError as error:
            intact = self.newest_intact()
            hint = f"step {intact} is intact: `discard_damaged` goes back to it"
            hint = "no older step is intact" if intact is None else hint
            raise error.with_hint(hint) from error

    def newest_intact(self) -> int | None:
        """Return the newest step that verifies; `None` if there is none."""
        return next(filter(self._is_intact, reversed(self.steps())), None)

    def discard_damaged(self) -> list[InputError]:
        """Put aside damaged steps that are newer than the newest intact one.

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
                os.rename(path, durable.unused(path.with_name(path.name + REFUSED)))
                durable.sync_folder(self.folder)
        return reasons

    def prune(self, keep: Collection[int]) -> None:
        """Remove all steps but those to keep, and never the last intact one.

        Args:
            keep: the steps that stay.
        """
        steps = self.steps()
        doomed = [step for step in steps if step not in keep]
        kept = [step for step in steps if step in keep]
        if doomed and any(map(self._is_intact, reversed(kept))):
            for step in doomed:
                durable.remove_folder(self.path(step))

    def _is_intact(self, step: int) -> bool:
        try:
            self.open(step)
        except InputError:
            return False
        return True
