"""Rows of tables to be classified, read like those of the training data.

Columns are found by their names, whatever their order. Missing values get the mean of
the training part; for a column of text, the frequency of each of its values there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from linsey.app.csv_file import Column, CsvTable
from linsey.app.examples.terms import Example, Terms
from linsey.app.tables import LABEL_COLUMNS, Encoder
from linsey.errors import InputError
from linsey.files import parsing

Tell = Callable[[str], None]
_SHOWN = 8
_NUMBERED = re.compile(r"(column \d+)?.*", re.DOTALL)  # in a table without a header


def read_table(path: Path, terms: Terms, tell: Tell) -> Iterator[Example]:
    """Yield the rows of a table.

    Args:
        path: text in UTF-8, as `linsey train` takes it; a column of labels is not read.
        terms: the terms of the run.
        tell: called with a line on other columns that are not used.

    Raises:
        InputError: a column is missing, or a cell cannot be read; the error says where.
    """
    with parsing(path, "the table cannot be loaded"):
        table = CsvTable(path, least=1)
        encoders = _encoders(table, terms, tell)
        means = np.asarray(terms.known.means)
        widths = [len(encoder.names) for encoder in encoders]
        ends = np.cumsum(widths).tolist()
        for number, (line, row) in enumerate(table.rows()):
            x = np.zeros(terms.shape)
            for encoder, end, width in zip(encoders, ends, widths, strict=True):
                cell = row[encoder.column.index]
                encoder.encode(cell, x[end - width : end], line)
            yield Example(str(path), number, np.where(np.isnan(x), means, x))


def _encoders(table: CsvTable, terms: Terms, tell: Tell) -> list[Encoder]:
    """Choose the columns of the model, in its order."""
    if len(terms.shape) != 1:
        expected = f"examples {terms.shape}"
        raise table.wrong("a table, and the model takes images", expected=expected)
    names = terms.known.feature_names or tuple(map(str, range(terms.shape[0])))
    columns = _named(table, terms, names)
    encoders = [e for e in (_encoder(table, c, names) for c in columns) if e]
    found = {name for encoder in encoders for name in encoder.names}
    if missing := [name for name in names if name not in found]:
        raise table.wrong(
            "columns are missing that the model was trained on",
            expected=_listed(missing), found=_listed([c.name for c in table.columns]),
            hint="name them in the first line" if not table.has_header else None,
        )  # fmt: skip
    for encoder in encoders:
        _refuse_missing(table, encoder.column, terms)
    used = {encoder.column.index for encoder in encoders}
    index = table.row_index()
    unused = [c for c in columns if c.index not in used and c != index]
    if others := [c.name for c in unused if not _is_label(c, terms)]:
        tell(f"{table.path}: not used, since the model does not know it: "
             f"{_listed(others)}")  # fmt: skip
    return sorted(encoders, key=lambda encoder: names.index(encoder.names[0]))


def _encoder(table: CsvTable, column: Column, names: Sequence[str]) -> Encoder | None:
    if column.name in names:
        return Encoder(table, column)
    start = f"{column.name}="
    values = [name[len(start) :] for name in names if name.startswith(start)]
    return Encoder(table, column, tuple(values)) if values else None


def _named(table: CsvTable, terms: Terms, names: Sequence[str]) -> list[Column]:
    """Name columns like those of the model, if only their order tells which is which.

    This is so for a table without a line of names, and for a model that was trained on
    arrays, whose features have no names.
    """
    if terms.known.feature_names and table.has_header:
        return table.columns
    if terms.known.feature_names:
        ordered = list(dict.fromkeys(_NUMBERED.sub(r"\1", name) for name in names))
        if "" in ordered or len(ordered) != len(table.columns):
            return table.columns
    else:
        ordered = list(names)
    index = table.row_index()
    used = [c for c in table.columns if c != index]
    if len(used) > len(ordered):
        used = [c for c in used if not _is_label(c, terms)]
    if len(used) != len(ordered):
        raise table.wrong(
            "another number of columns than the model has features",
            expected=len(ordered), found=len(used),
        )  # fmt: skip
    return [dataclasses.replace(column, name=name)
            for column, name in zip(used, ordered, strict=True)]  # fmt: skip


def _is_label(column: Column, terms: Terms) -> bool:
    return column.name == terms.config.target or column.name.lower() in LABEL_COLUMNS


def _refuse_missing(table: CsvTable, column: Column, terms: Terms) -> None:
    if column.missing_in and terms.missing == "refuse":
        raise InputError(
            "a value is missing", file=table.path,
            key=f"line {column.missing_in}, column `{column.name}`",
            hint="--missing mean fills in the mean of the training data",
        )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
