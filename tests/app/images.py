"""Folders of images for tests: noise of two brightnesses, in all kinds of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (24, 18), bright: int = 0) -> Image.Image:
    """A smooth image of random colors, (width, height)."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 160, (size[1] // 6 + 1, size[0] // 6 + 1, 3), np.uint8)
    smooth = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(np.asarray(smooth) // 2 + np.uint8(bright))


def make_photos(root: Path, count: int = 40, kinds: bool = False) -> Path:
    """Write `count` JPEGs of the classes dark and light; return the folder.

    Args:
        root: a folder; it is made.
        count: how many there are of both classes together.
        kinds: whether some are grey, and some are PNGs of 8 and of 16 bits.
    """
    for index in range(count):
        name = ("dark", "light")[index % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        image, suffix = photo(index, bright=60 * (index % 2)), "jpg"
        if kinds and index % 5 == 1:
            image = image.convert("L")
        if kinds and index % 5 == 2:
            suffix = "png"
        if kinds and index % 5 == 3:
            grey = np.asarray(image.convert("L")).astype(np.uint16)
            image, suffix = Image.fromarray(grey * 257), "png"
        image.save(root / name / f"{index:03}.{suffix}")
    return root
