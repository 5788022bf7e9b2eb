"""The pixels of an image, read with pillow.

A file may be malicious. Symbolic links, which could lead anywhere, are refused; only
the formats listed here are tried; and the size in the header of an image is checked
before its pixels are decoded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from linsey.errors import InputError
from linsey.extras import require
from linsey.files import open_regular, parsing

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 2**28
MAX_PIXELS = 50_000_000
SUFFIXES = ".png .jpg .jpeg .bmp .gif .webp .ppm .pgm .pbm .tif .tiff".split()
"""The suffixes of image files."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_COLOR_FREE = ("1", "L", "LA", "I", "F")
_DEEP = ("I", "F")  # more than 8 bits: prefixes of the names of modes, such as "I;16B"
_DETAIL = 2
"""A JPEG is decoded at a half, a quarter or an eighth of its size if that is still this
many times as large as the result: see `image_pixels`."""
_FROM_16_BITS = np.float32(255 / 65535)
# Pillow has called 16-bit images "I" in these formats, which allow no more bits.
_AT_MOST_16 = ("PNG", "PPM")
_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip


def read_image(path: Path, size: int) -> np.ndarray:
    """Read an image as a square.

    Args:
        path: the file. If it has several frames, the first one is read.
        size: pixels on a side.

    Returns:
        Pixels of shape (size, size, 1), or (size, size, 3) if it has colors; uint8, or
        float32 if it has more than 8 bits.

    Raises:
        InputError: the file is not a readable image, too large, or a link.
        DiskError: a file cannot be read or written.
    """
    with calm_pillow():
        return decode(path, size)


def decode(path: Path, size: int) -> np.ndarray:
    """Read an image as `read_image` does, within `calm_pillow` of the caller.

    Threads may call it at the same time. They cannot each enter `calm_pillow`, since
    they share the warning filters.
    """
    with open_regular(path, limit=MAX_BYTES) as file:
        return decode_stream(file, path, size)


def decode_stream(
    file: BinaryIO, path: Path, size: int, place: str | None = None
) -> np.ndarray:
    """Read the image in a stream, as `decode` reads one in a file.

    Args:
        file: the encoded image.
        path: the file that it comes from, for messages.
        size: pixels on a side.
        place: the place in the file, for messages.

    Returns:
        Pixels, as `read_image` returns them.

    Raises:
        InputError: the stream is not a readable image, or too large.
    """
    wrong = functools.partial(InputError, file=path, key=place)
    with parsing(path, "not a readable image", place), _opened(wrong, file) as image:
        pixels = image_pixels(image, size)
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise wrong("an image with numbers that are not finite")
        return pixels


def image_pixels(image: Image, size: int) -> np.ndarray:
    """Return the pixels of an image, turned upright, as a square.

    16-bit images are scaled to the range 0 to 255, 32-bit images keep their values.
    Transparent pixels become white.

    A large JPEG is decoded at a fraction of its size, from fewer frequencies of its
    blocks, which takes a half to a fifth of the time. For photos of quality 90 this
    changes the result by 0.1 to 0.6 of 255 on average, and by at most 4.

    Args:
        image: an image of any mode.
        size: pixels on a side.

    Returns:
        Pixels, as `read_image` returns them.
    """
    is_deep = image.mode.startswith(_DEEP)
    channels = 1 if image.mode.split(";")[0] in _COLOR_FREE else 3
    scale = image.format in _AT_MOST_16 or image.mode.startswith("I;16")
    draft = image.draft(None, (_DETAIL * size, _DETAIL * size))
    # The last block may be cut off: the box is the part of all blocks with the image.
    box = None if draft is None else draft[1]
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if is_deep:
        plain = _as_float(image, scale and not image.mode.startswith("F"))
    else:
        plain = _opaque(image, "L" if channels == 1 else "RGB")
    resized = plain.resize((size, size), _pillow().Resampling.BILINEAR, box)
    if turn is not None:
        resized = resized.transpose(_pillow().Transpose[turn])
    return np.asarray(resized).reshape(size, size, channels)


@functools.cache
def _pillow() -> ModuleType:
    pillow = require("PIL.Image", "train", "A folder of images")
    # If a format is not loaded when pillow looks for it, pillow imports all formats.
    pillow.preinit()
    for plugin in ("Tiff", "WebP"):
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return pillow


@contextlib.contextmanager
def calm_pillow() -> Iterator[None]:
    """Ignore pillow's warnings in all threads, except about images that are too large.

    Enter it in the main thread, around everything that threads decode: on exit, Python
    restores the filters that it found, whatever other threads did meanwhile.
    """
    with warnings.catch_warnings():
        hush_pillow()
        yield


def hush_pillow() -> None:
    """Do the same permanently, in a process that only decodes."""
    pillow = _pillow()
    # These are about damage that pillow repairs.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Images that pillow itself considers too large are above our limit.
    warnings.simplefilter("error", pillow.DecompressionBombWarning)


@contextlib.contextmanager
def _opened(wrong: functools.partial[InputError], file: BinaryIO) -> Iterator[Image]:
    pillow = _pillow()
    formats = [name for name in _FORMATS if name in pillow.OPEN]
    try:
        image = pillow.open(file, formats=formats)
    except (
        pillow.DecompressionBombWarning, pillow.DecompressionBombError
    ) as bomb:  # fmt: skip
        match = re.search(r"\((\d+) pixels\)", str(bomb))
        found = f"{int(match[1]):,}" if match else "more"
        raise _too_large(wrong, found) from None
    except pillow.UnidentifiedImageError:
        problem, expected = "not a readable image", ", ".join(formats)
        raise wrong(problem, expected=expected) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(wrong, f"{image.width:,} x {image.height:,}")
        yield image


def _too_large(wrong: functools.partial[InputError], found: str) -> InputError:
    expected = f"at most {MAX_PIXELS:,} pixels"
    return wrong("the image is too large", expected=expected, found=found)


def _orientation(image: Image) -> int:
    """Read the orientation of an image; pillow turns TIFF images when it loads them."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # Damaged metadata do not harm the pixels.
    except (ValueError, TypeError, LookupError, SyntaxError, OSError, struct.error):
        return 1


def _opaque(image: Image, mode: str) -> Image:
    """Return an 8-bit image, with transparent pixels over white."""
    if image.mode[-1] not in "Aa" and "transparency" not in image.info:
        return image.convert(mode)
    layers = image.convert("RGBA")
    white = _pillow().new("RGBA", layers.size, "white")
    return _pillow().alpha_composite(white, layers).convert(mode)


def _as_float(image: Image, is_scaled: bool) -> Image:
    """Return an image of more than 8 bits in float32; `convert` would clip at 255."""
    pixels = np.asarray(image).astype(np.float32)
    if is_scaled:
        pixels *= _FROM_16_BITS
    return _pillow().fromarray(pixels)
