"""CSV tables as examples: one example per row, with a column for the class.

Columns of numbers are features; a column of text becomes one feature for each of its
values, 1 in rows with this value and 0 otherwise. A file is read row by row, first to
learn what the columns are, then to fill the array: its text is never held in memory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.csv_file import MAX_DISTINCT, Column, CsvTable, is_missing
from linsey.app.dataset import Dataset, Known, make_dataset
from linsey.app.labels import MAX_LABEL
from linsey.errors import InputError

MAX_VALUES = 2**27
"""The largest number of feature values in a table: 1 GiB."""
LABEL_COLUMNS = ("label", "target", "class", "y")
"""Names that a column of classes may have, in lower case."""


def load_table(path: Path, options: DataOptions, known: Known | None = None) -> Dataset:
    """Load a table of features and classes.

    Args:
        path: text in UTF-8, separated by commas, semicolons, tabs or bars.
        options: the data options.
        known: facts about the training data of the model that the data are for.

    Returns:
        The data set.

    Raises:
        InputError: the file is not such a table; the error names line and column.
        DiskError: a file cannot be read or written.
    """
    table = CsvTable(path)
    target = _target(table, options)
    index = table.row_index()
    features = [c for c in table.columns if c not in (target, index)]
    names = known.feature_names if known else ()
    encoders = [_encoder(table, column, options, names) for column in features]
    # In the order of the model, whatever the order in the file is.
    encoders.sort(key=lambda e: names.index(e.names[0]) if e.names[0] in names else 0)
    feature_names = tuple(name for encoder in encoders for name in encoder.names)
    if names and feature_names != names:
        raise table.wrong(
            "other columns than the model was trained on",
            expected=", ".join(names), found=", ".join(feature_names),
        )  # fmt: skip
    x, labels = _read(table, encoders, target)
    y, keys = _labels(table, target, labels), ("rows", f"column `{target.name}`")
    try:
        dataset = make_dataset(
            str(path), (x, y), None, options, keys, known=known, may_miss=True
        )
    except InputError as error:
        is_wrong_column = re.search("regression|label of its own", error.problem)
        if options.target is None and is_wrong_column:
            raise error.with_hint("--target NAME names the column of classes") from None
        raise
    means = (
        known.means
        if known and names
        else _means(np.asarray(dataset.x_train), table, feature_names)
    )
    validation = (dataset.validation or ())[:1]
    for part in (dataset.x_train, dataset.x_test, *validation):
        _fill_missing(np.asarray(part), means)
    notes = dataset.notes
    if index is not None:
        notes += (
            f"the first column of {path.name} only numbers the rows: it is left out",
        )
    return dataclasses.replace(dataset, feature_names=feature_names, notes=notes)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The conversion of a column's cells to features.

    Attributes:
        table: the table with the column.
        column: what is known about the column.
        values: the texts that have one feature each; empty for numbers.
    """

    table: CsvTable
    column: Column
    values: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        name = self.column.name
        return tuple(f"{name}={value}" for value in self.values) or (name,)

    def encode(self, cell: str, features: np.ndarray, line: int) -> None:
        """Write the features of a cell; NaN if its value is missing."""
        key = f"line {line}, column `{self.column.name}`"
        if is_missing(cell):
            features[:] = math.nan
        elif self.values:
            if (text := cell.strip()) not in self.values:
                expected = f"one of {', '.join(self.values)}"
                problem = "a value that does not occur in the training data"
                raise self.table.wrong(problem, key=key, expected=expected, found=text)
            features[self.values.index(text)] = 1
        else:
            number = self.table.number(cell)
            if number is None or not math.isfinite(number):
                problem = "not a finite number"
                raise self.table.wrong(problem, key=key, found=cell.strip())
            features[0] = number


