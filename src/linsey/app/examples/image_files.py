"""Images to be classified: files, and all files in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from linsey.app.examples.terms import Example, Terms
from linsey.app.image_folder import images_in
from linsey.app.images import SUFFIXES, calm_pillow, read_image
from linsey.app.workers import Workers, default_workers
from linsey.errors import InputError

Broken = Callable[[InputError], None]
"""Called with the error of an image that cannot be read and is left out."""


def files_in(folder: Path) -> list[Path]:
    """List the images in a folder and its subfolders, in the order of names.

    Raises:
        InputError: there are no images, or one of the folders is a link.
    """
    files = images_in(folder)
    if not files:
        raise InputError("no images", file=folder, expected=" ".join(SUFFIXES))
    return files


def read_images(
    files: Iterable[Path], terms: Terms, broken: Broken | None
) -> Iterator[Example]:
    """Yield images in the form that the model takes, without those that are broken.

    Threads decode a few of them ahead.

    Args:
        files: the image files.
        terms: the terms of the run.
        broken: called with the error of an image that cannot be read. If `None`, such
            an image is refused.

    Raises:
        InputError: an image cannot be read.
    """

    def read(path: Path) -> Example | InputError:
        terms.refuse_images(path)
        try:
            pixels = read_image(path, terms.shape[0])
        except InputError as error:
            _refuse_broken(path, error, is_left_out=broken is not None)
            return error
        return Example(str(path), None, _with_channels(path, pixels, terms.shape[2]))

    with calm_pillow():
        for found in Workers(default_workers()).ahead(read, files):
            if isinstance(found, Example):
                yield found
            elif broken is not None:
                broken(found)


def _refuse_broken(path: Path, error: InputError, *, is_left_out: bool) -> None:
    if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
        raise error  # not because of the content of the file
    if not is_left_out:
        raise error.with_hint("--skip-broken leaves such images out") from None


def _with_channels(path: Path, pixels: np.ndarray, channels: int) -> np.ndarray:
    """Repeat grey for a color model; reduce RGB with equal channels for a grey one."""
    if pixels.shape[-1] > channels:
        if (pixels != pixels[..., :1]).any():
            raise InputError(
                "a colored image, and the model was trained on grey ones", file=path,
                hint='save it grey, with image.convert("L") of pillow',
            )  # fmt: skip
        return pixels[..., :1]
    return np.broadcast_to(pixels, (*pixels.shape[:-1], channels))
