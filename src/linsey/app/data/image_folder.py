"""Images in one folder per class, read with pillow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.data.dataset import Dataset, make_dataset
from linsey.training.input_error import InputError

_SUFFIXES = frozenset(
    (".png .jpg .jpeg .bmp .gif .webp .ppm .pgm .pbm .tif .tiff").split()
)
_COLOR_FREE = ("1", "L", "LA", "I", "I;16", "F")


def load_image_folder(root: Path, options: DataOptions) -> Dataset:
    """Loads FOLDER/class/image or FOLDER/train/class/image with FOLDER/test/...

    All images become squares of `--image-size` pixels; they stay grey if all are.

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
    names = _class_names(folders[0])
    parts = [_labelled_files(folder, names) for folder in folders]
    is_grey = _are_grey(path for files, _ in parts for path in files)
    arrays = [
        (_read_all(files, is_grey, options.image_size), np.asarray(labels, np.int32))
        for files, labels in parts
    ]
    return make_dataset(
        str(root), arrays[0], arrays[1] if has_parts else None, options,
        ("train", "train", "test", "test"), names,
    )  # fmt: skip


def _subfolders(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def _class_names(folder: Path) -> list[str]:
    names = [path.name for path in _subfolders(folder)]
    if len(names) < 2:
        raise InputError(
            "no classes", file=folder, expected="a folder of images for each class",
            found=f"{len(names)} folders",
        )  # fmt: skip
    return names


def _labelled_files(folder: Path, names: list[str]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for path in _subfolders(folder):
        if path.name not in names:
            raise InputError("a class that is not in train", file=path)
        images = [p for p in sorted(path.iterdir()) if p.suffix.lower() in _SUFFIXES]
        if not images:
            raise InputError("a class without images", file=path)
        files += images
        labels += [names.index(path.name)] * len(images)
    return files, labels


def _are_grey(files: Iterable[Path]) -> bool:
    from PIL import Image

    for path in files:
        try:
            with Image.open(path) as image:
                if image.mode not in _COLOR_FREE:
                    return False
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
    return True


def _read_all(files: list[Path], is_grey: bool, size: int) -> np.ndarray:
    from PIL import Image

    images = np.empty((len(files), size, size, 1 if is_grey else 3), np.uint8)
    for index, path in enumerate(files):
        try:
            with Image.open(path) as image:
                image = image.convert("L" if is_grey else "RGB")
                resized = image.resize((size, size), Image.Resampling.BILINEAR)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        images[index] = np.asarray(resized).reshape(images.shape[1:])
    return images


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError("not a readable image", file=path, found=type(error).__name__)