def _target(table: CsvTable, options: DataOptions) -> Column:
    columns = {column.name: column for column in table.columns}
    if options.target is not None:
        if options.target not in columns:
            expected = f"one of {', '.join(columns)}"
            raise InputError(
                "no such column", file=table.path, key="--target",
                expected=expected, found=options.target,
            )  # fmt: skip
        return columns[options.target]
    lower = {column.name.lower(): column for column in reversed(table.columns)}
    names = [name for name in LABEL_COLUMNS if name in lower and table.has_header]
    return lower[names[0]] if names else table.columns[-1]


def _encoder(
    table: CsvTable, column: Column, options: DataOptions, names: Sequence[str]
) -> Encoder:
    """Choose the features of a column: those of the model, if there is one."""
    key = f"column `{column.name}`"
    if column.missing_in and options.missing == "refuse":
        hint = "--missing mean fills in the mean of the column"
        place = f"line {column.missing_in}, {key}"
        raise table.wrong("a value is missing", key=place, hint=hint)
    if names:
        if column.name in names:
            return Encoder(table, column)
        start = f"{column.name}="
        values = [name[len(start) :] for name in names if name.startswith(start)]
        return Encoder(table, column, tuple(values))
    if not column.filled:
        hint = "remove the column"
        raise table.wrong("a column without values", key=key, hint=hint)
    if column.is_numeric:
        return Encoder(table, column)
    if len(column.values) > MAX_DISTINCT:
        raise table.wrong(
            "a column of text with too many values", key=key,
            expected=f"numbers, or at most {MAX_DISTINCT} texts",
            hint="remove the column, or put numbers in it",
        )  # fmt: skip
    values = tuple(sorted(column.values))
    if len(longest := max(values, key=len)) > MAX_LABEL:
        expected, found = f"at most {MAX_LABEL} characters", f"{len(longest):,}"
        raise table.wrong("a text too long", key=key, expected=expected, found=found)
    return Encoder(table, column, values)


def _labels(table: CsvTable, target: Column, labels: list[str]) -> np.ndarray:
    """Return labels as numbers if all of them are numbers, otherwise as text."""
    numbers = [table.number(label) for label in labels] if target.is_numeric else []
    if None in numbers or not numbers:
        return np.array(labels)
    return np.array(numbers)


def _means(x: np.ndarray, table: CsvTable, names: Sequence[str]) -> list[float]:
    """Return the means of the training part, without the missing values."""
    means = []
    for name, column in zip(names, x.T, strict=True):
        present = column[~np.isnan(column)]
        if not len(present):
            problem = "a column without values in the training part"
            hint = "remove the column, or choose other rows with --split-seed"
            raise table.wrong(problem, key=f"column `{name}`", hint=hint)
        means.append(present.mean())
    return means


def _fill_missing(x: np.ndarray, means: Sequence[float]) -> None:
    """Replace each missing value by the mean of its column."""
    for column, mean in zip(x.T, means, strict=True):
        column[np.isnan(column)] = mean


def _read(
    table: CsvTable, encoders: Sequence[Encoder], target: Column
) -> tuple[np.ndarray, list[str]]:
    """Return features (NaN for missing values) and labels."""
    width = sum(len(encoder.names) for encoder in encoders)
    if not width:
        raise table.wrong("no columns beside the one of the classes")
    if table.count * width > MAX_VALUES:
        expected, found = f"at most {MAX_VALUES:,}", f"{table.count * width:,}"
        raise table.wrong("too many values", expected=expected, found=found)
    x, labels = np.zeros((table.count, width)), []
    for number, (line, row) in enumerate(table.rows()):
        start = 0
        for encoder in encoders:
            cell = row[encoder.column.index]
            end = start + len(encoder.names)
            encoder.encode(cell, x[number, start:end], line)
            start = end
        label = row[target.index].strip()
        if is_missing(label) or len(label) > MAX_LABEL:
            problem = "a label is missing" if is_missing(label) else "label too long"
            key = f"line {line}, column `{target.name}`"
            hint = "remove the line, or give it a label"
            raise table.wrong(problem, key=key, hint=hint)
        labels.append(label)
    return x, labels
