"""Images in one folder per class, with or without training and test parts.

The class of an image is the name of the class folder that contains it, at any depth.
Symbolic links, which could lead anywhere, are refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from linsey.app.array_names import PARTS
from linsey.app.config import DataOptions, LoadingOptions
from linsey.app.dataset import Dataset, Known, make_dataset
from linsey.app.image_array import Holding, ImageArray, ImageFiles, Pixels, read_all
from linsey.app.images import SUFFIXES
from linsey.app.workers import Workers, workers_for
from linsey.errors import InputError
from linsey.files import reporting

_LEFT_BY_SYSTEMS = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
_NAMED = 5
SKIP = "--skip-broken leaves such images out"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of the parts of a data set.

    Attributes:
        train: the folder of class folders to train on.
        test: the one to test on, if there is one.
        validation: the one to choose the best step by, if there is also a test part.
        notes: lines for the user about this choice.
    """

    train: Path
    test: Path | None = None
    validation: Path | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Part:
    files: list[str]
    labels: list[int]


def load_image_folder(
    root: Path,
    options: DataOptions,
    known: Known | None = None,
    loading: LoadingOptions | None = None,
    pixels: Pixels | None = None,
) -> Dataset:
    """Load FOLDER/class/image or FOLDER/train/class/image with FOLDER/test/...

    All images become squares of `--image-size` pixels; they stay grey if all are.
    All are decoded once to be measured, and stay in memory if they fit
    `--image-memory`.

    Args:
        root: the folder.
        options: the data options.
        known: facts about the training data of the model that the data are for.
        loading: the options of memory and workers.
        pixels: what the images are known to be, if not all are to be decoded.

    Returns:
        The data set, with its classes in alphabetical order.

    Raises:
        InputError: there are no images, an image is unreadable, there is a link, or the
            classes of the parts differ.
        MissingPackageError: worker processes are asked for, and grain is not installed.
        DiskError: a file cannot be read or written.
    """
    loading = loading or LoadingOptions()
    layout = find_layout(root)
    names = [path.name for path in _subfolders(layout.train)]
    if len(names) < 2:
        raise _no_classes(layout.train, names)
    parts = [_labelled_files(folder, names) for folder in _folders(layout)]
    broken: list[Path] = []
    holding, workers = Holding(loading.image_memory * 2**20), workers_for(loading)
    arrays = [
        _read_part(part, options, holding, workers, broken, pixels) for part in parts
    ]
    for folder, (_, labels) in zip(_folders(layout), arrays, strict=True):
        _refuse_lost_class(folder, names, labels, broken)
    if len(arrays) > 1:
        channels = max(x.shape[-1] for x, _ in arrays)
        arrays = [(x.with_channels(channels), y) for x, y in arrays]
    train, *others = arrays
    test, validation = [*others, None, None][:2]
    keys = ("train", "train", "test", "test", "validation", "validation")
    dataset = make_dataset(
        str(root), train, test, options, keys, names, known, validation=validation
    )
    notes = (
        *layout.notes,
        *(note for folder in _folders(layout) for note in _loose_note(folder)),
        *broken_note([str(path.relative_to(root)) for path in broken]),
        *dataset.notes,
    )
    return dataclasses.replace(dataset, notes=notes)


def find_layout(root: Path) -> Layout:
    """Find the parts of a folder: train/ with test/, val/, valid/ or validation/.

    Raises:
        InputError: there are parts, but none to train on.
    """
    folders = {path.name.lower(): path for path in _subfolders(root)}
    parts = {
        part: next((folders[name] for name in names if name in folders), None)
        for part, names in PARTS.items()
    }
    train, test, validation = parts["train"], parts["test"], parts["val"]
    if train is None:
        if folders and folders.keys() <= {*PARTS["test"], *PARTS["val"]}:
            raise InputError(
                "no part to train on", file=root, expected="a folder train/",
                found=", ".join(sorted(path.name for path in folders.values())),
            )  # fmt: skip
        return Layout(root)
    if test is None and validation is None:
        # A train/ folder alone holds the classes; next to others it is itself a class.
        return Layout(train if len(folders) == 1 else root)
    notes = []
    used = (train, test, validation)
    if others := {path.name for path in folders.values() if path not in used}:
        shown = ", ".join(f"{name}/" for name in sorted(others)[:_NAMED])
        notes.append(f"{shown} beside {train.name}/ is not used")
    if test is None:
        test, validation = validation, None
    return Layout(train, test, validation, tuple(notes))


def _folders(layout: Layout) -> list[Path]:
    folders = (layout.train, layout.test, layout.validation)
    return [folder for folder in folders if folder is not None]


