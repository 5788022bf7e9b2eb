"""Tables as text: with rich if it is installed, otherwise with plain characters."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from linsey.linen.summary.represent import PLAIN, Style


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts, each of which may have several lines.

    Attributes:
        title: the text above the table.
        header: the names of the columns.
        rows: the cells.
        footer: the last row.
        caption: the text below the table.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    footer: Sequence[str]
    caption: str


def find_style() -> Style:
    """Return the markup of rich or, if it is not installed, no markup."""
    try:
        from rich.markup import escape
    except ImportError:
        return PLAIN
    return Style("[dim]{}[/dim]".format, "[bold]{}[/bold]".format, literal=escape)


def render_rich(
    table: Table,
    console_kwargs: Mapping[str, Any] | None,
    table_kwargs: Mapping[str, Any],
    column_kwargs: Mapping[str, Any],
) -> str:
    """Draw a table whose texts have the markup of rich."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = {"show_header": True, "show_lines": True, "show_footer": True}
    drawn = RichTable(title=table.title, **shown, **table_kwargs)
    for name in table.header:
        drawn.add_column(name, **column_kwargs)
    for row in table.rows:
        drawn.add_row(*row)
    for column, text in zip(drawn.columns, table.footer, strict=True):
        column.footer = Text(text, justify="right") if text == "Total" else text
    drawn.caption_style = "bold"
    drawn.caption = f"\n{table.caption}"
    out = io.StringIO()
    options: dict[str, Any] = {"force_terminal": True, "force_jupyter": False}
    options.update(console_kwargs or {}, file=out)
    Console(**options).print(drawn)
    return f"\n{out.getvalue()}\n"


def render_plain(table: Table) -> str:
    """Draw a table with plain characters."""
    rows = (table.header, *table.rows, table.footer)
    cells = [[cell.split("\n") for cell in row] for row in rows]
    columns = zip(*cells, strict=True)
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    rule = "-+-".join("-" * width for width in widths)
    lines = ["", table.title, rule]
    for row in cells:
        for texts in itertools.zip_longest(*row, fillvalue=""):
            padded = (t.ljust(w) for t, w in zip(texts, widths, strict=True))
            lines.append(" | ".join(padded).rstrip())
        lines.append(rule)
    return "\n".join([*lines, table.caption, ""])
