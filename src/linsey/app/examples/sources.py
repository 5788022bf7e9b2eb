"""Files and folders that a command line names, as examples to be classified."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from linsey.app.array_names import choose_examples
from linsey.app.examples.array_rows import read_archive, read_array
from linsey.app.examples.image_files import Broken, files_in, read_images
from linsey.app.examples.table_rows import Tell, read_table
from linsey.app.examples.terms import Example, Terms
from linsey.app.images import SUFFIXES
from linsey.app.saved_datasets import is_saved_dataset
from linsey.errors import InputError
from linsey.files import reporting

_ARRAYS = (".npz", ".npy")
_TABLES = (".csv", ".tsv")
_KINDS = " ".join((*SUFFIXES, *_TABLES, *_ARRAYS))


def refuse_unknown(paths: Sequence[Path]) -> None:
    """Refuse paths that do not exist or are of an unknown kind, before reading any.

    Raises:
        InputError: there is such a path; the error names the first one.
    """
    if not paths:
        hint = "linsey predict RUN FILE..."
        raise InputError("no files to predict", key="FILES", hint=hint)
    for path in paths:
        if _is_folder(path):
            continue
        if not os.path.lexists(path):
            raise InputError("no such file or folder", file=path)
        if path.suffix.lower() not in (*SUFFIXES, *_TABLES, *_ARRAYS):
            raise InputError("a file of an unknown kind", file=path, expected=_KINDS)


def read_examples(
    paths: Iterable[Path], terms: Terms, tell: Tell, broken: Broken | None = None
) -> Iterator[Example]:
    """Yield the examples in files and folders, in their order.

    Args:
        paths: images, tables, arrays, and folders of images or of npy files.
        terms: the terms of the run.
        tell: called with what the user should know of how they are read.
        broken: called with the error of an image that cannot be read and is left out.
            If `None`, such an image is refused.

    Raises:
        InputError: something cannot be read; the error names the file and the place.
        DiskError: a file cannot be read or written.
    """
    for are_images, some in itertools.groupby(paths, _is_image):
        if are_images:
            yield from read_images(some, terms, broken)
            continue
        for path in some:
            if _is_folder(path):
                yield from _read_folder(path, terms, broken)
            elif path.suffix.lower() in _TABLES:
                yield from read_table(path, terms, tell)
            elif path.suffix.lower() == ".npz":
                yield from read_archive(path, terms)
            else:
                yield from read_array(path, terms)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _is_folder(path)


def _is_folder(path: Path) -> bool:
    with reporting(path, "read"):
        return path.is_dir()


def _read_folder(
    folder: Path, terms: Terms, broken: Broken | None
) -> Iterator[Example]:
    with reporting(folder, "list"):
        names = sorted(entry.stem for entry in folder.glob("*.npy"))
    if names:
        yield from read_array(folder / f"{choose_examples(names, folder)}.npy", terms)
    elif is_saved_dataset(folder):
        hint = "save its inputs with Dataset.to_csv, or as images or in an npz file"
        raise InputError("a folder of save_to_disk", file=folder,
                         expected=f"a folder of {_KINDS}", hint=hint)  # fmt: skip
    else:
        yield from read_images(files_in(folder), terms, broken)


def batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Yield examples in lists of a given size; the last one may be shorter."""
    rest = iter(examples)
    while batch := list(itertools.islice(rest, size)):
        yield batch
