"""The import of models given as `FILE.py:NAME` or `package.module:NAME`.

A file runs as a module of its own, with its folder in the search path, so that it can
import the files beside it. It runs once in a process, and again if it was changed.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from linsey.app.model_name import OPTION, checked_name, parted
from linsey.errors import InputError

EXPECTED = "a module, its class, or a function"


def import_named(text: str) -> tuple[ModuleType, object]:
    """Import the value that a text names.

    Args:
        text: `FILE.py:NAME`, or `package.module:NAME` of a package that is installed
            or in the current folder.

    Returns:
        The module, and the value of this name in it.

    Raises:
        InputError: there is no such file, module or name, or running it raises.
    """
    place, name = parted(checked_name(text))
    is_file = place.endswith(".py")
    module = _run(Path(place)) if is_file else _imported(place)
    if not hasattr(module, name):
        raise _unknown(module, place, name)
    return module, getattr(module, name)


def _run(path: Path) -> ModuleType:
    """Run a file as a module, unless this process has done so already."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"linsey_model_{path.stem}_{abs(hash(path)):x}_{content[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise raised(error, path, "running the file raised") from error
    return module


def _imported(name: str) -> ModuleType:
    # At the end, so that nothing in the current folder hides an installed package.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            hint = "run linsey where it is installed or in its folder"
            problem = "no such module"
            raise InputError(problem, file=name, key=OPTION, hint=hint) from error
        raise raised(error, name, "importing it raised") from error


def raised(error: Exception, place: str | Path, what: str) -> InputError:
    """Return an exception of a user's code as an error that says where it was raised.

    Args:
        error: what the code raised.
        place: the file or the module.
        what: what was being done, such as "running the file raised".
    """
    file = str(place)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    key = f"line {lines[-1]}" if lines and lines[-1] else None
    problem = f"{what} {type(error).__name__}: {error}"
    hint = None
    if isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name} where linsey is installed"
    return InputError(problem, file=file, key=key, hint=hint)


def _unknown(module: ModuleType, place: str, name: str) -> InputError:
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_")
        if getattr(value, "__module__", module.__name__) == module.__name__
    ]
    near = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean {near[0]}?" if near else None
    kind = "file" if place.endswith(".py") else "module"
    problem, expected = f"the {kind} has no such name", ", ".join(own) or EXPECTED
    return InputError(problem, file=place, key=name, expected=expected, hint=hint)
