"""Packages that linsey uses where they are installed, grouped in extras.

`import linsey.linen` needs jax, numpy and msgpack only. What else a part of linsey
needs is one of the extras in `pyproject.toml`; the error that a missing package raises
names the packages to install, so that it holds wherever linsey came from.
"""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from types import ModuleType

from linsey.errors import LinseyError

__all__ = ["MissingPackageError", "install_hint", "missing", "require"]

_REQUIREMENT = re.compile(r"""(?P<package>[^\s;]+).*\bextra == ['"](?P<extra>[\w-]+)""")


class MissingPackageError(LinseyError, ModuleNotFoundError):
    """A package that is needed here is not installed."""


@functools.cache
def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    Args:
        extra: its name in `pyproject.toml`, such as `train`; one that lists packages.

    Returns:
        The command. Where linsey is used without being installed, its packages are
        not known, and the command is for the folder with its `pyproject.toml`.

    Example:
        >>> install_hint("plot")
        'pip install matplotlib'
    """
    from importlib import metadata  # takes a while, and is rarely needed

    try:
        requirements = metadata.requires("linsey") or []
    except metadata.PackageNotFoundError:
        requirements = []
    matches = filter(None, map(_REQUIREMENT.match, requirements))
    packages = sorted(match["package"] for match in matches if match["extra"] == extra)
    if not packages:
        return f"pip install '.[{extra}]'"
    # A lower bound is met by what pip takes anyhow, an upper one has to be said.
    return shlex.join(
        ["pip", "install"]
        + [p if "<" in p else re.split(r"[>=]", p)[0] for p in packages]
    )


def missing(
    error: ModuleNotFoundError, extra: str, purpose: str
) -> MissingPackageError:
    """Reword the error of an import, with the command that makes it work.

    Args:
        error: what the import raised.
        extra: the extra that the package belongs to.
        purpose: what needs it, as the subject of a sentence.

    Returns:
        The error to raise.
    """
    reworded = MissingPackageError(
        f"{purpose} needs `{error.name}`, which is not installed.",
        f"It comes with the packages of linsey's extra `{extra}`.",
        f"Write `{install_hint(extra)}`.",
    )
    reworded.name = error.name
    return reworded


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of a package that an extra installs.

    Args:
        module: its full name, such as `orbax.checkpoint`.
        extra: the extra that its package belongs to.
        purpose: what needs it, as the subject of a sentence.

    Returns:
        The module.

    Raises:
        MissingPackageError: it is not installed; says which command installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, extra, purpose) from error
