"""What all scopes of one `init`, `apply` or `bind` share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from linsey.core import tracers
from linsey.core.filters import Filter, Selection
from linsey.core.rng import LazyRng


class Context:
    """What all scopes of one `init`, `apply` or `bind` share."""

    __slots__ = (
        "mutable", "selection", "is_mutable", "rngs", "flags", "trace", "is_valid",
        "memo", "bound",
    )  # fmt: skip

    def __init__(
        self,
        mutable: Filter | Selection,
        rngs: Mapping[str, LazyRng],
        flags: Mapping[str, Any],
    ):
        self.mutable = mutable
        self.selection = Selection.of(mutable)
        # Whether a collection may be written. Asked for each variable, so remembered.
        self.is_mutable: Callable[[str], bool] = functools.cache(
            self.selection.__contains__
        )
        self.rngs = rngs
        self.flags = flags
        self.trace = tracers.current_trace()
        self.is_valid = True
        # The bound module made from each module met so far, by the id of that module
        # (kept alive beside it): the same object met twice is one bound module.
        self.memo: dict[int, tuple[Any, Any]] = {}
        # Every module bound here, where the end of the context is known.
        self.bound: list[Any] | None = None
