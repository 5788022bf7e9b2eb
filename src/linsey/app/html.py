"""Pages that need nothing but themselves: style inside, images as data URIs."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } img { max-width: 100%; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
td { white-space: pre; } td.number { text-align: right; }
div.wide { overflow-x: auto; } .big { font-size: 1.3rem; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
  th, td { border-color: #444; } img { background: #fff; } }
"""


def page(title: str, *parts: str) -> bytes:
    """A whole page.

    Args:
        title: plain text.
        *parts: HTML.

    Returns:
        The file.
    """
    name = html.escape(title)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n"
        "</body>\n</html>\n"
    ).encode()


def heading(text: str) -> str:
    """A section heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{html.escape(text)}</p>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers stand to the right."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    lines = ["".join(map(_cell, row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def image(path: Path, description: str) -> str:
    """A PNG file, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(description, quote=True)
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'


def _cell(value: object) -> str:
    text = str(value)
    is_number = text.replace(",", "").replace(".", "", 1).strip("-").isdigit()
    style = ' class="number"' if is_number else ""
    return f"<td{style}>{html.escape(text)}</td>"