def _no_classes(folder: Path, names: list[str]) -> InputError:
    images = [path for path in _entries(folder) if _is_image(path)]
    if not images:
        inner = _only_way_down(folder)
        is_deeper = inner != folder and len(_subfolders(inner)) > 1
        return InputError(
            "no classes", file=folder, expected="a folder of images for each class",
            found="1 folder" if len(names) == 1 else f"{len(names)} folders",
            hint=f"give --data {inner}, if its folders are the classes"
            if is_deeper else None,
        )  # fmt: skip
    return InputError(
        "the images lie in no folder that names their class", file=folder,
        expected="a folder of images for each class", found=images[0].name,
        hint=f"move each image into a folder of its class, such as "
        f"{folder.name}/cat/{images[0].name}",
    )  # fmt: skip


def _only_way_down(folder: Path) -> Path:
    """Follow folders that hold a single folder and no image."""
    while len(found := _subfolders(folder)) == 1:
        if any(map(_is_image, _entries(folder))):
            break
        folder = found[0]
    return folder


def _entries(folder: Path) -> list[Path]:
    """List a folder, without files that operating systems and archivers leave in it."""
    with reporting(folder, "list"):
        paths = sorted(folder.iterdir())
    return [
        path
        for path in paths
        if not path.name.startswith(".") and path.name.lower() not in _LEFT_BY_SYSTEMS
    ]


def _subfolders(folder: Path) -> list[Path]:
    entries = _entries(folder)
    for path in entries:
        _refuse_link(path)
    return [path for path in entries if path.is_dir()]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        problem = "a link, and links are not followed"
        raise InputError(problem, file=path, hint="put what it points to in its place")


def _labelled_files(folder: Path, names: list[str]) -> _Part:
    part = _Part([], [])
    for path in _subfolders(folder):
        if path.name not in names:
            hint = "move it away, or add the class to the training part"
            problem = "a class that is not in the training part"
            raise InputError(problem, file=path, hint=hint)
        images = images_in(path)
        if not images:
            raise InputError(
                "a class without images", file=path, expected=" ".join(SUFFIXES),
                found=_endings(path), hint="move the folder away, or put images in it",
            )  # fmt: skip
        part.files.extend(map(str, images))
        part.labels.extend([names.index(path.name)] * len(images))
    if not part.files:
        raise _no_classes(folder, [])
    return part


def images_in(folder: Path) -> list[Path]:
    """List all images in a folder and its subfolders, in the order of names."""
    images = []
    for path in _entries(folder):
        if _is_image(path):
            images.append(path)  # a link or a folder is refused when it is opened
        elif path.is_dir():
            _refuse_link(path)
            images += images_in(path)
    return images


def _endings(folder: Path) -> str:
    found = sorted({path.suffix for path in _entries(folder) if path.is_file()})
    return " ".join(found[:_NAMED]) or "nothing"


def _read_part(
    part: _Part,
    options: DataOptions,
    holding: Holding,
    workers: Workers,
    broken: list[Path],
    pixels: Pixels | None,
) -> tuple[ImageArray, np.ndarray]:
    """Measure the images of a part, and add those that cannot be read to `broken`."""
    lost = []

    def refuse(row: int, error: InputError) -> None:
        _refuse_broken(path := Path(part.files[row]), error, options)
        broken.append(path)
        lost.append(row)

    files = ImageFiles(part.files)
    array = read_all(files, options.image_size, holding, workers, refuse, pixels)
    return array, np.delete(np.asarray(part.labels, np.int32), lost)


def _refuse_broken(path: Path, error: InputError, options: DataOptions) -> None:
    if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
        raise error  # not because of the content of the file
    if not options.skip_broken:
        raise error.with_hint(SKIP) from None


def _refuse_lost_class(
    folder: Path, names: list[str], labels: np.ndarray, broken: Iterable[Path]
) -> None:
    """Refuse a class without any readable image."""
    lost = {path.relative_to(folder).parts[0] for path in broken
            if path.is_relative_to(folder)}  # fmt: skip
    lost -= {names[label] for label in np.unique(labels)}
    if lost:
        hint = "move the folder away, or put images in it"
        problem = "a class without an image that can be read"
        raise InputError(problem, file=folder / min(lost), hint=hint)


def _loose_note(folder: Path) -> tuple[str, ...]:
    """Return a note on images outside of the class folders, if there are any."""
    loose = [path.name for path in _entries(folder) if _is_image(path)]
    if not loose:
        return ()
    shown = ", ".join(loose[:_NAMED]) + (", ..." if len(loose) > _NAMED else "")
    return (f"{folder.name}/ has images in no class folder, not used: {shown}",)


def broken_note(names: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the images that are left out, if there are any."""
    if not names:
        return ()
    shown = ", ".join(names[:_NAMED])
    more = ", ..." if len(names) > _NAMED else ""
    noun = "image is" if len(names) == 1 else "images are"
    return (f"{len(names)} broken {noun} left out: {shown}{more}",)
