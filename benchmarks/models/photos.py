"""Folders of JPEGs that look like photos to a decoder: edges, gradients and grain."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(seed: int, size: tuple[int, int], label: int, quality: int = 90) -> bytes:
    """Return one photo, (width, height); its class tells how bright it is."""
    random, (width, height) = np.random.default_rng(seed), size
    values = np.full((height, width, 3), 40.0 + 12 * label)
    for cell, strength in ((48, 90.0), (6, 40.0)):
        rough = random.uniform(0, 255, (height // cell + 2, width // cell + 2, 3))
        smooth = Image.fromarray(rough.astype(np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        values += np.asarray(smooth) * (strength / 255)
    values += random.normal(0, 3, values.shape)
    content = io.BytesIO()
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def make_folder(
    root: Path,
    count: int,
    size: tuple[int, int],
    classes: int = 2,
    distinct: int | None = None,
) -> None:
    """Write a folder of photos for each class.

    Args:
        root: the folder; it is made.
        count: how many photos.
        size: width and height.
        classes: how many there are.
        distinct: how many photos are different, each written several times, where what
            they show does not matter. Defaults to all.
    """
    distinct = distinct or count
    contents: dict[int, bytes] = {}
    for index in range(count):
        seed, label = index % distinct, index % classes
        if seed not in contents:
            contents = contents if distinct < count else {}
            contents[seed] = jpeg(seed, size, label)
        folder = root / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:06}.jpg").write_bytes(contents[seed])
