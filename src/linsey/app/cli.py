"""The `linsey` command: names the commands and turns their errors into exit codes.

Exit codes: 0 done; 1 the machine refused, such as a full disk; 2 something the user
gave is wrong (one line on standard error says what and where, and nothing was
overwritten); 75 stopped by a signal after saving, run again with `--resume`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from linsey.errors import InputError
from linsey.extras import MissingPackageError, install_hint

_COMMANDS = {
    "train": "train a classifier and record the run in a folder",
    "eval": "evaluate a checkpoint on its test data, or on other data",
    "inspect": "list what a checkpoint holds: shapes, dtypes, sizes, ranges",
    "convert": "copy a checkpoint into another format: steps, Orbax, msgpack",
    "summary": "show the layers of a model with shapes and sizes",
    "run": "run a program that imports Flax or treex, unedited, on linsey",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name. Defaults to those of the process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print("usage: linsey COMMAND [OPTIONS]\n")
        for name, text in _COMMANDS.items():
            print(f"  {name:<9} {text}")
        print("\nlinsey COMMAND --help lists the options of a command.")
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print("linsey", version("linsey"))
        return 0
    name, *options = given
    try:
        return _load(name)(options)
    except (InputError, MissingPackageError) as error:
        print("linsey: error:", *str(error).split("\n"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before or after the part that saves when it is stopped.
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads any more; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        # The machine refused: a full disk, a folder without permission.
        print(f"linsey: error: {error}", file=sys.stderr)
        return 1


def _load(name: str) -> Callable[[Sequence[str]], int]:
    if name not in _COMMANDS:
        expected = ", ".join(_COMMANDS)
        raise InputError("no such command", expected=expected, found=name)
    try:
        module = importlib.import_module(f"linsey.app.commands.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("linsey"):
            raise
        problem = f"the command needs `{error.name}`"
        raise InputError(problem, hint=install_hint("train")) from error
    return module.main
