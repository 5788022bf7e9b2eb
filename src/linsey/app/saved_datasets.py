"""Data sets of Hugging Face `datasets`, as `save_to_disk` writes them into a folder.

The package is imported when such a folder is read. Nothing is downloaded, and no code
of the data set is run: the folder holds Arrow tables and their description. Encoded
images stay in these tables, which are mapped into memory, and are decoded as those of
files are: held if there is memory for them, or again in each epoch.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linsey.app.array_names import PARTS
from linsey.app.config import DataOptions, LoadingOptions
from linsey.app.dataset import Dataset, Known, Pair, make_dataset
from linsey.app.image_array import Holding, ImageArray, Pixels, read_all
from linsey.app.image_folder import SKIP, broken_note
from linsey.app.images import decode_stream
from linsey.app.workers import workers_for
from linsey.errors import InputError
from linsey.extras import MissingPackageError

_LABELS = ("label", "labels", "target", "class", "y", "fine_label")


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk`."""
    files = "dataset_dict.json", "dataset_info.json"
    return any((folder / name).is_file() for name in files)


def load_saved_dataset(
    folder: Path,
    options: DataOptions,
    known: Known | None = None,
    loading: LoadingOptions | None = None,
    pixels: Pixels | None = None,
) -> Dataset:
    """Load images with labels, or numbers with labels.

    Args:
        folder: the folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk`
            wrote.
        options: the data options; `--target` names the column of the classes.
        known: facts about the training data of the model that the data are for.
        loading: the options of memory and workers, for images.
        pixels: what the images are known to be, if not all are to be decoded.

    Returns:
        The data set.

    Raises:
        MissingPackageError: `datasets` is not installed.
        InputError: the data set has no such columns, or an image is unreadable.
    """
    saved = _package().load_from_disk(str(folder))
    if not hasattr(saved, "keys"):
        parts = {"": saved}
    else:
        lower = {name.lower(): name for name in saved}
        named = {part: next((lower[n] for n in names if n in lower), None)
                 for part, names in PARTS.items()}  # fmt: skip
        chosen = [name for name in named.values() if name is not None]
        if named["train"] is None:
            found = ", ".join(saved)
            raise InputError("no part to train on", file=folder, expected="train",
                             found=found)  # fmt: skip
        parts = {name: saved[name] for name in chosen}
    columns = next(iter(parts.values())).features
    target = _target(folder, columns, options)
    inputs = [name for name in columns if name != target]
    if known and known.feature_names:
        if {*inputs} != {*known.feature_names}:
            raise InputError(
                "other columns than the model was trained on", file=folder,
                expected=", ".join(known.feature_names), found=", ".join(inputs),
            )  # fmt: skip
        inputs = list(known.feature_names)
    image = next((n for n in inputs if type(columns[n]).__name__ == "Image"), None)
    pairs: list[Pair]
    notes: tuple[str, ...] = ()
    if image is None:
        pairs = [(_numbers(folder, part, inputs), _column(part, target))
                 for part in parts.values()]  # fmt: skip
    else:
        broken: list[str] = []
        stored = [StoredColumn.of(folder, *part, image) for part in parts.items()]
        arrays = _read(stored, options, loading or LoadingOptions(), broken, pixels)
        pairs = [(x, _column(part, target)[rows]) for (x, rows), part
                 in zip(arrays, parts.values(), strict=True)]  # fmt: skip
        notes = broken_note(broken)
    names = getattr(columns[target], "names", None)
    keys = [f"{part}{':' if part else ''}{kind}" for part in parts
            for kind in (image or "columns", target)]  # fmt: skip
    train, *others = pairs
    test, validation = [*others, None, None][:2]
    dataset = make_dataset(
        str(folder), train, test, options, keys, names, known, validation
    )
    if image is not None:
        return dataclasses.replace(dataset, notes=(*notes, *dataset.notes))
    width = dataset.shape[-1] if len(dataset.shape) == 1 else 0
    features = tuple(inputs) if len(inputs) == width else ()
    return dataclasses.replace(dataset, feature_names=features)


