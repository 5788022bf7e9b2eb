"""Flags that change how the whole library behaves.

A flag has one value for the process. In order of increasing priority, it is set by its
default, by an environment variable (`FLAX_PROFILE=0` or `LINSEY_PROFILE=0`, of which
the latter wins), and by `config.update("profile", False)`. Every flag has three names:
`profile`, `linsey_profile` and `flax_profile`.

`misuse` determines what happens if a call cannot be intended, but has a result in Flax,
such as training on one value per channel: `error` raises, `warn` warns with the text of
the error and continues as Flax does, and `ignore` just continues. Unless
`LINSEY_MISUSE` is set, it is `error`, or `warn` in programs that import Flax
(`linsey run`, `linsey.compat.install`).

Example:
    >>> from linsey.config import config
    >>> config.return_frozendict
    False
    >>> with config.temp_flip_flag("return_frozendict", True):
    ...     config.flax_return_frozendict
    True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from linsey.errors import OptionError, UsageError
from linsey.errors.misuse import POLICIES, set_policy

__all__ = ["Config", "config", "static_bool_env", "static_int_env"]

T = TypeVar("T")

PREFIXES = ("", "linsey_", "flax_")
TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
FALSE = frozenset({"n", "no", "f", "false", "off", "0"})


class Named(Protocol):
    """An object that refers to a flag by its name."""

    @property
    def name(self) -> str:
        """The name of the flag."""


class Config:
    """The flags, read as attributes and set with `update`.

    Reading a flag is one look-up in the instance: the hot path does it at every call.
    """

    if TYPE_CHECKING:
        _names: list[str]
        _values: tuple[object, ...]
        filter_frames: bool
        profile: bool
        use_orbax_checkpointing: bool
        preserve_adopted_names: bool
        return_frozendict: bool
        fix_rng_separator: bool
        misuse: str

        # Flags with a prefix, and those that programs define.
        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        self.__dict__["_names"] = []

    def __reduce__(self) -> str:
        return "config"  # a singleton: pickles and copies refer to it by name

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"Flags are not assigned. Write `config.update({name!r}, {value!r})`, or "
            f"`with config.temp_flip_flag({name!r}, {value!r}):`."
        )

    def __repr__(self) -> str:
        flags = ",\n".join(f"  {n}={self.__dict__[n]}" for n in self._names)
        return f"Config(\n{flags}\n)"

    def _define(self, name: str, value: object) -> str:
        """Add a flag, under the bare name, and return that name."""
        name = _bare(name)
        if name in self._names:
            raise UsageError(
                f"Config option {name} already defined",
                "A flag has one default and one meaning in a process.",
                f"Read it as `config.{name}`, or choose another name.",
            )
        self._names.append(name)
        self._set(name, value)
        return name

    def _set(self, name: str, value: object) -> None:
        if name == "misuse":
            set_policy(_checked_policy(value, "config.update('misuse', 'warn')"))
        self.__dict__.update({prefix + name: value for prefix in PREFIXES})
        # All values, which identify the flags that a program was traced with.
        self.__dict__["_values"] = tuple(self.__dict__[n] for n in self._names)

    def update(self, name_or_holder: str | Named, value: object, /) -> None:
        """Set a flag for the rest of the process.

        Args:
            name_or_holder: the name of the flag, with a prefix or without, or an
                object with that `name`.
            value: the new value.

        Raises:
            LookupError: if there is no such flag.
            OptionError: if the value is not one that `misuse` can have.
        """
        holder = name_or_holder
        name = holder if isinstance(holder, str) else holder.name
        if _bare(name) not in self._names:
            known = ", ".join(self._names)
            raise LookupError(
                f"Unrecognized config option: {name}. There are: {known}."
            )
        self._set(_bare(name), value)

    @contextmanager
    def temp_flip_flag(self, var_name: str, var_value: object) -> Iterator[None]:
        """Set a flag inside a `with` block, in all threads.

        Args:
            var_name: the name of the flag, with a prefix or without.
            var_value: its value inside.

        Raises:
            LookupError: if there is no such flag.
        """
        before = self.__dict__.get(_bare(var_name))
        self.update(var_name, var_value)
        try:
            yield
        finally:
            self.update(var_name, before)


def _bare(name: str) -> str:
    return name.removeprefix("linsey_").removeprefix("flax_")


def _checked_policy(value: object, line: str) -> str:
    if isinstance(value, str) and value in POLICIES:
        return value
    raise OptionError(
        f"The flag `misuse` was to be {value!r}.",
        "Misuse is an error, a warning, or ignored.",
        f"Give one of {', '.join(map(repr, POLICIES))}, for example `{line}`.",
    )


def static_bool_env(varname: str, default: bool) -> bool:
    """Read a boolean from the environment.

    Args:
        varname: the variable; `y yes t true on 1` and `n no f false off 0` are
            understood, in upper or lower case.
        default: the value if the variable is not set.

    Raises:
        OptionError: if the variable holds anything else.
    """
    text = os.environ.get(varname)
    if text is None:
        return default
    if text.lower() not in TRUE | FALSE:
        raise OptionError(
            f"invalid truth value {text!r} for environment {varname!r}",
            "The flag is true or false.",
            f"Write `{varname}=1` or `{varname}=0`.",
        )
    return text.lower() in TRUE


def static_int_env(varname: str, default: int | None) -> int | None:
    """Read an integer from the environment.

    Args:
        varname: the variable.
        default: the value if the variable is not set.

    Raises:
        OptionError: if the variable holds anything else.
    """
    text = os.environ.get(varname)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            f"invalid integer value {text!r} for environment {varname!r}.",
            "The flag is a whole number.",
            f"Write digits, such as `{varname}=2`.",
        ) from None


def define(name: str, default: T, from_environment: Callable[[str, T], T]) -> str:
    """Add a flag to `config`; the environment overrides the default.

    Args:
        name: its name, with a prefix or without.
        default: its value if no variable of the environment sets it.
        from_environment: `static_bool_env` or `static_int_env`.

    Returns:
        The name without a prefix.
    """
    upper = _bare(name).upper()
    value = from_environment(f"FLAX_{upper}", default)
    return config._define(name, from_environment(f"LINSEY_{upper}", value))


config = Config()

FLAGS = {
    "filter_frames": (True, "Leave the frames of this library out of tracebacks."),
    "profile": (True, "Run the methods of modules under `jax.named_scope`."),
    "use_orbax_checkpointing": (True, "Save and restore with Orbax."),
    "preserve_adopted_names": (False, "Keep the names that modules had when adopted."),
    "return_frozendict": (False, "Return `FrozenDict` from `init` and `apply`."),
    "fix_rng_separator": (False, "Put a zero byte before each item of a random path."),
}
"""The flags of the library: the default, and what the flag does."""

for _name, (_default, _) in FLAGS.items():
    define(_name, _default, static_bool_env)

config._define(
    "misuse",
    _checked_policy(os.environ.get("LINSEY_MISUSE", "error"), "LINSEY_MISUSE=warn"),
)


# `flax.config` is the object, so attributes of this module are those of `config`.
if TYPE_CHECKING:
    update = config.update
    temp_flip_flag = config.temp_flip_flag
    filter_frames: bool
    profile: bool
    use_orbax_checkpointing: bool
    preserve_adopted_names: bool
    return_frozendict: bool
    fix_rng_separator: bool
    misuse: str
else:

    def __getattr__(name: str) -> object:
        return getattr(config, name)
