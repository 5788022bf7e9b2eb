"""The `linsey` command: lists the commands and turns their errors into exit codes.

Exit codes: 0 done; 1 failed unexpectedly, with a traceback, or a program under `run`
failed; 2 an input is wrong, damaged or in use (one line on standard error says
what and where, and nothing was overwritten); 3 an audit found errors; 5 numbers of the
run became NaN or infinite; 6 the disk or the system refused to read or write (one line
with path, cause, needed and free bytes); 75 stopped by a signal after saving, run again
with `--resume`.

Signal handlers are installed before anything else is imported; see
`linsey.app.stopping`. A program under `run` handles its own signals, and `launch`
passes them on.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from linsey.app import exit_codes
from linsey.app.exit_codes import NotFiniteError
from linsey.app.failures import report
from linsey.app.stopping import Stopped, StopRequest
from linsey.app.terminal import flush, say
from linsey.errors import InputError
from linsey.extras import MissingPackageError, install_hint

_COMMANDS = {
    "train": "train a classifier and record the run in a folder",
    "eval": "evaluate a checkpoint on its test data, or on other data",
    "predict": "predict the classes of images, tables or arrays",
    "export": "export a model as a program for plain JAX, and check it",
    "inspect": "list what a checkpoint holds: shapes, dtypes, sizes, ranges",
    "audit": "find out what is wrong with running statistics",
    "recalibrate": "replace running statistics by those of the data",
    "fold": "fold batch norms into the layers around them, for evaluation",
    "convert": "copy a checkpoint into another format: steps, Orbax, msgpack",
    "new": "write a file with a model to change",
    "summary": "show the layers of a model with shapes and sizes",
    "launch": "start several processes of one job on this machine",
    "run": "run a program that imports Flax or treex, unedited, on linsey",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the arguments after the program's name. Defaults to those of the
            process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["run"], ["launch"]):  # the programs they start get the signals
        return _finish(given)
    _replace_closed_streams()
    with StopRequest(at_once=True) as stop:
        try:
            code = _finish(given)
        finally:  # help ends by `SystemExit`
            flush()
        if arguments is None:
            stop.ignore_others()
    return code


def _finish(given: Sequence[str]) -> int:
    """Run the command and turn what it raises into an exit code."""
    try:
        return _run(given)
    except (InputError, MissingPackageError, NotFiniteError) as error:
        return _complain(error)
    except Stopped as signal_name:
        # Commands that have something to save stop in another way.
        say(f"stopped by {signal_name}; to start again:\n  linsey {shlex.join(given)}")
        return exit_codes.STOPPED
    except KeyboardInterrupt:  # in a program under `run`
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads the output any more; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _complain(error)


def _run(given: Sequence[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        say(_overview())
        return exit_codes.DONE if given else exit_codes.REFUSED
    if given[0] in ("-V", "--version"):
        from importlib.metadata import version

        say(f"linsey {version('linsey')}")
        return exit_codes.DONE
    name, *options = given
    try:
        return _load(name)(options)
    except Exception:
        # If a signal raised `Stopped` during an import, the half-imported module may
        # have turned it into another exception.
        StopRequest.check()
        raise


def _overview() -> str:
    lines = ["usage: linsey COMMAND [OPTIONS]", "       linsey --version", ""]
    lines += [f"  {name:<11} {text}" for name, text in _COMMANDS.items()]
    lines += ["", "linsey COMMAND --help lists the options of a command."]
    lines += ["", "exit codes:"]
    lines += [f"  {code:<11} {text}" for code, text in exit_codes.TABLE]
    return "\n".join(lines)


def is_command(name: str) -> bool:
    """Tell whether a command has this name."""
    return name in _COMMANDS


def _complain(error: Exception) -> int:
    code, text = report(error)
    say(text.removesuffix("\n"), sys.stderr)
    return code


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


def _replace_closed_streams() -> None:
    """Open the null device in place of closed standard streams (`>&-`).

    Otherwise a file of the run would get the file descriptor of the closed stream, and
    whatever is written to the stream would end up in the file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False))
