"""`NAME=VALUE`: arguments on a command line and in the record of a run.

A value is `true`, `false` or `none` in any case, a literal of TOML or Python, or
otherwise text. Each value is written in one form only, so that runs with equal
arguments have equal records.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping

from linsey.errors import InputError

_WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
_NUMBERS = (bool, int, float, complex, type(None))


def parse_arguments(
    texts: Iterable[str], option: str = "--model-arg"
) -> dict[str, object]:
    """Read arguments.

    Args:
        texts: one for each argument.
        option: the option they come from, for messages.

    Returns:
        The values by name.

    Raises:
        InputError: a text has no name, or two have the same name.

    Example:
        >>> parse_arguments(["width=64", "act=gelu", "use_bias=false", "sizes=[3, 3]"])
        {'width': 64, 'act': 'gelu', 'use_bias': False, 'sizes': (3, 3)}
    """
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            problem = "not an argument"
            raise InputError(problem, key=option, expected="NAME=VALUE", found=text)
        if name in found:
            raise InputError("an argument is there twice", key=option, found=name)
        found[name] = _value(value.strip())
    return found


def argument_texts(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """Write arguments so that `parse_arguments` reads them, in the order of the names.

    Raises:
        InputError: a value is not a number, a text, or a tuple of these.

    Example:
        >>> argument_texts({"width": 64, "act": "gelu", "label": "3"})
        ('act=gelu', "label='3'", 'width=64')
    """
    return tuple(
        f"{name}={_text(name, value)}" for name, value in sorted(arguments.items())
    )


def in_one_form(texts: Iterable[str]) -> tuple[str, ...]:
    """Return arguments with each value in the one form in which it is written."""
    return argument_texts(parse_arguments(texts))


def is_literal(value: object) -> bool:
    """Tell whether a value can be written as a literal."""
    if isinstance(value, tuple | list):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(map(is_literal, (*value, *value.values())))
    return isinstance(value, (*_NUMBERS, str))


def _text(name: str, value: object) -> str:
    if not is_literal(value):
        raise InputError(
            "an argument that cannot be recorded", key=f"model_arg.{name}",
            expected="numbers, text, or tuples of these", found=type(value).__name__,
            hint="make the model with it and pass that",
        )  # fmt: skip
    if isinstance(value, str) and _value(value) == value:
        return value
    return repr(_with_tuples(value))


def _value(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (_toml, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if is_literal(value):
            return _with_tuples(value)
    return text


def _toml(text: str) -> object:
    if "\n" in text:
        raise ValueError(text)
    return tomllib.loads(f"value = {text}")["value"]


def _with_tuples(value: object) -> object:
    """Turn lists into tuples: modules are hashed, and lists have no hash."""
    if isinstance(value, list | tuple):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return value
