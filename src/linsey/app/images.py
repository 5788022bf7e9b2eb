"""Images in one folder per class, read with pillow.

Whatever is in the folder may be made to harm: links, which could lead anywhere, are
refused; only the formats that we name are tried; and the size in the header of an image
is looked at before its pixels are unpacked.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.dataset import Dataset, make_dataset
from linsey.errors import InputError
from linsey.extras import require
from linsey.files import open_regular, parsing, reporting

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 2**28
MAX_PIXELS = 50_000_000
_SUFFIXES = ".png .jpg .jpeg .bmp .gif .webp .ppm .pgm .pbm .tif .tiff".split()
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_COLOR_FREE = ("1", "L", "LA", "I", "F")
_DEEP = ("I", "F")  # more than 8 bits: how the names of these modes begin, as "I;16B"
_FROM_16_BITS = np.float32(255 / 65535)


def load_image_folder(root: Path, options: DataOptions) -> Dataset:
    """Load FOLDER/class/image or FOLDER/train/class/image with FOLDER/test/...

    All images become squares of `--image-size` pixels; they stay grey if all are. Those
    of 16 bits are scaled to 0 to 255, in float32, those of 32 bits keep their values.
    Hidden files and folders are left out.

    Args:
        root: the folder.
        options: the data options.

    Returns:
        The data set, its classes in alphabetical order.

    Raises:
        InputError: no images, an unreadable image, a link, or classes that differ.
        DiskError: the disk refused.
    """
    has_parts = {"train", "test"} <= {path.name for path in _subfolders(root)}
    folders = [root / "train", root / "test"] if has_parts else [root]
    names = [path.name for path in _subfolders(folders[0])]
    if len(names) < 2:
        raise InputError(
            "no classes", file=folders[0], found=f"{len(names)} folders",
            expected="a folder of images for each class",
        )  # fmt: skip
    parts = [_labelled_files(folder, names) for folder in folders]
    is_grey = all(_is_grey(path) for files, _ in parts for path in files)
    arrays = [
        (_read_all(files, is_grey, options.image_size), np.asarray(labels, np.int32))
        for files, labels in parts
    ]
    test = arrays[1] if has_parts else None
    keys = ("train", "train", "test", "test")
    return make_dataset(str(root), arrays[0], test, options, keys, names)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, without what systems and archivers leave beside data."""
    with reporting(folder, "list"):
        paths = sorted(folder.iterdir())
    return [p for p in paths if not p.name.startswith(".") and p.name != "__MACOSX"]


def _subfolders(folder: Path) -> list[Path]:
    entries = _entries(folder)
    for path in entries:
        _refuse_link(path)
    return [path for path in entries if path.is_dir()]


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        problem = "a link, and links are not followed"
        raise InputError(problem, file=path, hint="put what it points to in its place")


def _labelled_files(folder: Path, names: list[str]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for path in _subfolders(folder):
        if path.name not in names:
            raise InputError("a class that is not in train", file=path)
        entries = _entries(path)
        images = [file for file in entries if file.suffix.lower() in _SUFFIXES]
        if not images:
            raise InputError("a class without images", file=path)
        files += images
        labels += [names.index(path.name)] * len(images)
    return files, labels


@functools.cache
def _pillow() -> ModuleType:
    pillow = require("PIL.Image", "train", "A folder of images")
    # What is not there when a format is looked for makes pillow import all it has.
    pillow.preinit()
    for plugin in ("Tiff", "WebP"):
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return pillow


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image]:
    pillow = _pillow()
    with (
        open_regular(path, limit=MAX_BYTES) as file,
        parsing(path, "not a readable image"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about what it repairs
        # What pillow itself holds too large is larger than our limit.
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        formats = [name for name in _FORMATS if name in pillow.OPEN]
        try:
            image = pillow.open(file, formats=formats)
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
            raise _too_large(path, "more") from None
        except pillow.UnidentifiedImageError:
            problem, expected = "not a readable image", ", ".join(formats)
            raise InputError(problem, file=path, expected=expected) from None
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path, f"{image.width:,} x {image.height:,}")
            yield image


def _too_large(path: Path, found: str) -> InputError:
    expected = f"at most {MAX_PIXELS:,} pixels"
    return InputError(
        "the image is too large", file=path, expected=expected, found=found
    )


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode.split(";")[0] in _COLOR_FREE


def _read_all(files: list[Path], is_grey: bool, size: int) -> np.ndarray:
    mode, channels = ("L", 1) if is_grey else ("RGB", 3)
    images = []
    for path in files:
        with _opened(path) as image:
            is_deep = image.mode.startswith(_DEEP)
            image = _as_float(image) if is_deep else image.convert(mode)
            resized = image.resize((size, size), _pillow().Resampling.BILINEAR)
            pixels = np.asarray(resized).reshape(size, size, -1)
            images.append(np.broadcast_to(pixels, (size, size, channels)))
    return np.stack(images)  # uint8, or float32 if any has more than 8 bits


def _as_float(image: Image) -> Image:
    """Return an image of more than 8 bits in float32: `convert` would clip at 255."""
    pixels = np.asarray(image).astype(np.float32)
    if image.mode.startswith("I;16"):
        pixels *= _FROM_16_BITS
    return _pillow().fromarray(pixels)
