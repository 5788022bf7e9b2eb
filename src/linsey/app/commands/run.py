"""`linsey run`: run a program that imports Flax, unedited, on linsey."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from linsey import compat
from linsey.errors import InputError

_HELP = """\
usage: linsey run SCRIPT [ARGS]
       linsey run -m MODULE [ARGS]

Run a Python program as `python SCRIPT [ARGS]` does, except that `import flax` and
what is under it, on the Linen side, yield linsey's modules: in the program and in the
libraries that it uses."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: what follows `linsey run`.

    Returns:
        0, or 1 if the program ended with an exception, whose traceback is shown. One
        that ends itself with another code raises `SystemExit`.

    Raises:
        InputError: there is no such program.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0 if arguments else 2
    program = _module(arguments[1:]) if arguments[0] == "-m" else _script(arguments)
    try:
        program()
    except Exception as error:
        own = _without_our_frames(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(own), own)
        return 1
    return 0


def _script(arguments: Sequence[str]) -> Callable[[], Any]:
    script = Path(arguments[0])
    if not script.exists():
        raise InputError("there is no such program", file=script)
    sys.argv = list(arguments)
    # As the interpreter does: what lies beside a program can be imported by it.
    folder = script if script.is_dir() else script.parent
    sys.path.insert(0, str(folder.resolve()))
    compat.install()
    return partial(runpy.run_path, str(script), run_name="__main__")


def _module(arguments: Sequence[str]) -> Callable[[], Any]:
    if not arguments:
        raise InputError("which module?", key="-m", hint="linsey run -m MODULE")
    name = arguments[0]
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path.cwd()))
    compat.install()
    try:
        found = importlib.util.find_spec(name)  # imports the packages it is in
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        found = None
    if found is None:
        raise InputError("there is no such module", key="-m", found=name)
    return partial(runpy.run_module, name, run_name="__main__", alter_sys=True)


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    while traceback and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    return traceback
