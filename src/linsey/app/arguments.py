"""Functions called with arguments of the command line: `--optimizer-arg b1=0.9`.

The names are those of the function's parameters. Others are refused, and the most
similar name is suggested.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from linsey.errors import InputError

T = TypeVar("T")
_LONGEST = 300  # characters that a message shows


def accepted_names(function: Callable[..., object]) -> list[str]:
    """List the arguments of a function that can be passed by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in kinds]


def call(
    function: Callable[..., T],
    name: str,
    arguments: Mapping[str, object],
    option: str,
    given: Mapping[str, object],
) -> T:
    """Call a function with arguments of the command line, checked by its signature.

    Args:
        function: the function to call.
        name: its name for the user.
        arguments: the arguments from the user.
        option: the option they come from, for messages.
        given: arguments from the program; those of the user take precedence.

    Raises:
        InputError: the function has no such argument, needs others, or refuses their
            values.

    Example:
        >>> call(lambda x, y=1: x + y, "sum", {"y": 3}, "--arg", {"x": 1})
        4
        >>> call(lambda x, y=1: x + y, "sum", {"yy": 3}, "--arg", {"x": 1})
        Traceback (most recent call last):
        linsey.errors.files.InputError: --arg: sum has no such argument: expected x, y,
        found 'yy' (did you mean y?)
    """
    check_arguments(function, name, arguments, option, given)
    try:
        return function(**{**given, **arguments})
    except Exception as error:
        raise refused(name, arguments, option, error) from error


def check_arguments(
    function: Callable[..., object],
    name: str,
    arguments: Mapping[str, object],
    option: str,
    given: Mapping[str, object],
) -> None:
    """Compare arguments with the signature of a function, as `call` does.

    Raises:
        InputError: the function has no such argument, or needs others.
    """
    names = accepted_names(function)
    for one in arguments:
        if one not in names:
            problem, expected = f"{name} has no such argument", ", ".join(names)
            raise InputError(problem, key=option, expected=expected, found=repr(one),
                             hint=near(one, names))  # fmt: skip
    parameters = inspect.signature(function).parameters
    missing = [n for n in names if parameters[n].default is inspect.Parameter.empty
               and n not in {*given, *arguments}]  # fmt: skip
    if missing:
        hint = " ".join([option, *(f"{one}=..." for one in missing)])
        problem = f"{name} needs the argument{'s' * (len(missing) > 1)} "
        raise InputError(problem + ", ".join(missing), key=option, hint=hint)


def refused(
    name: str, arguments: Mapping[str, object], option: str, error: Exception
) -> InputError:
    """Return the error for a function that refused its arguments."""
    text = " ".join(str(error).split())[:_LONGEST]
    told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    problem = f"{name}({told}) cannot be used: {type(error).__name__}: {text}"
    return InputError(problem, key=option)


def near(name: str, names: Collection[str]) -> str | None:
    """Suggest the most similar of some names, if one is similar enough."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else None


def gathered(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Merge options that are given several times into one, with all of their values.

    Args:
        arguments: the arguments of a command line.
        options: the options that take several values.

    Returns:
        The arguments, with each of these options once, at the end.

    Example:
        >>> gathered(["--arg", "a=1", "--lr", "2", "--arg=b=3", "c=4"], {"--arg"})
        ['--lr', '2', '--arg', 'a=1', 'b=3', 'c=4']
    """
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    current: list[str] | None = None
    is_pair = False
    for text in arguments:
        name, equals, value = text.partition("=")
        name = name.replace("_", "-")
        if name in options:
            current, is_pair = values.setdefault(name, []), name.endswith("-arg")
            current += [value] if equals else []
        elif (
            text.startswith("--")
            or current is None
            or (is_pair and current and not equals)  # a positional argument
        ):
            current = None
            rest.append(text)
        else:
            current.append(text)
    return [*rest, *(part for name in values for part in (name, *values[name]))]
