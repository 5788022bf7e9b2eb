"""The model that `--model FILE.py:NAME` names.

The file runs as a module of its own, with its folder in the search path, so that it
imports what stands beside it. The name is a module of linsey or Flax, its class or a
function that makes it without arguments, or a function of variables.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from linsey.batch_stats.calls import is_linen
from linsey.errors import InputError

_FORM = "FILE.py:NAME, such as model.py:ResNet"
_OPTION = "--model"


def load_model_file(text: str) -> object:
    """Return what a text of the form `FILE.py:NAME` names.

    Args:
        text: `NAME` is an attribute of the file. A class, and a function whose
            parameters all have defaults, is called; another function is returned, to be
            called as `function(variables, x, train=..., mutable=...)`.

    Returns:
        The model.

    Raises:
        InputError: there is no such file or name, the file raises an error, or a class
            has arguments without defaults.
    """
    path, name = _parsed(text)
    module = _run(path)
    if not hasattr(module, name):
        raise _unknown(module, path, name)
    value = getattr(module, name)
    if is_linen(value):
        return value
    if not callable(value):
        found = f"{type(value).__name__}"
        expected = "a module, its class, or a function"
        raise InputError(
            "no model", file=path, key=name, expected=expected, found=found
        )
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return value
    missing = _required(value)
    if not missing:
        return _made(value, path, name)
    if inspect.isfunction(value):
        return value
    hint = f"write `model = {name}({', '.join(f'{one}=...' for one in missing)})` into "
    raise InputError(
        f"the class needs the arguments {', '.join(missing)}", file=path, key=name,
        hint=hint + f"{path.name}, and name {path.name}:model",
    )  # fmt: skip


def _parsed(text: str) -> tuple[Path, str]:
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise InputError("no name of a model", key=_OPTION, expected=_FORM, found=text)
    path = Path(file)
    if path.suffix != ".py":
        raise InputError("not a Python file", file=path, key=_OPTION, expected=_FORM)
    if not path.is_file():
        raise InputError("no such file", file=path, key=_OPTION)
    return path.resolve(), name


def _run(path: Path) -> ModuleType:
    """Run the file as a module, once in this process."""
    name = f"linsey_model_{path.stem}_{abs(hash(path)):x}"
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
        raise _raised(error, path, "running the file raised") from error
    return module


def _made(value: Callable[..., object], path: Path, name: str) -> object:
    try:
        return value()
    except Exception as error:
        raise _raised(error, path, f"{name}() raised") from error


def _raised(error: Exception, path: Path, what: str) -> InputError:
    """The error with the last line of the file that it went through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    key = f"line {lines[-1]}" if lines and lines[-1] else None
    problem = f"{what} {type(error).__name__}: {error}"
    hint = None
    if isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name} where linsey is installed"
    return InputError(problem, file=path, key=key, hint=hint)


def _required(value: Callable[..., object]) -> list[str]:
    """Names of the parameters without defaults."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        one.name
        for one in inspect.signature(value).parameters.values()
        if one.default is one.empty and one.kind not in kinds
    ]


def _unknown(module: ModuleType, path: Path, name: str) -> InputError:
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_")
        if getattr(value, "__module__", module.__name__) == module.__name__
    ]
    near = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean {near[0]}?" if near else None
    expected = ", ".join(own) or "a module, its class, or a function"
    problem = "the file has no such name"
    return InputError(problem, file=path, key=name, expected=expected, hint=hint)
