"""Decoded images, collected into one array."""

from __future__ import annotations

import numpy as np

_BLOCK = 256  # images that are stacked at a time


class Stack:
    """Images collected into one array, without ever being in memory twice.

    All are uint8 or, if any has more than 8 bits, float32; all have three channels if
    any has.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._images: list[np.ndarray] = []

    def append(self, image: np.ndarray) -> None:
        """Add an image of shape (size, size, channels)."""
        self._images.append(image)
        if len(self._images) == _BLOCK:
            self._close()

    def _close(self) -> None:
        channels = max(image.shape[-1] for image in self._images)
        self._blocks.append(
            np.stack([_with_channels(image, channels) for image in self._images])
        )
        self._images.clear()

    def array(self) -> np.ndarray:
        """Return the images, shape (images, size, size, channels)."""
        if self._images:
            self._close()
        if not self._blocks:
            return np.zeros((0, 1, 1, 1), np.uint8)
        channels = max(block.shape[-1] for block in self._blocks)
        count, first = sum(map(len, self._blocks)), self._blocks[0]
        dtype = np.result_type(*(block.dtype for block in self._blocks))
        array, start = np.empty((count, *first.shape[1:3], channels), dtype), 0
        for index, block in enumerate(self._blocks):
            array[start : start + len(block)] = block  # grey is the same in all three
            start += len(block)
            self._blocks[index] = block[:0]
        return array


def _with_channels(x: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(x, (*x.shape[:-1], channels))
