"""Misclassified examples as small pictures inside a page."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from linsey.app.image_array import Examples, extremes
from linsey.app.page import caption, figures
from linsey.app.scores import Answers

MOST = 12
_LARGEST = 128
"""Pixels of a side; larger pictures are subsampled."""
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Color types of PNG, by channels: grey, grey with alpha, RGB, RGBA."""


def wrong_examples(answers: Answers, x: Examples, names: Sequence[str]) -> list[str]:
    """Show the mistakes that a classifier was most confident of.

    Args:
        answers: its answers to the examples.
        x: (examples, height, width, channels) images; other examples are not shown.
        names: the names of the classes.

    Returns:
        HTML; empty without mistakes or without images.
    """
    wrong = np.flatnonzero(~answers.is_right)
    if x.ndim != 4 or not len(wrong):
        return []
    order = np.argsort(-answers.confidence[wrong], kind="stable")
    chosen = wrong[order[:MOST]]
    smallest, largest = extremes(x)
    low, high = min(0.0, float(smallest.min())), float(largest.max())
    shown = []
    for index in chosen:
        true, said = names[answers.labels[index]], names[answers.predicted[index]]
        confidence = f"{answers.confidence[index]:.2f}"
        text = caption(f"{true}", f"taken for {said} ({confidence})")
        shown.append((data_uri(_pixels(x[index], low, high)), f"example {index}", text))
    return [figures(shown)]


def _pixels(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values from low to high to bytes; more channels than PNG has become grey."""
    step = -(-max(image.shape[:2]) // _LARGEST)
    values = image[::step, ::step].astype(np.float64)
    if values.shape[-1] not in _COLOR_TYPES:
        values = values.mean(-1, keepdims=True)
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.round(255 * scaled).astype(np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """Return a picture as the source of an `img` element.

    Args:
        pixels: (height, width, channels) uint8, of 1 to 4 channels.

    Returns:
        A PNG file in a `data:` URI.

    References:
        Portable Network Graphics, third edition. https://www.w3.org/TR/png-3/

    Example:
        >>> data_uri(np.zeros((1, 1, 1), np.uint8))[:30]
        'data:image/png;base64,iVBORw0K'
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    # Each row begins with the number of its filter; 0 is "no filter".
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""),
    )  # fmt: skip
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    )
