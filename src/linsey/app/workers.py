"""Threads that decode images while the main thread waits for the devices.

Pillow releases Python's lock while it decodes and resizes, and NumPy while it computes,
so threads keep the cores busy without copying any data.
"""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from linsey.app.config import LoadingOptions
from linsey.extras import missing

Given = TypeVar("Given")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_MOST = 16
_AHEAD = 4  # tasks per worker that begin before their results are asked for


def default_workers() -> int:
    """Return the default number of workers: that of the cores, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(_MOST, len(os.sched_getaffinity(0)))
    return min(_MOST, os.cpu_count() or 1)


class Workers:
    """Threads that are started when they are first needed.

    Args:
        count: number of threads; with 0, the calling thread does the work.

    Example:
        >>> list(Workers(2).ahead(abs, [-3, 1, -2]))
        [3, 1, 2]
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def submit(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Begin a task; needs at least one worker."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, "linsey-decode")
        return self._pool.submit(function, *args, **kwargs)

    def ahead(
        self, function: Callable[[Given], Result], items: Iterable[Given]
    ) -> Iterator[Result]:
        """Yield `function(item)` in the order of the items, a few ahead of the caller.

        Raises:
            Exception: an exception of the function, in place of its result.
        """
        if not self.count:
            yield from map(function, items)
            return
        begun: deque[Future[Result]] = deque()
        try:
            for item in items:
                begun.append(self.submit(function, item))
                if len(begun) > _AHEAD * self.count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the threads."""
        return {"count": self.count, "_pool": None}


def workers_for(options: LoadingOptions) -> Workers:
    """Return the workers that the options ask for.

    Raises:
        MissingPackageError: worker processes are asked for, and grain is not installed.
    """
    if options.loader == "processes" and importlib.util.find_spec("grain") is None:
        error = ModuleNotFoundError(name="grain")
        raise missing(error, "images", "--loader processes")
    count = options.workers
    return Workers(default_workers() if count is None else count)