@dataclasses.dataclass(frozen=True)
class StoredColumn:
    """The images of a column, encoded in an Arrow table.

    Attributes:
        folder: the folder of the data set.
        part: the name of the part, or "" if there are none.
        table: the part with this column alone, without decoding.
        column: the name of the column.
        rows: the rows that belong to it.
    """

    folder: Path
    part: str
    table: Any
    column: str
    rows: np.ndarray

    @classmethod
    def of(cls, folder: Path, name: str, part: Any, column: str) -> StoredColumn:
        """Return all images of a column of a part."""
        encoded = type(part.features[column])(decode=False)
        table = part.select_columns([column]).cast_column(column, encoded)
        return cls(folder, name, table, column, np.arange(len(part)))

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, row: int, size: int) -> np.ndarray:
        """Return the pixels of an image."""
        entry = self.table[int(self.rows[row])][self.column]
        file, place = self.name(row)
        if entry is None:
            raise InputError("no image in this row", file=file, key=place)
        if entry["bytes"] is None:  # `save_to_disk` stores the bytes of all images
            problem = "a path in place of an image, and other files are not opened"
            raise InputError(problem, file=file, key=place, found=entry["path"])
        return decode_stream(io.BytesIO(entry["bytes"]), file, size, place)

    def name(self, row: int) -> tuple[Path, str]:
        """Return the folder, and part, column and row."""
        start = f"{self.part}:" if self.part else ""
        return self.folder, f"{start}{self.column}[{self.rows[row]}]"

    def select(self, rows: Sequence[int] | np.ndarray) -> StoredColumn:
        """Return some of the images."""
        return dataclasses.replace(self, rows=self.rows[np.asarray(rows, np.intp)])


def _read(
    parts: list[StoredColumn],
    options: DataOptions,
    loading: LoadingOptions,
    broken: list[str],
    pixels: Pixels | None,
) -> list[tuple[ImageArray, np.ndarray]]:
    """Return the images and their rows, and add those that are broken to `broken`."""

    def read(part: StoredColumn) -> tuple[ImageArray, np.ndarray]:
        lost = []

        def refuse(row: int, error: InputError) -> None:
            if not options.skip_broken:
                raise error.with_hint(SKIP) from None
            broken.append(part.name(row)[1])
            lost.append(row)

        array = read_all(part, options.image_size, holding, workers, refuse, pixels)
        return array, np.delete(part.rows, lost)

    holding, workers = Holding(loading.image_memory * 2**20), workers_for(loading)
    arrays = [read(part) for part in parts]
    channels = max(x.shape[-1] for x, _ in arrays)
    return [(x.with_channels(channels), rows) for x, rows in arrays]


def _package() -> Any:
    try:
        import datasets  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        reworded = MissingPackageError(
            f"A folder of save_to_disk needs `{error.name}`, which is not installed.",
            "It comes with Hugging Face's package `datasets`.",
            "Write `pip install datasets`.",
        )
        reworded.name = error.name
        raise reworded from error
    return datasets


def _target(folder: Path, columns: Any, options: DataOptions) -> str:
    wanted = _LABELS if options.target is None else (options.target,)
    found = next((name for name in wanted if name in columns), None)
    if found is None:
        raise InputError(
            "no column of labels", file=folder, key="--target",
            expected=" or ".join(wanted), found=", ".join(columns),
            hint="--target NAME names the column of classes",
        )  # fmt: skip
    return found


def _column(part: Any, name: str) -> np.ndarray:
    """Read one column as it is stored, without decoding the images of others."""
    table = part.select_columns([name]).with_format("arrow")[:]
    return _stacked(table[name].to_numpy())


def _stacked(values: np.ndarray) -> np.ndarray:
    """Return texts, or arrays of one shape and dtype, as one array without objects."""
    kinds = {type(value) for value in values} if values.dtype == object else None
    if kinds == {str}:
        return values.astype(str)
    if kinds != {np.ndarray}:
        return values
    parts = [_stacked(part) for part in values]
    is_whole = len({(part.shape, part.dtype) for part in parts}) == 1
    return np.stack(parts) if is_whole else values


def _numbers(folder: Path, part: Any, columns: list[str]) -> np.ndarray:
    """Return the columns of numbers side by side, or the one column of arrays."""
    if not columns:
        raise InputError("no columns beside the one of labels", file=folder)
    arrays = [_column(part, name) for name in columns]
    for name, array in zip(columns, arrays, strict=True):
        if array.dtype.kind not in "buif":
            hint = f'leave it out: save dataset.remove_columns("{name}")'
            raise InputError("a column of neither images nor numbers", file=folder,
                             key=name, found=array.dtype, hint=hint)  # fmt: skip
    if len(arrays) == 1 and arrays[0].ndim > 1:
        return arrays[0]
    if any(array.ndim != 1 for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        expected = "one column of arrays, or columns of numbers"
        raise InputError("columns of several shapes", file=folder, expected=expected,
                         found=shapes)  # fmt: skip
    return np.stack(arrays, 1)
