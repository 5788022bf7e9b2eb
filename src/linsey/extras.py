"""Packages that linsey uses if they are installed, grouped in extras.

`import linsey.linen` needs only jax, numpy and msgpack. The other requirements of a
part of linsey are one of the extras in `pyproject.toml`. The error for a missing
package names the packages to install, so that it applies wherever linsey came from.
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
        extra: its name in `pyproject.toml`, such as `train`; it must list packages.

    Returns:
        The command. If linsey is used without being installed, its packages are not
        known, and the command is for the folder with its `pyproject.toml`.

    Example:
        >>> install_hint("plot")
        'pip install matplotlib'
    """
    from importlib import metadata  # slow to import, and rarely needed

    try:
        requirements = metadata.requires("linsey") or []
    except metadata.PackageNotFoundError:
        requirements = []
    matches = filter(None, map(_REQUIREMENT.match, requirements))
    packages = sorted(match["package"] for match in matches if match["extra"] == extra)
    if not packages:
        return f"pip install '.[{extra}]'"
    # pip installs the latest version anyway, so only an upper bound has to be stated.
    return shlex.join(
        ["pip", "install"]
        + [p if "<" in p else re.split(r"[>=]", p)[0] for p in packages]
    )


def missing(
    error: ModuleNotFoundError, extra: str, purpose: str
) -> MissingPackageError:
    """Reword the error of an import, adding the command that installs the package.

    Args:
        error: the error that the import raised.
        extra: the extra that the package belongs to.
        purpose: the feature that needs it, as the subject of a sentence.

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
        purpose: the feature that needs it, as the subject of a sentence.

    Returns:
        The module.

    Raises:
        MissingPackageError: it is not installed; the text has the command to do so.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, extra, purpose) from error
