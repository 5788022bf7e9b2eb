"""What a compact method builds in its first run, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from linsey.errors.treex import CompactCountError


@dataclasses.dataclass
class CompactRecord:
    """A run of a compact method.

    Attributes:
        owner: the object whose method runs.
        functions: the methods of `owner` that run: the outermost and those inside.
        outer: the record of the compact method around, of another object.
        names: the fields of the subtrees of the first run; none in the first run.
        subtrees: what was built so far, in the first run.
        used: how many subtrees were given out, in a later run.
    """

    owner: Any
    functions: list[Callable[..., Any]]
    outer: CompactRecord | None
    names: tuple[str, ...] | None
    subtrees: list[Any] = dataclasses.field(default_factory=list)
    used: int = 0

    @property
    def replays(self) -> bool:
        """Whether this is a later run, which builds nothing."""
        return self.names is not None

    def next_subtree(self, cls: type) -> Any:
        """What the first run built at this place."""
        names = self.names or ()
        if self.used >= len(names):
            raise CompactCountError(self.owner, self.functions[0], cls, names)
        name = names[self.used]
        self.used += 1
        return getattr(self.owner, name)

    def runs(self, owner: Any, function: Callable[..., Any]) -> bool:
        """Whether a method of an object runs here or further out."""
        here = self.owner is owner and function in self.functions
        return here or (self.outer is not None and self.outer.runs(owner, function))


CURRENT: ContextVar[CompactRecord | None] = ContextVar("compact_record", default=None)
