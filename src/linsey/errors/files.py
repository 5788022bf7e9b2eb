"""Mistakes with files, folders and checkpoints."""

from __future__ import annotations

import errno
import os

from linsey.errors.base import LinseyError, printable

_LONGEST = 400  # characters


class InputError(LinseyError):
    """A file, a folder, an array in it or an option cannot be used.

    The message is one line: where, what is wrong, what was expected, what was found,
    and what to do. Each part is also an attribute, so that a program can word the
    advice in its own terms.

    Args:
        problem: what is wrong, as a short clause.
        file: the file or folder that holds it.
        key: the option, array, field or row inside that file.
        expected: what would have been right.
        found: what was there. The attribute is called `actual`, since the attribute
            `found` of linsey's errors is the whole message.
        hint: what the user can do, as a command.

    Example:
        >>> print(InputError("label out of range", file="a.npz", key="y[7]",
        ...                  expected="0 to 9", found=12, hint="count from 0"))
        a.npz: y[7]: label out of range: expected 0 to 9, found 12 (count from 0)
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.key = key
        self.expected = None if expected is None else str(expected)
        self.actual = None if found is None else str(found)
        self.hint = hint
        super().__init__(printable(" ".join(self._line().split())))

    def with_hint(self, hint: str) -> InputError:
        """Return the same error with other advice."""
        rest = {"file": self.file, "key": self.key, "expected": self.expected}
        return InputError(self.problem, found=self.actual, hint=hint, **rest)

    def _line(self) -> str:
        where = [part for part in (self.file, _shortened(self.key)) if part]
        line = ": ".join([*where, self.problem])
        facts = {"expected": _shortened(self.expected)}
        facts["found"] = _shortened(self.actual)
        told = [f"{word} {fact}" for word, fact in facts.items() if fact is not None]
        if told:
            line += ": " + ", ".join(told)
        return f"{line} ({self.hint})" if self.hint else line


def _shortened(text: str | None) -> str | None:
    """Return a text that came from a file, shortened if it is too long to read."""
    if text is None or len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class DiskError(LinseyError, OSError):
    """The disk or the system refused to read or write: one line with the sizes.

    Args:
        error: the exception of the system; its `errno` is kept.
        file: the file or folder that was read or written.
        doing: the verb of the message, such as "save".
        needed: number of bytes that were to be written, if known.
        free: number of free bytes. If `None`, it is read from the system.

    Attributes:
        needed: the same.
        free: number of free bytes on that disk; `None` if it is not known.

    Example:
        >>> error = OSError(28, "No space left on device")
        >>> print(DiskError(error, "/no/step", needed=5000, free=4096))
        /no/step: cannot write: No space left on device (ENOSPC): 5,000 bytes are
        needed, 4,096 are free
    """

    def __init__(
        self,
        error: OSError,
        file: str | os.PathLike[str],
        doing: str = "write",
        needed: int | None = None,
        free: int | None = None,
    ) -> None:
        self.file = os.fspath(file)
        self.needed = needed
        self.free = _free_bytes(self.file) if free is None else free
        cause = error.strerror or str(error) or type(error).__name__
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        sizes = [] if needed is None else [f"{needed:,} bytes are needed"]
        sizes += [] if self.free is None else [f"{self.free:,} are free"]
        line = f"{self.file}: cannot {doing}: {cause} ({name})"
        super().__init__(printable(": ".join([line, ", ".join(sizes)]).rstrip(": ")))
        self.errno, self.strerror = error.errno, cause
        self.filename = self.file

    def __str__(self) -> str:
        return self.found


def _free_bytes(path: str) -> int | None:
    """Return how many more bytes a user may write at a path."""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        disk = os.statvfs(path or ".")
    except (OSError, AttributeError):  # Windows has no statvfs
        return None
    return disk.f_bavail * disk.f_frsize


class AlreadyExistsError(LinseyError):
    """The file to be written exists already."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f'Trying overwrite an existing file: "{path}".',
            "Nothing is overwritten unless that is asked for.",
            "Pass `overwrite=True`, or write to another path.",
        )


class InvalidCheckpointError(LinseyError, ValueError):
    """The folder holds a checkpoint of the step to be saved, or of a later one."""

    def __init__(self, path: object, step: object) -> None:
        super().__init__(
            f'Trying to save an outdated checkpoint at step: "{step}" and path: '
            f'"{path}".',
            "The folder holds a checkpoint of this or of a later step.",
            "Pass `overwrite=True` to replace the later ones, or use another folder.",
        )


class MPACheckpointingRequiredError(LinseyError):
    """Arrays sharded over several processes are saved without a suitable manager."""

    def __init__(self, path: object, step: object) -> None:
        super().__init__(
            f'Checkpoint failed at step: "{step}" and path: "{path}": Target contains '
            "a multiprocess array should be saved/restored with a "
            "GlobalAsyncCheckpointManager.",
            "No process holds the whole of such an array.",
            "Pass `gda_manager=`, or use the Orbax checkpointer.",
        )


class MPARestoreTargetRequiredError(LinseyError):
    """Arrays sharded over several processes are restored without a target."""

    def __init__(self, path: object, step: object, key: object = None) -> None:
        array = f" This error fired when trying to restore array at {key}."
        at = "" if key is None else array
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" and path: "{path}": '
            "Checkpoints containing a multiprocess array need to be restored with a "
            f"target with pre-created arrays.{at}",
            "The sharding of each array is taken from the array in the target.",
            "Pass a full target, or `allow_partial_mpa_restoration=True`.",
        )


class MPARestoreDataCorruptedError(LinseyError):
    """An array sharded over several processes was not written completely."""

    def __init__(self, step: object, path: object) -> None:
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" on multiprocess array at  '
            f'"{path}": No "commit_success.txt" found on this "_gda" directory.',
            "The save was stopped before it was complete.",
            "Restore an earlier step.",
        )
