"""The form of every error: what was found, why it fails, what to write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class LinseyError(Exception):
    """Base of all errors of linsey: what was found, why it fails, what to write.

    Args:
        message: what was found, with path and shapes.
        why: why it cannot work.
        fix: the line to write instead.

    Example:
        >>> error = LinseyError("Axis 3 was asked for.", "There are two.", "Use 1.")
        >>> print(error)
        Axis 3 was asked for.
        There are two.
        Use 1.
        >>> error.fix
        'Use 1.'
    """

    found: str
    why: str
    fix: str

    def __init__(self, message: object, why: str = "", fix: str = "") -> None:
        self.found, self.why, self.fix = str(message), why, fix
        super().__init__("\n".join(filter(None, (self.found, why, fix))))

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the constructor with the message as its argument, which
        # does not work for the subclasses.
        return _restore, (type(self), self.args), self.__dict__


FlaxError = LinseyError


def _restore(cls: type[LinseyError], args: tuple[Any, ...]) -> LinseyError:
    error = cls.__new__(cls)
    error.args = args
    return error


# --- kinds: the text of each is written next to the check that raises it -------------


class ShapeError(LinseyError, ValueError, IndexError, AssertionError):
    """An array has a rank, a shape or an axis that the call cannot take.

    Example:
        >>> raise ShapeError("`x` has shape (3,).", "It needs rows.", "Pass `x[None]`.")
        Traceback (most recent call last):
        linsey.errors.base.ShapeError: `x` has shape (3,).
        It needs rows.
        Pass `x[None]`.
    """


class OptionError(LinseyError, ValueError, AssertionError):
    """An argument or field has an invalid value, or conflicts with another one."""


class ArgumentTypeError(LinseyError, TypeError, AssertionError):
    """An argument is of a type or a dtype that the call cannot take."""


class MismatchError(LinseyError, ValueError):
    """Two trees, states or lists that should have the same structure differ."""


class UsageError(LinseyError, RuntimeError):
    """Something is called at a time or in a place where it cannot work."""


class UnsupportedError(LinseyError, NotImplementedError):
    """A combination that makes sense but is not implemented."""


# --- words of messages ---------------------------------------------------------------

Names = Iterable[str] | None
"""The available names; `None` if they are not known."""


def printable(text: str) -> str:
    r"""Escape characters that a terminal would act on instead of showing them.

    Control characters (including escape sequences and line breaks), marks that change
    the writing direction, and lone surrogates become `\x1b` and similar.

    Example:
        >>> print(printable("a\x1b[31m\u202eb"))
        a\x1b[31m\u202eb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


def named(module: object) -> str:
    """Return the name of a module (a class, instance or string) for a message."""
    if module is None:
        return "the module"
    if isinstance(module, str):
        return f"`{module}`"
    cls = module if isinstance(module, type) else type(module)
    return f"`{cls.__name__}`"


def listed(values: Iterable[object]) -> str:
    """Return a list of names for a message."""
    return ", ".join(f"`{value}`" for value in values) or "none"
