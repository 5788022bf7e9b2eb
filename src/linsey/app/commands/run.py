"""`linsey run`: run a program that imports Flax or treex, unedited, on linsey."""

from __future__ import annotations

import atexit
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from linsey import compat
from linsey.app.terminal import say
from linsey.compat import children, old_jax
from linsey.compat.report import report
from linsey.config import config
from linsey.errors import InputError
from linsey.errors.misuse import POLICIES

_HELP = """\
usage: linsey run [OPTIONS] SCRIPT [ARGS]
       linsey run [OPTIONS] -m MODULE [ARGS]

Run a Python program as `python SCRIPT [ARGS]` does, except that `import flax` and what
is under it, on the Linen side, yield linsey's modules, and so do `import treex` and
`import treeo`: in the program, in the libraries that it uses and in the Python
processes that it starts. `-m pytest` runs the tests of a project that way. `flax.nnx`
is Flax's own, if Flax is installed.

options:
  --old-jax         give back names that JAX has removed (jax.tree_map, jnp.product,
                    jax.experimental.optimizers, ...), with one notice a name
  --report          list at the end which names of Flax the program used, which of them
                    are private and served by adapters, and which do not exist
  --misuse POLICY   what to do about code that Flax accepts but that is certainly a
                    mistake: warn (the default), error or ignore; the environment
                    variable LINSEY_MISUSE does the same"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey run`.

    Returns:
        0, or 1 if the program ended with an exception, whose traceback is shown. A
        program that exits with another code raises `SystemExit`.

    Raises:
        InputError: there is no such program, or no such option.
    """
    options, rest = _split_options(arguments)
    if "--misuse" in options:
        _choose_policy(options["--misuse"])
    if not rest:
        say(_HELP)
        return 0 if "--help" in options else 2
    program = _module(rest[1:]) if rest[0] == "-m" else _script(rest)
    children.announce("--old-jax" in options)
    if "--old-jax" in options:
        old_jax.restore()
    if "--report" in options:
        atexit.register(_print_report)
    try:
        program()
    except Exception as error:
        own = _without_our_frames(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(own), own)
        return 1
    return 0


def _split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options with their values, and the program with its arguments."""
    rest, options = list(arguments), {}
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-"):
        option, has_value, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option in ("-h", "--help"):
            return {"--help": ""}, []
        if option not in ("--old-jax", "--report", "--misuse"):
            known = "--old-jax, --report, --misuse, -m"
            raise InputError("no such option", key=option, expected=known)
        if option == "--misuse" and not has_value:
            value = rest.pop(0) if rest else ""
        options[option] = value
    return options, rest


def _choose_policy(policy: str) -> None:
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise InputError("no such policy", key="--misuse", expected=known, found=policy)
    os.environ["LINSEY_MISUSE"] = policy  # for the processes it starts, too
    config.update("misuse", policy)


def _print_report() -> None:
    print(report(), file=sys.stderr)


def _script(arguments: Sequence[str]) -> Callable[[], Any]:
    script = Path(arguments[0])
    if not script.exists():
        raise InputError("there is no such program", file=script)
    sys.argv = list(arguments)
    # As the interpreter does, so that a program can import the files beside it.
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
