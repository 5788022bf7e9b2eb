"""The mistakes that linsey can name: Flax's classes, a few of its own, and kinds.

A *kind* (`ShapeError`, `OptionError`, ...) is raised with a text of its own, which
stands beside the check. Other classes make their text from what they are given.

A message has three parts, one a line: *found* (what was met, with path and
shapes), *why* (why it cannot work) and *fix* (the line to write instead). They
are attributes of the exception too, so that a tool can show the first alone.
The opening sentence keeps the words that programs written for Flax match on.

Positional arguments of the constructors are those of Flax; keywords that follow
them only make a message richer. Every error can be pickled and copied, whatever
its arguments were: what travels is the finished text.

The errors of layers and of objects are here too. Their files are imported when one of
them is asked for.
"""

# ruff: noqa: F403, F405 (a file offers its errors; `__all__` leaves out the rest)

import importlib
from typing import TYPE_CHECKING

from linsey.errors.base import *
from linsey.errors.files import *
from linsey.errors.misuse import *
from linsey.errors.modules import *
from linsey.errors.optimizers import *
from linsey.errors.scopes import *
from linsey.errors.trees import *

if TYPE_CHECKING:
    from linsey.errors.layers import *
    from linsey.errors.treex import *

_LATER = ("layers", "treex")


if not TYPE_CHECKING:  # type checkers would take every name for an error
    __all__ = sorted(
        name
        for name, value in globals().items()
        if isinstance(value, type) and issubclass(value, LinseyError)
    )

    def __getattr__(name: str) -> object:
        if name.endswith("Error"):  # else the name of a file would import all of them
            for file in _LATER:
                found = vars(importlib.import_module(f"{__name__}.{file}")).get(name)
                if found is not None:
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    files = [importlib.import_module(f"{__name__}.{file}") for file in _LATER]
    later = {name for file in files for name in vars(file) if name.endswith("Error")}
    return sorted({*globals(), *later})
