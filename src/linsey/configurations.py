"""The flags of `linsey.config` as objects, under the names that Flax has.

A `FlagHolder` refers to a flag: it reads the current value and can be passed to
`config.update` in place of a name.

Example:
    >>> flax_profile.value
    True
    >>> config.update(flax_profile, True)
"""

from __future__ import annotations

from typing import Generic, NoReturn, TypeVar

from linsey.config import FLAGS, define
from linsey.config import Config as Config
from linsey.config import config as config
from linsey.config import static_bool_env as static_bool_env
from linsey.config import static_int_env as static_int_env
from linsey.errors import ArgumentTypeError

T = TypeVar("T")


class FlagHolder(Generic[T]):
    """A flag by name, whose current value is read at each access to `value`.

    Args:
        name: the name of the flag.
        help: what it does.
    """

    def __init__(self, name: str, help: str) -> None:
        self.name = name
        self.__doc__ = f"The flag `{name}`. {help}"

    def __bool__(self) -> NoReturn:
        raise ArgumentTypeError(
            "bool() not supported for instances of type 'FlagHolder' "
            "(did you mean to use 'FlagHolder.value' instead?)",
            f"The holder of `{self.name}` is not the value of the flag.",
            f"Write `if {self.name}.value:`.",
        )

    @property
    def value(self) -> T:
        """The current value of the flag."""
        return getattr(config, self.name)


def bool_flag(name: str, *, default: bool, help: str) -> FlagHolder[bool]:
    """Define a new flag that is true or false.

    Args:
        name: its name; the environment variables follow from it.
        default: its value if the environment does not set it.
        help: what it does.

    Raises:
        UsageError: if there is a flag of this name.
    """
    return FlagHolder(define(name, default, static_bool_env), help)


def int_flag(name: str, *, default: int | None, help: str) -> FlagHolder[int]:
    """Define a new flag that is a number.

    Args:
        name: its name; the environment variables follow from it.
        default: its value if the environment does not set it.
        help: what it does.

    Raises:
        UsageError: if there is a flag of this name.
    """
    return FlagHolder(define(name, default, static_int_env), help)


def _holder(name: str) -> FlagHolder[bool]:
    """Return the holder of a flag of the library."""
    _, help = FLAGS[name]
    return FlagHolder(f"flax_{name}", help)


flax_filter_frames = _holder("filter_frames")
flax_profile = _holder("profile")
flax_use_orbax_checkpointing = _holder("use_orbax_checkpointing")
flax_preserve_adopted_names = _holder("preserve_adopted_names")
flax_return_frozendict = _holder("return_frozendict")
flax_fix_rng = _holder("fix_rng_separator")
