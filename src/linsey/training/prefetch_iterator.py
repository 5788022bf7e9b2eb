"""An iterator that prefetches elements in a thread."""

from __future__ import annotations

import collections
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Element = TypeVar("Element")


class PrefetchIterator(Generic[Element]):
    """An iterator that takes elements from another one before they are needed.

    Deprecated: libraries that load data prefetch elements themselves, and
    `linsey.jax_utils.prefetch_to_device` also moves batches to devices in advance.

    Args:
        data_iter: the other iterator. If it raises an exception, this iterator raises
            it at the same position.
        buffer_size: number of elements to keep ready. Defaults to 1.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", DeprecationWarning)
        >>> list(PrefetchIterator(iter(range(3)), buffer_size=2))
        [0, 1, 2]
    """

    def __init__(self, data_iter: Iterable[Element], buffer_size: int = 1) -> None:
        message = (
            "PrefetchIterator is deprecated. Use the standard `tf.data` prefetch "
            "method instead, or `linsey.jax_utils.prefetch_to_device`."
        )
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        self._source = iter(data_iter)
        self._size = max(buffer_size, 1)
        self._ready: collections.deque[Element] = collections.deque()
        self._changed = threading.Condition()
        self._is_closed = self._has_ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run_ahead, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Element]:
        return self

    def __next__(self) -> Element:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._has_ended)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """Stop prefetching; elements that are ready can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _run_ahead(self) -> None:
        try:
            for element in self._source:
                with self._changed:
                    self._ready.append(element)
                    self._changed.notify_all()
                    self._changed.wait_for(
                        lambda: self._is_closed or len(self._ready) < self._size
                    )
                    if self._is_closed:
                        return
        except BaseException as error:
            self._error = error  # raised when the element is requested
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()
