"""Images to be classified: files, and all files in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from linsey.app.examples.terms import Example, Terms
from linsey.app.image_folder import images_in
from linsey.app.images import SUFFIXES, read_image
from linsey.errors import InputError

Broken = Callable[[InputError], None]
"""Is told of an image that cannot be read and is left out."""


def read_images(folder: Path, terms: Terms, broken: Broken | None) -> Iterator[Example]:
    """Yield the images in a folder and in the folders in it, in the order of names.

    Raises:
        InputError: there are none, one cannot be read, or a link is among them.
    """
    files = images_in(folder)
    if not files:
        raise InputError("no images", file=folder, expected=" ".join(SUFFIXES))
    for path in files:
        yield from read_one(path, terms, broken)


def read_one(path: Path, terms: Terms, broken: Broken | None) -> Iterator[Example]:
    """Yield an image as the model takes it; nothing if it is broken and left out.

    Args:
        path: the file.
        terms: of the run.
        broken: is told of an image that cannot be read. If `None`, it is refused.

    Raises:
        InputError: it cannot be read.
    """
    terms.refuse_images(path)
    try:
        pixels = read_image(path, terms.shape[0])
    except InputError as error:
        if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
            raise  # not for what is in the file
        if broken is None:
            hint = "--skip-broken leaves such images out"
            raise error.with_hint(hint) from None
        broken(error)
        return
    yield Example(str(path), None, _with_channels(path, pixels, terms.shape[2]))


def _with_channels(path: Path, pixels: np.ndarray, channels: int) -> np.ndarray:
    """Repeat grey for a model of colors; take what only looks colored as grey."""
    if pixels.shape[-1] > channels:
        if (pixels != pixels[..., :1]).any():
            raise InputError(
                "a colored image, and the model was trained on grey ones", file=path,
                hint='save it grey, with image.convert("L") of pillow',
            )  # fmt: skip
        return pixels[..., :1]
    return np.broadcast_to(pixels, (*pixels.shape[:-1], channels))
