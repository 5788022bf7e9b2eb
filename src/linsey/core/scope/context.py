"""What all scopes of one `init`, `apply` or `bind` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linsey.core import tracers
from linsey.core.filters import Filter, Selection
from linsey.core.rng import LazyRng


class Context:
    """What all scopes of one `init`, `apply` or `bind` share."""

    __slots__ = (
        "mutable", "selection", "rngs", "flags", "trace", "is_valid", "memo", "bound",
        "_writable",
    )  # fmt: skip

    def __init__(
        self,
        mutable: Filter | Selection,
        rngs: Mapping[str, LazyRng],
        flags: Mapping[str, Any],
    ):
        self.mutable = mutable
        self.selection = Selection.of(mutable)
        self.rngs = rngs
        self.flags = flags
        self.trace = tracers.current_trace()
        self.is_valid = True
        # The bound module made from each module met so far, by the id of that module
        # (kept alive beside it): the same object met twice is one bound module.
        self.memo: dict[int, tuple[Any, Any]] = {}
        # Every module bound here, where the end of the context is known.
        self.bound: list[Any] | None = None
        self._writable: dict[str, bool] = {}

    def is_mutable(self, col: str) -> bool:
        """Whether collection `col` may be written."""
        known = self._writable.get(col)
        if known is None:
            known = self._writable[col] = col in self.selection
        return known
