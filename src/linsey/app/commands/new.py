"""`linsey new`: write a file with a model to change."""

from __future__ import annotations

import os
from collections.abc import Sequence

from linsey.app.config import NewConfig
from linsey.app.options import parse
from linsey.app.starting_file import starting_file
from linsey.app.terminal import say
from linsey.checkpoint import durable
from linsey.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey new`.

    Returns:
        0.

    Raises:
        InputError: the name is not that of a Python file, or the file exists.
    """
    path = parse(NewConfig, "new", arguments).file
    if path.suffix != ".py":
        hint = f"name it {path.with_suffix('.py')}"
        raise InputError("not the name of a Python file", file=path, hint=hint)
    if os.path.lexists(path):
        hint = "name another file; nothing was changed"
        raise InputError("is there already", file=path, hint=hint)
    durable.make_folder(path.parent)
    durable.write_file(path, starting_file(str(path)).encode())
    say(f"wrote {path}; to train the model in it:\n  linsey train --model {path}:Model")
    return 0
