"""Options of the commands: from defaults, TOML files, resumed runs, command lines.

TOML files are read strictly, and written so that they read back the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from linsey.app.arguments import gathered
from linsey.app.config import TrainConfig, resolve, validate
from linsey.app.model_name import BUILT_IN, is_own, not_given
from linsey.checkpoint import durable
from linsey.errors import InputError
from linsey.files import parsing, read_regular
from linsey.schema import conform

CONFIG_FILE = "config.toml"
MAX_CONFIG_BYTES = 2**16
_MAX_DOTS = 300  # in a line: parsing takes time quadratic in the parts of a key
# Where and how a run continues is given again each time.
_NOT_SAVED = ("out", "config", "resume", "fallback", "coordinator", "processes", "rank")

# Each occurrence adds to the earlier ones.
_REPEATED = ("--optimizer-arg", "--schedule-arg", "--class-weights", "--model-arg")

ConfigType = TypeVar("ConfigType")


# -- command lines -------------------------------------------------------------------


def parse(
    kind: type[ConfigType],
    name: str,
    arguments: Sequence[str],
    default: ConfigType | None = None,
) -> ConfigType:
    """Read the options of a command; `--help` raises `SystemExit`.

    Args:
        kind: the dataclass of the options.
        name: the command.
        arguments: the arguments after the command.
        default: the values of options that are not given. If `None`, those of the
            dataclass.

    Returns:
        The options.

    Raises:
        InputError: an option is unknown, or its value is of another type or out of
            range.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                kind,
                prog=f"linsey {name}",
                args=gathered(arguments, _REPEATED),
                default=default,
                config=(tyro.conf.PositionalRequiredArgs,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        sentence = _in_a_line(complaint.getvalue())
        raise InputError(sentence, hint=f"linsey {name} --help") from None
    validate(config)
    return config


def parse_train(arguments: Sequence[str]) -> TrainConfig:
    """Merge the options of a run: command line over TOML file over saved run.

    Args:
        arguments: the arguments after `linsey train`.

    Returns:
        Resolved and validated options.

    Raises:
        InputError: a resumed run would not be the run that was started.
    """
    given = parse(TrainConfig, "train", arguments)
    saved: dict[str, Any] = {}
    if given.resume:
        if given.out is None:
            hint = "name its folder with --out"
            raise InputError("which run?", key="--resume", hint=hint)
        saved_path = given.out / CONFIG_FILE
        saved = load_options(saved_path) if saved_path.exists() else {}
    from_file = load_options(given.config) if given.config else {}
    if from_file.keys() & {"out", "resume", "config"}:
        problem = "`out`, `resume` and `config` belong on the command line"
        raise InputError(problem, file=given.config)
    base = TrainConfig(**{**saved, **from_file})
    config = parse(TrainConfig, "train", arguments, base)
    # The file or folder may come from somebody else.
    if is_own(config.model) and config.model != given.model:
        raise not_given(config.model, given.config or given.out)
    config = resolve(config)
    if config.compare and config.model not in BUILT_IN:
        raise InputError(
            "compares mlp, cnn and resnet with and without normalization",
            key="--compare", found=f"--model {config.model}",
            hint="leave --compare out",
        )  # fmt: skip
    if config.compare and config.weights is not None:
        problem = "compares models that both begin anew"
        raise InputError(problem, key="--compare", hint="leave --weights out")
    refuse_other_options(config, saved)
    return config


def refuse_other_options(config: TrainConfig, saved: dict[str, Any]) -> None:
    """Refuse to resume a run with options that would make it another one.

    Args:
        config: resolved options.
        saved: the options that the run saved; empty if there are none.

    Raises:
        InputError: an option that decides the numbers differs.
    """
    kept = TrainConfig(**saved).identity if saved else {}
    for name, value in kept.items():
        if (found := config.identity[name]) != value:
            if name == "epochs" and config.epochs > TrainConfig(**saved).epochs:
                continue  # a run may go on for longer
            raise InputError(
                "a resumed run keeps its options", file=config.out,
                key="--" + name.replace("_", "-"), expected=value, found=found,
                hint="start another run with another --out",
            )  # fmt: skip


def _in_a_line(complaint: str) -> str:
    """Extract the sentence and the first suggestion from tyro's box."""
    lines = [line.strip("│╭╮╰╯ ") for line in complaint.splitlines()]
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─")]
    sentence = " ".join(lines[1 : rules[0]] if rules else lines)
    sentence = sentence.partition("Got errors:")[0].strip().rstrip(".")
    if "Perhaps you meant" in complaint:
        near = re.search(r"--[\w-]+", complaint.partition("Perhaps you meant")[2])
        sentence += f"; did you mean {near[0]}?" if near else ""
    return sentence


# -- TOML files ----------------------------------------------------------------------


def load_options(path: Path) -> dict[str, Any]:
    """Read options from a TOML file.

    Args:
        path: the file. Its keys are options, with `-` or `_`; tables only group them.

    Returns:
        The values by field of `TrainConfig`.

    Raises:
        InputError: the file does not exist or is not TOML, a key is unknown, or a value
            is of another type or out of range.
        DiskError: a file cannot be read or written.
    """
    content = read_regular(path, limit=MAX_CONFIG_BYTES)
    for number, line in enumerate(content.splitlines(), 1):
        if line.count(b".") > _MAX_DOTS:
            key = f"line {number}"
            raise InputError("a key or a list that is too long", file=path, key=key)
    with parsing(path, "not a TOML file"):
        record = tomllib.loads(content.decode())
    return options_of(_ungrouped(record), path)


def options_of(
    pairs: Iterable[tuple[str, object]], file: Path | None
) -> dict[str, Any]:
    """Check options by name.

    Args:
        pairs: names, with `-` or `_`, and values.
        file: where they come from, for messages.

    Returns:
        The values by field of `TrainConfig`.

    Raises:
        InputError: a name is unknown, or a value is of another type or out of range.
    """
    hints = typing.get_type_hints(TrainConfig, include_extras=True)
    options: dict[str, Any] = {}
    for key, value in pairs:
        name = key.replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name[:40], hints, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "see linsey train --help"
            raise InputError("unknown option", file=file, key=key, hint=hint)
        if name in options:
            raise InputError("an option is there twice", file=file, key=key)
        options[name] = conform(value, hints[name], file=file, key=key)
    return options


def save_config(path: Path, config: TrainConfig) -> None:
    """Write all options that describe a run, so that it can be repeated."""
    lines = ["# Options of this run: linsey train --config FILE repeats it."]
    for name, value in dataclasses.asdict(config).items():
        if value is not None and name not in _NOT_SAVED:
            # JSON strings, lists, numbers and booleans are TOML, with one exception:
            # TOML wants the delete character escaped.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{name} = {text}")
    durable.write_file(path, ("\n".join(lines) + "\n").encode())


def _ungrouped(record: dict[str, Any]) -> Iterator[tuple[str, object]]:
    tables = [record]
    for table in tables:
        for key, value in table.items():
            if isinstance(value, dict):
                tables.append(value)
            else:
                yield key, value
