"""The target that a command writes to: nothing is ever overwritten."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from linsey.errors import InputError


def refuse_occupied(target: Path) -> None:
    """Refuse a target that exists: nothing is overwritten."""
    if os.path.lexists(target):
        hint = "name another one, or remove it"
        raise InputError("is there already", file=target, hint=hint)


def refuse_target(target: Path) -> None:
    """Refuse a target that exists, or whose folder does not.

    Raises:
        InputError: one of the two is the case; the error says which.
    """
    refuse_occupied(target)
    if not target.parent.is_dir():
        hint = f"mkdir -p {shlex.quote(str(target.parent))}"
        raise InputError("no such folder to write to", file=target.parent, hint=hint)
