"""A folder of checkpoints, one for each saved step.

There is no pointer to the latest step that could be wrong: the steps are listed and
read, newest first. A step is *good* if it loads and matches its manifest; the last good
step is never removed. A step is removed by renaming it first and then deleting it. Only
one process, or the processes of one group, may write at a time; the writer must ensure
this. Other processes may read at the same time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from linsey.checkpoint import durable
from linsey.checkpoint.group import ALONE, Group
from linsey.checkpoint.step import (
    folder_name,
    open_checkpoint,
    parse_name,
    write_checkpoint,
    write_share,
)
from linsey.checkpoint.verified import VerifiedCheckpoint
from linsey.errors import DiskError, InputError, OptionError
from linsey.files import reporting

REFUSED = ".refused"


class CheckpointStore:
    """Save, find and prune checkpoints.

    Args:
        folder: the folder of the steps; created by the first `save`.
        group: the processes that write steps together, each into its own file, and that
            all call `save` and `prune`. Use `Processes()` for arrays that are divided
            over all processes. Defaults to this process alone.

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

    def __init__(self, folder: Path, group: Group = ALONE) -> None:
        self.folder, self.group = Path(folder), group

    def path(self, step: int) -> Path:
        """Return the folder of a step, whether it exists or not."""
        revision = max((r for s, r in self._found() if s == step), default=0)
        return self.folder / folder_name(step, revision)

    def steps(self) -> list[int]:
        """List the saved steps, oldest first, without reading them.

        Raises:
            DiskError: a disk operation failed.
        """
        return sorted({step for step, _ in self._found()})

    def clean(self) -> None:
        """Remove the remains of interrupted saves and removals; only for the writer."""
        if self._is_ours():
            durable.sweep(self.folder)

    def save(
        self,
        step: int,
        tree: Mapping[str, object],
        metadata: Mapping[str, object],
        *,
        replace: bool = False,
    ) -> None:
        """Save a step. When this returns, it is complete and on the disk.

        Args:
            step: the training step, at least 0.
            tree: nested dictionaries of arrays.
            metadata: JSON values.
            replace: whether to replace a step that was saved before. At any time,
                also after a crash, either the old or the new step exists.

        Raises:
            DiskError: the step was saved before, or a disk operation failed. Nothing
                new is left behind.
            ArgumentTypeError: something cannot be stored.
            InputError: the folder is a link, or a key or a number cannot be stored.
        """
        if step < 0:
            raise OptionError(
                f"The step is {step}.", "Steps are counted from 0.", "Pass `step=0`."
            )
        if self.group.index:
            write_share(self.folder, tree, self.group)
            return
        if not self._is_ours():
            durable.make_folder(self.folder)
        before = sorted(revision for s, revision in self._found() if s == step)
        revision = before[-1] + replace if before else 0
        folder = self.folder / folder_name(step, revision)
        write_checkpoint(
            folder, step, tree, metadata, revision=revision, group=self.group
        )
        for old in before:
            durable.remove_folder(self.folder / folder_name(step, old))

    def open(self, step: int) -> VerifiedCheckpoint:
        """Read a step.

        Raises:
            InputError: there is no such step, or it is damaged.
            DiskError: a disk operation failed.
        """
        while True:
            if step not in (steps := self.steps()):
                raise InputError(
                    "no such step",
                    file=self.folder,
                    expected=f"one of {steps}",
                    found=step,
                )
            path = self.path(step)
            try:
                return open_checkpoint(path)
            except (InputError, DiskError):
                if parse_name(path.name) in self._found():
                    raise
                # A writer has removed or replaced it in the meantime.

    def newest(self) -> VerifiedCheckpoint | None:
        """Read the newest step; return `None` if nothing was saved.

        Raises:
            InputError: the newest step is damaged. The message names the newest good
                step.
            DiskError: a disk operation failed.
        """
        while steps := self.steps():
            try:
                return self.open(steps[-1])
            except InputError as error:
                if steps[-1] not in self.steps():
                    continue  # a writer has removed it in the meantime
                intact = self.newest_intact()
                hint = f"step {intact} is intact: `discard_damaged` goes back to it"
                hint = "no older step is intact" if intact is None else hint
                raise error.with_hint(hint) from error
        return None

    def newest_intact(self) -> int | None:
        """Return the newest good step; `None` if there is none.

        Raises:
            DiskError: a disk operation failed.
        """
        return next(filter(self._is_good, reversed(self.steps())), None)

    def discard_damaged(self) -> list[InputError]:
        """Set aside damaged steps that are newer than the newest good one.

        Nothing is deleted: `.refused` is appended to the name of a damaged step.

        Returns:
            The reason for each step that was set aside, newest first.

        Raises:
            DiskError: a disk operation failed. A step that cannot be read at the moment
                does not count as damaged.
        """
        reasons = []
        while self._is_ours() and (steps := self.steps()):
            try:
                self.open(steps[-1])
                break
            except InputError as error:
                reasons.append(error)
                path = self.path(steps[-1])
                aside = durable.unused(path.with_name(path.name + REFUSED))
                durable.rename(path, aside.name)
        return reasons

    def prune(self, keep: Collection[int]) -> None:
        """Remove all steps except those to keep, but never the last good one.

        Nothing is removed if none of the steps to keep is good.

        Args:
            keep: the steps to keep.

        Raises:
            DiskError: a disk operation failed.
        """
        if self.group.index:
            return
        kept = [step for step in self.steps() if step in keep]
        newest = {self.path(step).name for step in kept}
        names = [folder_name(*found) for found in sorted(self._found())]
        doomed = [name for name in names if name not in newest]
        if self._is_ours() and doomed and any(map(self._is_good, reversed(kept))):
            for name in doomed:
                durable.remove_folder(self.folder / name)

    def _is_good(self, step: int) -> bool:
        try:
            self.open(step)
        except InputError:
            return False
        return True

    def _found(self) -> list[tuple[int, int]]:
        """Return the step and revision of every folder named like a step."""
        try:
            with reporting(self.folder, "read"):
                names = os.listdir(self.folder)
        except DiskError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return []
        return [found for found in map(parse_name, names) if found]

    def _is_ours(self) -> bool:
        """Tell whether the folder exists; raise an error if it is a link."""
        with reporting(self.folder, "read"):
            mode = durable.mode_of(self.folder)
            if stat.S_ISLNK(mode):
                hint = f"name the folder itself: {os.path.realpath(self.folder)}"
                problem = "a link, and links are not followed"
                raise InputError(problem, file=self.folder, hint=hint)
            return stat.S_ISDIR(mode)
