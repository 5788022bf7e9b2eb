"""Data for the command: `load` gives one `Dataset`, wherever the examples are."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from linsey import datasets
from linsey.app.config import DataOptions
from linsey.app.dataset import Dataset, make_dataset
from linsey.errors import InputError
from linsey.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

_WHOLE = ("x", "y")
_PARTS = ("x_train", "y_train", "x_test", "y_test")
_SUFFIXES = ".png .jpg .jpeg .bmp .gif .webp .ppm .pgm .pbm .tif .tiff".split()
_COLOR_FREE = ("1", "L", "LA", "I", "F")
_DEEP = ("I", "F")  # more than 8 bits: how the names of these modes begin, as "I;16B"
_FROM_16_BITS = np.float32(255 / 65535)


def load(options: DataOptions) -> Dataset:
    """Load what `--data` names.

    Args:
        options: the data options.

    Returns:
        Validated arrays with a training and a test part.

    Raises:
        InputError: the data are not there or not usable; says what and where.
    """
    if options.data == "digits":
        return make_dataset("digits", datasets.digits(), None, options)
    path = Path(options.data)
    if path.is_dir():
        return load_image_folder(path, options)
    if not path.exists():
        raise InputError("no such file or folder", file=path, key="--data")
    if path.suffix != ".npz":
        kinds = "`digits`, FILE.npz, or a folder of class folders of images"
        raise InputError("data of an unknown kind", file=path, expected=kinds)
    return load_npz(path, options)


# -- arrays from a NumPy archive -----------------------------------------------------


def load_npz(path: Path, options: DataOptions) -> Dataset:
    """Load x and y, or x_train, y_train, x_test and y_test; nothing is unpickled.

    Args:
        path: the archive.
        options: the data options.

    Returns:
        The data set.

    Raises:
        InputError: the file or an array is not usable.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = list(getattr(archive, "files", ()))
            keys = _PARTS if set(_PARTS) <= set(found) else _WHOLE
            if not set(keys) <= set(found):
                raise InputError(
                    "arrays are missing", file=path, found=", ".join(found) or "none",
                    expected="x, y or x_train, y_train, x_test, y_test",
                )  # fmt: skip
            arrays = [_array_of(path, archive, key) for key in keys]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"not a readable npz file: {error}", file=path) from error
    test = (arrays[2], arrays[3]) if len(arrays) == 4 else None
    return make_dataset(str(path), (arrays[0], arrays[1]), test, options, keys)


def _array_of(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        problem = "the array cannot be read"
        raise InputError(f"{problem}: {error}", file=path, key=key) from error


# -- images in one folder per class, read with pillow --------------------------------


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
        InputError: no images, an unreadable image, or classes that differ.
    """
    has_parts = (root / "train").is_dir() and (root / "test").is_dir()
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


def _subfolders(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not _is_hidden(path)]


def _is_hidden(path: Path) -> bool:
    """Tell whether a name is one that systems and archivers leave beside the data."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def _labelled_files(folder: Path, names: list[str]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for path in _subfolders(folder):
        if path.name not in names:
            raise InputError("a class that is not in train", file=path)
        images = [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() in _SUFFIXES and not _is_hidden(file)
        ]
        if not images:
            raise InputError("a class without images", file=path)
        files += images
        labels += [names.index(path.name)] * len(images)
    return files, labels


def _pillow() -> ModuleType:
    return require("PIL.Image", "train", "A folder of images")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image]:
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            yield image
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        kind = type(error).__name__
        raise InputError("not a readable image", file=path, found=kind) from error


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
