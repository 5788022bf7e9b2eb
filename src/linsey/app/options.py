"""Options of `linsey train` from defaults, TOML file, resumed run and command line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from linsey.app import config_file
from linsey.app.config import TrainConfig, resolve
from linsey.training.input_error import InputError

ConfigType = TypeVar("ConfigType")


def parse(
    kind: type[ConfigType],
    name: str,
    arguments: Sequence[str],
    default: ConfigType | None = None,
) -> ConfigType:
    """Reads the options of a command; `--help` leaves by SystemExit.

    Args:
        kind: the dataclass of the options.
        name: the command.
        arguments: what follows the command.
        default: what options have that are not given.

    Returns:
        The options.

    Raises:
        InputError: an option is unknown, or its value is not of its type.
    """
    extra: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"linsey {name}",
                args=list(arguments),
                config=(tyro.conf.PositionalRequiredArgs,),
                **extra,
            )
    except SystemExit as end:
        if not end.code:
            raise
    raise InputError(_in_a_line(complaint.getvalue()), hint=f"linsey {name} --help")


def parse_train(arguments: Sequence[str]) -> TrainConfig:
    """Layers the options of a run: command line over TOML file over saved run.

    Args:
        arguments: what follows `linsey train`.

    Returns:
        Resolved and validated options.

    Raises:
        InputError: a resumed run would not be the run that was started.
    """
    given = parse(TrainConfig, "train", arguments)
    saved: dict[str, Any] = {}
    if given.resume:
        if given.out is None:
            raise InputError(
                "which run?", key="--resume", hint="name its folder with --out"
            )
        saved_path = given.out / config_file.NAME
        saved = config_file.load_options(saved_path) if saved_path.exists() else {}
    from_file = config_file.load_options(given.config) if given.config else {}
    if from_file.keys() & {"out", "resume", "config"}:
        raise InputError(
            "`out`, `resume` and `config` belong on the command line", file=given.config
        )
    base = TrainConfig(**{**saved, **from_file})
    config = resolve(parse(TrainConfig, "train", arguments, base))
    if saved:
        _require_same_run(config, TrainConfig(**saved))
    return config


def _in_a_line(complaint: str) -> str:
    """Takes the sentence out of tyro's box, and its first suggestion."""
    lines = [line.strip("│╭╮╰╯ ") for line in complaint.splitlines()]
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─")]
    sentence = " ".join(lines[1 : rules[0]] if rules else lines)
    sentence = sentence.partition("Got errors:")[0].strip().rstrip(".")
    if "Perhaps you meant" in complaint:
        near = re.search(r"--[\w-]+", complaint.partition("Perhaps you meant")[2])
        sentence += f"; did you mean {near[0]}?" if near else ""
    return sentence


def _require_same_run(config: TrainConfig, saved: TrainConfig) -> None:
    for name, value in saved.identity.items():
        if config.identity[name] != value:
            raise InputError(
                "a resumed run keeps its options",
                file=config.out,
                key="--" + name.replace("_", "-"),
                expected=value,
                found=config.identity[name],
                hint="start another run with another --out",
            )
