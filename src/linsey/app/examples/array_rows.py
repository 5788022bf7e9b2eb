"""Arrays of examples to be classified: in an archive, a file, or a folder of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from linsey._array_files.array_file import read_npy
from linsey._array_files.npz import read_npz
from linsey.app.array_names import choose_examples
from linsey.app.examples.terms import Example, Terms
from linsey.files import parsing


def read_archive(path: Path, terms: Terms) -> Iterator[Example]:
    """Yield the examples of an npz file; its labels, if it has any, are not read.

    Raises:
        InputError: the array is not usable.
    """

    def choose(names: Iterable[str]) -> tuple[str]:
        return (choose_examples(names, path),)

    with parsing(path, "the arrays cannot be loaded"):
        ((key, x),) = read_npz(path, choose).items()
    yield from _rows(path, key, x, terms)


def read_array(path: Path, terms: Terms) -> Iterator[Example]:
    """Yield the examples of an npy file.

    Raises:
        InputError: the array is not usable.
    """
    yield from _rows(path, "x", read_npy(path), terms)


def _rows(path: Path, key: str, x: np.ndarray, terms: Terms) -> Iterator[Example]:
    for row, one in enumerate(terms.checked(x, str(path), key)):
        yield Example(str(path), row, one)
