"""The exceptions of linsey: Flax's classes, a few of its own, and general kinds.

A *kind* (`ShapeError`, `OptionError`, ...) is raised with a text that is written next
to the check. Other classes build their text from their arguments.

A message has three parts, each on a line: *found* (what was found, with path and
shapes), *why* (why it cannot work) and *fix* (the line to write instead). They are also
attributes of the exception, so that a tool can show only the first. The opening
sentence keeps the words that programs written for Flax match on.

The positional arguments of the constructors are those of Flax; the keyword arguments
after them only add detail to a message. Every error can be pickled and copied, whatever
its arguments were, because the finished text is what is stored.

The errors of layers and of treex objects are here too. Their files are imported when
one of them is first accessed.
"""

# ruff: noqa: F403, F405 (each file offers its errors; `__all__` omits everything else)

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
        if name.endswith("Error"):  # otherwise a file name would import all files
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
