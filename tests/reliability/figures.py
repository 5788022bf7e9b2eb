"""The figures of these tests, and the page that quotes them.

A test calls `record` with the name of its row and what it measured. Where the
environment names a file, the line goes there: `LINSEY_FIGURES=figures.jsonl make soak`.
Then `python -m tests.reliability.figures figures.jsonl` puts the figures of a row
into the table of the page. Rows that were not measured keep what they had.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "files.md"
VARIABLE = "LINSEY_FIGURES"
START, END = "<!-- figures -->", "<!-- end -->"


def record(row: str, figure: str) -> None:
    """Note what a test measured for a row of the page."""
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"row": row, "figure": figure}) + "\n")


def rows(page: str) -> list[str]:
    """The names of the rows: the first cells of the table that has figures."""
    lines = page.partition(START)[2].partition(END)[0]
    table = [line for line in lines.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in table[2:]]


def filled(page: str, figures: dict[str, str]) -> str:
    """The page with the last cells of its rows replaced."""
    unknown = figures.keys() - set(rows(page))
    if unknown:
        raise ValueError(f"no such rows in {PAGE.name}: {sorted(unknown)}")
    before, start, rest = page.partition(START)
    table, end, after = rest.partition(END)
    lines = []
    for line in table.split("\n"):
        name = line.split("|")[1].strip() if line.startswith("|") else ""
        if name in figures:
            line = "|".join([*line.split("|")[:3], f" {figures[name]} |"])
        lines.append(line)
    return before + start + "\n".join(lines) + end + after


def main(path: str) -> None:
    """Fill the page from a file of figures."""
    told: dict[str, dict[str, None]] = {}
    for line in Path(path).read_text("utf-8").splitlines():
        found = json.loads(line)
        told.setdefault(found["row"], {})[found["figure"]] = None
    figures = {row: ", ".join(each) for row, each in told.items()}
    PAGE.write_text(filled(PAGE.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
