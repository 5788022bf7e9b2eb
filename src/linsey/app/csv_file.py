"""The rows and columns of a file of comma-separated values.

The content is not trusted: lines, cells and columns have limits, each row must have as
many cells as the first, and errors name the line.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Iterator
from pathlib import Path

from linsey.app.labels import MAX_LABEL
from linsey.errors import InputError
from linsey.files import open_regular, parsing

MAX_BYTES = 2**30
MAX_COLUMNS = 10_000
MAX_LINE = 2**20
MAX_DISTINCT = 32
"""The largest number of distinct values in a column of text."""
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_DELIMITERS = ",;\t|"


@dataclasses.dataclass
class Column:
    """What is known about a column.

    Attributes:
        name: the name in the header, or `column 3`.
        index: its place in a row.
        is_numeric: whether all of its cells are numbers.
        values: the distinct texts, up to one more than `MAX_DISTINCT`.
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
        """Update the column with a cell."""
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
    """A parser of numbers, with decimal commas if these do not separate the cells."""

    has_commas: bool

    def __call__(self, cell: str) -> float | None:
        """Return the number of a cell, or `None` if it holds none."""
        # Python accepts underscores in numbers, but people do not write them.
        if "_" in cell:
            return None
        try:
            return float(cell.replace(",", ".") if self.has_commas else cell)
        except ValueError:
            return None


def is_missing(cell: str) -> bool:
    """Tell whether a cell is empty, or holds one of the words for a missing value."""
    return len(cell) < 9 and cell.strip().lower() in _MISSING


class CsvTable:
    """A file of comma-separated values, with its columns.

    Args:
        path: the file.
        least: the least number of columns.

    Attributes:
        columns: what is known about each column.
        count: number of rows, without the header.

    Raises:
        InputError: the file is not a table.
    """

    def __init__(self, path: Path, least: int = 2) -> None:
        self.path, self._least = path, least
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
        if len(first) < self._least:
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
        """Tell whether the first row holds names; unnamed columns may have numbers."""
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
        """Return the column without a name that pandas writes first, if it is there."""
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
