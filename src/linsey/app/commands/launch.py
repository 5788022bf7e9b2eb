"""`linsey launch`: start several processes of one job on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linsey.app import exit_codes
from linsey.app.terminal import say
from linsey.errors import InputError

_HELP = """\
usage: linsey launch -n N [OPTIONS] -- train [OPTIONS OF TRAIN]
       linsey launch -n N [OPTIONS] -- PROGRAM [ARGUMENTS]

Start N processes of one job on this machine: a command of linsey, or a program that
calls `linsey.distributed.initialize()`. If one of them fails, all end. Signals are
passed on to all. Lines of the ranks 1 to N-1 begin with the number of the rank.

The exit code is that of the first process that failed.

options:
  -n, --processes N        how many processes
  --max-restarts K         start all again if one fails, K times at most; `train` goes
                           on from the last step that was saved (defaults to 0)
  --devices-per-process D  devices of each process: CPU devices, or accelerators, of
                           which rank 0 takes the first D (defaults to 1)"""

# Exit codes after which starting again would not help.
_FINAL = (
    exit_codes.DONE,
    exit_codes.STOPPED,
    exit_codes.REFUSED,
    exit_codes.NOT_FINITE,
)


@dataclass
class _Options:
    processes: int = 0
    max_restarts: int = 0
    devices_per_process: int | None = None


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey launch`.

    Returns:
        The exit code of the first process that failed.

    Raises:
        InputError: the options are wrong, or there is nothing to start.
    """
    options, program = _parsed(arguments)
    if not program:
        say(_HELP)
        return exit_codes.DONE if options is None else exit_codes.REFUSED
    assert options is not None
    if is_training := program[0] == "train":
        program = _with_folder(program)
    from linsey.distributed.launcher import Launcher

    launcher = Launcher(options.processes, options.devices_per_process)
    for restart in range(options.max_restarts + 1):
        if restart and is_training:
            program = _resumed(program)
        code, rank = launcher.run(_command(program), restart)
        if code > 128:
            name = signal.Signals(code - 128).name
            say(f"linsey launch: rank {rank} was ended by {name}", sys.stderr)
        if code in _FINAL or launcher.is_stopping:
            break
        if restart < options.max_restarts:
            left = options.max_restarts - restart - 1
            text = f"rank {rank} failed with exit code {code}: starting all again"
            say(f"linsey launch: {text} ({left} restarts left)", sys.stderr)
    return code


def _parsed(arguments: Sequence[str]) -> tuple[_Options | None, list[str]]:
    """Return the options and the program; the options are `None` for `--help`."""
    rest, values = list(arguments), {}
    names = {"-n": "processes", "--processes": "processes"}
    names |= {f"--{one}": one for one in ("max-restarts", "devices-per-process")}
    while rest and rest[0].startswith("-"):
        option, has_value, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option in ("-h", "--help"):
            return None, []
        if option not in names:
            expected = ", ".join(names)
            raise InputError("no such option", key=option, expected=expected)
        if not has_value:
            value = rest.pop(0) if rest else ""
        least = 0 if option == "--max-restarts" else 1
        if not value.isdigit() or int(value) < least:
            expected = f"a number from {least} on"
            raise InputError("not a number", key=option, expected=expected, found=value)
        values[names[option].replace("-", "_")] = int(value)
    if rest and "processes" not in values:
        raise InputError(
            "how many processes?", key="-n", hint="linsey launch -n 2 -- ..."
        )
    return _Options(**values), rest


def _command(program: Sequence[str]) -> list[str]:
    """Return the command line of a rank."""
    from linsey.app.cli import is_command

    if is_command(program[0]):
        return [sys.executable, "-m", "linsey", *program]
    if program[0] == "python":
        return [sys.executable, *program[1:]]
    if program[0].endswith(".py"):
        return [sys.executable, *program]
    return list(program)


def _with_folder(program: list[str]) -> list[str]:
    """Name the folder of the run, which otherwise would differ between processes."""
    if _folder(program) is not None or {"-h", "--help"} & {*program}:
        return program
    from linsey.app.options import parse_train
    from linsey.app.run_folder import default_out

    return [*program, "--out", os.fspath(default_out(parse_train(program[1:])))]


def _folder(program: Sequence[str]) -> Path | None:
    for option, value in zip(program, [*program[1:], ""], strict=True):
        if option == "--out":
            return Path(value)
        if option.startswith("--out="):
            return Path(option.partition("=")[2])
    return None


def _resumed(program: list[str]) -> list[str]:
    """Make `train` resume the run, if it has begun one."""
    from linsey.app.run_folder import RunFolder

    folder = _folder(program)
    if folder is None or "--resume" in program or not RunFolder(folder).config.exists():
        return program
    return [*program, "--resume"]
