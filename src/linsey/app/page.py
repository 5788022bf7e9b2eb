"""Self-contained HTML pages: their style and images are inside.

Text from outside, especially the names of files and classes, is escaped here; the HTML
that other modules pass was made with these functions.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from linsey.errors.base import printable

_NUMBER = r"-?[\d,]*\.?\d+(e[+-]?\d+)?"
_STYLE = """
:root { --ink: #222; --paper: #fff; --line: #ddd; --right: 46 125 50;
  --wrong: 198 40 40; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td { white-space: pre; } .number { text-align: right; }
p { overflow-wrap: anywhere; } .big { font-size: 1.3rem; font-weight: 600; }
div.wide { overflow-x: auto; }
table.matrix td, table.matrix th { text-align: right; padding: .2rem .5rem; }
table.matrix th:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); }
td.right { background: rgb(var(--right) / calc(var(--part) * .55)); }
td.wrong { background: rgb(var(--wrong) / calc(.1 + var(--part) * .65)); }
td.none { opacity: .4; }
div.curves { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
div.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
figure img { width: 100%; max-width: 8rem; image-rendering: pixelated;
  border: 1px solid var(--line); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #181818; --line: #444; --right: 102 187 106;
    --wrong: 239 83 80; }
  div.curves img { background: #fff; } }
@media (max-width: 40rem) {
  body { font-size: 14px; margin: 1rem auto; padding: 0 .6rem; }
  h1 { font-size: 1.2rem; } .big { font-size: 1.1rem; }
  th, td { padding: .15rem .4rem; }
  td:first-child, td:nth-child(2):last-child { white-space: pre-wrap; }
  div.figures { grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); } }
@media print {
  :root { --ink: #000; --paper: #fff; --line: #bbb; --right: 46 125 50;
    --wrong: 198 40 40; }
  body { font-size: 10pt; margin: 0; max-width: none; padding: 0; }
  div.wide { overflow: visible; } td { white-space: pre-wrap; }
  h2 { break-after: avoid; } tr, figure, img { break-inside: avoid; }
  td.right, td.wrong, img { -webkit-print-color-adjust: exact;
    print-color-adjust: exact; } }
"""


def page(title: str, *parts: str) -> bytes:
    """Make a whole page.

    Args:
        title: plain text.
        *parts: HTML.

    Returns:
        The content of the file.
    """
    name = _escaped(title)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n"
        "</body>\n</html>\n"
    ).encode()


def section(title: str, *parts: str) -> str:
    """Make a section of a page."""
    return "\n".join((f"<h2>{_escaped(title)}</h2>", *parts))


def paragraph(text: str, style: str = "") -> str:
    """Make a paragraph of plain text."""
    return f'<p class="{style}">{_escaped(text)}</p>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table; columns of numbers after the first one are aligned to the right."""
    texts = [list(map(str, row)) for row in rows]
    styles = [
        ' class="number"' if place and _are_numbers(column) else ""
        for place, column in enumerate(zip(*texts, strict=True))
    ] or [""] * len(headers)
    head = _row("th", headers, styles)
    body = "".join(f"<tr>{_row('td', row, styles)}</tr>\n" for row in texts)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _row(tag: str, texts: Sequence[str], styles: Sequence[str]) -> str:
    cells = zip(texts, styles, strict=True)
    return "".join(f"<{tag}{style}>{_indented(text)}</{tag}>" for text, style in cells)


def _indented(text: str) -> str:
    """Return HTML whose lines do not break within the indentation."""
    rest = text.lstrip(" ")
    return "&nbsp;" * (len(text) - len(rest)) + _escaped(rest)


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(text == "" or re.fullmatch(_NUMBER, text) for text in texts)


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Make a confusion matrix whose cells are shaded by their fraction of the row.

    Args:
        names: the names of the classes.
        counts: number of examples by true (row) and predicted (column) class.

    Returns:
        The table, with correct predictions in one color and wrong ones in another.
    """
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in names)
    lines = []
    for true, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(row))
        cells = "".join(
            _shaded(count, count / total, "right" if said == true else "wrong")
            for said, count in enumerate(row)
        )
        lines.append(f'<tr><th scope="row">{_escaped(name)}</th>{cells}</tr>\n')
    return (
        f'<div class="wide"><table class="matrix">\n<thead><tr><th></th>{head}</tr>'
        f"</thead>\n<tbody>\n{''.join(lines)}</tbody></table></div>"
    )


def _shaded(count: int, part: float, kind: str) -> str:
    if not count:
        return '<td class="none">0</td>'
    return f'<td class="{kind}" style="--part:{part:.2f}">{count}</td>'


def figures(shown: Iterable[tuple[str, str, str]]) -> str:
    """Make a grid of small pictures.

    Args:
        shown: the source of each picture, its description in plain text, and its
            caption, made by `caption`.
    """
    parts = (
        f'<figure><img alt="{_escaped(described)}" src="{source}">{text}</figure>'
        for source, described, text in shown
    )
    return f'<div class="figures">\n{chr(10).join(parts)}\n</div>'


def caption(*lines: str) -> str:
    """Make the caption of a picture from lines of plain text."""
    return f"<figcaption>{'<br>'.join(map(_escaped, lines))}</figcaption>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))
