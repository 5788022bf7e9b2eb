"""Small functions that users of modules need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from linsey.config import config

T = TypeVar("T")


def merge_param(name: str, a: T | None, b: T | None) -> T:
    """Takes a setting from exactly one of two places: the constructor or the call.

    Args:
        name: name of the setting, for the error message.
        a: the value from the constructor, None if not given.
        b: the value from the call, None if not given.

    Raises:
        ValueError: both are given, or none.

    Example:
        >>> merge_param("deterministic", None, True)
        True
    """
    if a is None and b is None:
        raise ValueError(
            f'Parameter "{name}" must be passed to the constructor or at call time.'
        )
    if a is not None and b is not None:
        raise ValueError(
            f'Parameter "{name}" was passed to the constructor and at call time.'
            " Should be passed just once."
        )
    return a if b is None else b  # type: ignore[return-value]


def enable_named_call() -> None:
    """Puts module methods under profiler names from now on (the default)."""
    config.update("flax_profile", True)


def disable_named_call() -> None:
    """Puts module methods under no profiler names from now on."""
    config.update("flax_profile", False)


@contextlib.contextmanager
def override_named_call(enable: bool = True) -> Iterator[None]:
    """Switches profiler names on or off inside a `with` block."""
    with config.temp_flip_flag("profile", enable):
        yield
