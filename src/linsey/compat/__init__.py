"""Support for running programs that import Flax or treex on linsey.

After `install()`, importing `flax` or one of its Linen modules yields linsey's modules,
in this process and for every library in it, whether or not Flax is installed. The same
holds for `treex` and `treeo`. This is done by a finder in `sys.meta_path`, which
`uninstall()` removes again. Nothing is active until `install()` is called, by a program
or by `linsey run SCRIPT`.

    finder.py     the finder, which also says which names of linsey stay hidden
    aliases.py    modules such as `flax.linen`: linsey's names, private names, a log
    private.py    the table of Flax's private names that programs use
    adapters/     linsey's implementations of these private names
    metadata.py   what `importlib.metadata` reports about the packages
    real.py       `flax.nnx` of an installed Flax
    old_jax.py    names that JAX has removed

Example:
    >>> import linsey.compat
    >>> linsey.compat.install()
    >>> import flax.linen
    >>> flax.linen.Dense.__module__
    'linsey.linen.linear.dense'
    >>> linsey.compat.uninstall()
"""

from __future__ import annotations

import os
import sys

from linsey.compat import brought, private
from linsey.compat.finder import Finder, take_out
from linsey.compat.packages import FLAX_VERSION as FLAX_VERSION
from linsey.config import config

__all__ = ["FLAX_VERSION", "install", "is_installed", "uninstall"]


def install() -> None:
    """Make `import flax` yield linsey; set aside Flax modules imported earlier.

    Objects of the real Flax that a program already holds stay what they are, so call
    this before the program's own imports. Misuse that Flax lets pass becomes a warning
    (the flag `misuse` of `linsey.config`), unless `LINSEY_MISUSE` is set. A second call
    does nothing.
    """
    if is_installed():
        return
    finder = Finder(take_out(), misuse=config.misuse)
    sys.meta_path.insert(0, finder)
    if "LINSEY_MISUSE" not in os.environ:
        config.update("misuse", "warn")


def uninstall() -> None:
    """Make `import flax` find the real Flax again, if it is installed."""
    for finder in [f for f in sys.meta_path if isinstance(f, Finder)]:
        sys.meta_path.remove(finder)
        take_out()
        sys.modules.update(finder.real.modules)
        private.remove_methods()
        brought.take_back()
        config.update("misuse", finder.misuse)


def is_installed() -> bool:
    """Return whether `import flax` yields linsey now."""
    return any(isinstance(finder, Finder) for finder in sys.meta_path)
