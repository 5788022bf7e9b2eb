"""Options in TOML files, read strictly and written so that they read back the same."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from linsey.app.config import TrainConfig
from linsey.training import durable
from linsey.training.input_error import InputError

NAME = "config.toml"
# Where and how a run is continued is said anew each time.
_NOT_SAVED = ("out", "config", "resume", "fallback")


def load_options(path: Path) -> dict[str, Any]:
    """Reads options from a TOML file.

    Args:
        path: keys are options, with `-` or `_`; tables only group them.

    Returns:
        The values by field of `TrainConfig`.

    Raises:
        InputError: no such file, not TOML, an unknown key, a value of another type.
    """
    try:
        record = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(error.strerror or str(error), file=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a TOML file: {error}", file=path) from error
    hints = typing.get_type_hints(TrainConfig)
    options = {}
    for key, value in _ungrouped(record):
        name = key.replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "see linsey train --help"
            raise InputError("unknown option", file=path, key=key, hint=hint)
        try:
            options[name] = _convert(value, hints[name])
        except TypeError as error:
            raise InputError(
                "value of another type", file=path, key=key, expected=error, found=value
            ) from None
    return options


def save_config(path: Path, config: TrainConfig) -> None:
    """Writes all options that describe a run, so that it can be repeated."""
    lines = ["# Options of this run: linsey train --config FILE repeats it."]
    for name, value in dataclasses.asdict(config).items():
        if value is not None and name not in _NOT_SAVED:
            lines.append(f"{name} = {_toml(value)}")
    durable.write_file(path, ("\n".join(lines) + "\n").encode())


def _ungrouped(record: dict[str, Any]) -> typing.Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _ungrouped(value)
        else:
            yield key, value


def _convert(value: Any, hint: Any) -> Any:
    """Fits a TOML value to a type; TypeError says what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert(value, next(arg for arg in args if arg is not types.NoneType))
    if origin is typing.Literal:
        if value in args:
            return value
        raise TypeError("one of " + ", ".join(args))
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(item, args[0]) for item in value)
        raise TypeError("a list")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise TypeError(f"a value of type {hint.__name__}")


def _toml(value: Any) -> str:
    # JSON strings, lists, numbers and booleans are TOML, with one exception: TOML
    # wants the delete character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
