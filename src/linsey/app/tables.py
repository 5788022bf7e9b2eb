"""Tables in CSV, as examples: a row each, a column for the class.

Columns of numbers are features; columns of text become a feature for each of their
values, 1 where the row has it, else 0. A file is read row by row, first to learn what
the columns are, then to fill the array: its text is never held in memory.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.dataset import Dataset, Known, make_dataset
from linsey.app.labels import MAX_LABEL
from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_BYTES = 2**30
MAX_COLUMNS = 10_000
MAX_LINE = 2**20
MAX_VALUES = 2**27
"""Values that the features of a table may have: 1 GiB."""
MAX_DISTINCT = 32
"""Values that a column of text may have."""
_TARGETS = ("label", "target", "class", "y")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_DELIMITERS = ",;\t|"


@dataclasses.dataclass
class Column:
    """What is known of a column.

    Attributes:
        name: of the header, or `column 3`.
        index: its place in a row.
        is_numeric: whether all of its cells are numbers.
        values: the texts that occur, at most one more than there may be.
        missing_in: the first line where a value is missing.
        filled: whether any cell has a value.
    """

    name: str
    index: int
    is_numeric: bool = True
    values: set[str] = dataclasses.field(default_factory=set)
    missing_in: int | None = None
    filled: bool = False

    def meet(self, cell: str, line: int, number: Number) -> None:
        """Learn from a cell."""
        if is_missing(cell):
            self.missing_in = self.missing_in or line
            return
        self.filled = True
        if self.is_numeric and number(cell) is None:
            self.is_numeric = False
        if len(self.values) <= MAX_DISTINCT:
            self.values.add(cell.strip())


@dataclasses.dataclass(frozen=True)
class Number:
    """Reads numbers; with a decimal comma where it does not part the cells."""

    has_commas: bool

    def __call__(self, cell: str) -> float | None:
        """Return the number of a cell, or `None` if it holds none."""
        # Python takes underscores in numbers, people do not.
        if "_" in cell:
            return None
        try:
            return float(cell.replace(",", ".") if self.has_commas else cell)
        except ValueError:
            return None


def is_missing(cell: str) -> bool:
    """Tell whether a cell holds one of the words for nothing."""
    return len(cell) < 9 and cell.strip().lower() in _MISSING


def load_table(path: Path, options: DataOptions, known: Known | None = None) -> Dataset:
    """Load a table of features and classes.

    Args:
        path: text in UTF-8, with commas, semicolons, tabulators or bars.
        options: the data options.
        known: the model that the data are for.

    Returns:
        The data set.

    Raises:
        InputError: the file is no such table; says line and column.
        DiskError: the disk refused.
    """
    table = Table(path)
    target = _target(table, options, known)
    index = table.row_index()
    features = [c for c in table.columns if c not in (target, index)]
    names = known.feature_names if known else ()
    encoders = [_encoder(table, column, options, names) for column in features]
    feature_names = tuple(name for encoder in encoders for name in encoder.names)
    if names and feature_names != names:
        raise table.wrong(
            "other columns than the model was trained on",
            expected=", ".join(names), found=", ".join(feature_names),
        )  # fmt: skip
    x, labels = table.read(encoders, target)
    _fill_missing(x, known.means if known and names else ())
    y, keys = _labels(table, target, labels), ("rows", f"column `{target.name}`")
    try:
        dataset = make_dataset(str(path), (x, y), None, options, keys, known=known)
    except InputError as error:
        is_wrong_column = re.search("regression|label of its own", error.problem)
        if options.target is None and is_wrong_column:
            raise error.with_hint("--target NAME names the column of classes") from None
        raise
    notes = dataset.notes
    if index is not None:
        notes += (
            f"the first column of {path.name} only numbers the rows: it is left out",
        )
    return dataclasses.replace(dataset, feature_names=feature_names, notes=notes)


class Table:
    """A file whose columns are known.

    Args:
        path: the file.

    Attributes:
        columns: what was learned of them.
        count: number of rows, without the header.

    Raises:
        InputError: it is not a table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wrong = functools.partial(InputError, file=path)
        self.delimiter = self._find_delimiter()
        self.number = Number(has_commas=self.delimiter == ";")
        self.columns, self.has_header = self._find_columns()
        self.count = 0
        for line, row in self.rows():
            self.count += 1
            for column, cell in zip(self.columns, row, strict=True):
                column.meet(cell, line, self.number)
        if not self.count:
            raise self.wrong("a table without rows")

    def _find_delimiter(self) -> str:
        with open_regular(self.path, limit=MAX_BYTES) as file:
            first = file.readline(MAX_LINE).decode("utf-8", "replace")
        counts = {mark: first.count(mark) for mark in _DELIMITERS}
        return max(counts, key=lambda mark: counts[mark])

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the cells of each line that is not empty."""
        with (
            open_regular(self.path, limit=MAX_BYTES) as file,
            parsing(self.path, "not a table"),
            io.TextIOWrapper(file, "utf-8-sig", newline="") as text,
        ):
            lines = self._bounded(text)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, row
            except csv.Error as error:
                key = f"line {reader.line_num}"
                raise self.wrong(f"not a table: {error}", key=key) from None
            except UnicodeDecodeError as error:
                problem, hint = f"not text in UTF-8: {error}", "save it in UTF-8"
                raise self.wrong(problem, hint=hint) from None

    def _bounded(self, text: io.TextIOWrapper) -> Iterator[str]:
        while line := text.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                expected = f"at most {MAX_LINE:,} characters"
                raise self.wrong("a line too long", expected=expected)
            yield line

    def _find_columns(self) -> tuple[list[Column], bool]:
        lines = self._lines()
        first, second = ([cell.strip() for cell in next(lines, (0, []))[1]]
                         for _ in range(2))  # fmt: skip
        if len(first) < 2:
            expected = "cells with commas, semicolons, tabulators or bars between them"
            raise self.wrong("a table of one column", expected=expected)
        if len(first) > MAX_COLUMNS:
            expected, found = f"at most {MAX_COLUMNS:,}", f"{len(first):,}"
            raise self.wrong("too many columns", expected=expected, found=found)
        is_header = self._is_header(first, second)
        longest = max(first, key=len)
        if is_header and len(longest) > MAX_LABEL:
            expected, found = f"at most {MAX_LABEL} characters", f"{len(longest):,}"
            raise self.wrong("the name of a column is too long", expected=expected,
                             found=found)  # fmt: skip
        names = first if is_header else [f"column {i + 1}" for i in range(len(first))]
        return [Column(name, i) for i, name in enumerate(names)], is_header

    def _is_header(self, first: list[str], second: list[str]) -> bool:
        """Names are no numbers, but where a library numbered columns without names."""
        numbers = [i for i, cell in enumerate(first) if self.number(cell) is not None]
        if numbers:
            are_places = all(first[i] in (str(i), str(i + 1)) for i in numbers)
            return are_places and 3 <= len(numbers) < len(first)
        twice = next((name for name in first if first.count(name) > 1), None)
        if twice is None:
            return True
        if all(self.number(cell) is None for cell in second):
            return False  # a table of text without a header
        hint = "rename one of them"
        raise self.wrong("two columns of the same name", found=twice, hint=hint)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the line and the cells of each row."""
        lines, size = self._lines(), len(self.columns)
        if self.has_header:
            next(lines)
        for line, row in lines:
            if len(row) != size:
                found = f"{len(row)} cells"
                key, expected = f"line {line}", f"{size} cells"
                raise self.wrong("a broken row", key=key, expected=expected,
                                 found=found)  # fmt: skip
            yield line, row

    def row_index(self) -> Column | None:
        """Return the column without a name that pandas writes before the others."""
        first = self.columns[0]
        if first.name or not self.has_header:
            return None
        seen: set[str] = set()
        for _, row in self.rows():
            cell = row[0].strip()
            if not cell.isdecimal() or cell in seen:
                return None
            seen.add(cell)
        return first

    def read(
        self, encoders: Sequence[Encoder], target: Column
    ) -> tuple[np.ndarray, list[str]]:
        """Return features, NaN where values are missing, and labels."""
        width = sum(len(encoder.names) for encoder in encoders)
        if not width:
            raise self.wrong("no columns beside the one of the classes")
        if self.count * width > MAX_VALUES:
            expected, found = f"at most {MAX_VALUES:,}", f"{self.count * width:,}"
            raise self.wrong("too many values", expected=expected, found=found)
        x, labels = np.zeros((self.count, width)), []
        for number, (line, row) in enumerate(self.rows()):
            start = 0
            for encoder in encoders:
                cell = row[encoder.column.index]
                end = start + len(encoder.names)
                encoder.encode(cell, x[number, start:end], line)
                start = end
            label = row[target.index].strip()
            if is_missing(label) or len(label) > MAX_LABEL:
                problem = (
                    "a label is missing" if is_missing(label) else "label too long"
                )
                key = f"line {line}, column `{target.name}`"
                hint = "remove the line, or give it a label"
                raise self.wrong(problem, key=key, hint=hint)
            labels.append(label)
        return x, labels


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns the cells of a column into features.

    Attributes:
        table: where it is.
        column: what is known of it.
        values: the texts that have a feature each; empty for numbers.
    """

    table: Table
    column: Column
    values: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        name = self.column.name
        return tuple(f"{name}={value}" for value in self.values) or (name,)

    def encode(self, cell: str, features: np.ndarray, line: int) -> None:
        """Write the features of a cell, NaN if it holds nothing."""
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


def _target(table: Table, options: DataOptions, known: Known | None) -> Column:
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
    names = [name for name in _TARGETS if name in lower and table.has_header]
    return lower[names[0]] if names else table.columns[-1]


def _encoder(
    table: Table, column: Column, options: DataOptions, names: Sequence[str]
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


def _labels(table: Table, target: Column, labels: list[str]) -> np.ndarray:
    """Return labels as numbers if all of them are, and else as text."""
    numbers = [table.number(label) for label in labels] if target.is_numeric else []
    if None in numbers or not numbers:
        return np.array(labels)
    return np.array(numbers)


def _fill_missing(x: np.ndarray, means: Sequence[float]) -> None:
    """Put the mean of its column in the place of each missing value."""
    for index in range(x.shape[1]):
        column = x[:, index]
        is_missing_here = np.isnan(column)
        if is_missing_here.any():
            mean = means[index] if means else column[~is_missing_here].mean()
            column[is_missing_here] = mean
