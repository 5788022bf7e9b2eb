"""Reports, which can be printed, shown in a notebook, and converted to JSON."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from linsey.errors.base import printable

SEVERITIES = ("error", "warning", "note")

Cell = str | int | float | None


@dataclass(frozen=True)
class Finding:
    """One problem, or something worth a look.

    Attributes:
        layer: path of the layer, its names joined by `/`; empty for the whole model.
        kind: the kind of problem, such as `never_updated`.
        severity: `"error"`, `"warning"` or `"note"`, by the effect on outputs.
        message: a sentence that describes the problem.
        numbers: the numbers on which the finding is based, by name.
        remedy: what to do about it, usually the line of code to write.

    Example:
        >>> found = Finding("norm", "nonfinite", "error", "3 of 8 means are NaN.")
        >>> found.kind, found.severity
        ('nonfinite', 'error')
    """

    layer: str
    kind: str
    severity: str
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """Findings, the worst first, and a table with a row for each layer.

    Attributes:
        title: what was examined.
        findings: the problems found, the worst first.
        columns: names of the columns of the table.
        rows: rows of the table; `None` is an empty cell.

    Example:
        >>> found = Finding("norm", "nonfinite", "error", "A mean is NaN.", {}, "...")
        >>> report = Report("Audit", [found], ["layer", "gap"], [["norm", 0.25]])
        >>> print(report)
        Audit: 1 error
        <BLANKLINE>
        layer   gap
        norm   0.25
        <BLANKLINE>
        error: norm: nonfinite
          A mean is NaN.
          ...
    """

    title: str
    findings: Sequence[Finding] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()

    def __post_init__(self) -> None:
        found = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))
        object.__setattr__(self, "findings", tuple(found))
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(map(tuple, self.rows)))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity `"error"`."""
        return tuple(f for f in self.findings if f.severity == "error")

    def of_kind(self, *kinds: str) -> tuple[Finding, ...]:
        """Return the findings of the given kinds."""
        return tuple(f for f in self.findings if f.kind in kinds)

    def of_layer(self, layer: str) -> tuple[Finding, ...]:
        """Return the findings about a layer."""
        return tuple(f for f in self.findings if f.layer == layer)

    @property
    def summary(self) -> str:
        """The title and the number of findings of each severity."""
        severities = [f.severity for f in self.findings]
        counts = [(severities.count(s), s) for s in SEVERITIES if s in severities]
        texts = [f"{n} {s}{'s' if n > 1 else ''}" for n, s in counts]
        return f"{self.title}: {', '.join(texts) or 'nothing found'}"

    def __str__(self) -> str:
        blocks = [self.summary]
        if self.rows:
            blocks.append("\n".join(aligned([self.columns, *self.rows])))
        for one in self.findings:
            head = f"{one.severity}: {one.layer or 'the model'}: {one.kind}"
            lines = [line for line in (one.message, *one.remedy.splitlines()) if line]
            blocks.append("\n  ".join(map(printable, [head, *lines])))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{escaped(self.summary)}</strong></p>"]
        if self.rows:
            parts.append(table(self.columns, self.rows))
        if self.findings:
            names = ["severity", "layer", "kind", "finding", "remedy"]
            texts = [
                [f.severity, f.layer, f.kind, f.message, f.remedy]
                for f in self.findings
            ]
            parts.append(table(names, texts))
        return "\n".join(parts)

    def to_dict(self) -> dict[str, object]:
        """Return the report as dictionaries, lists, strings and numbers."""
        return {
            "title": self.title,
            "findings": [
                dataclasses.asdict(dataclasses.replace(f, numbers=dict(f.numbers)))
                for f in self.findings
            ],
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """Return the report as JSON; numbers that are not finite become strings."""
        return json.dumps(finite(self.to_dict()), indent=2, allow_nan=False)


def finite(value: object) -> object:
    """Replace numbers that JSON cannot represent, such as NaN, by strings."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def shown(cell: Cell) -> str:
    """Return the text of a cell."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else printable(str(cell))


def aligned(rows: Iterable[Sequence[Cell]]) -> list[str]:
    """Return the lines of a table, with columns of numbers aligned to the right."""
    texts = [[shown(cell) for cell in row] for row in rows]
    numeric = [
        any(isinstance(c, int | float) for c in column)
        for column in zip(*rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in texts
    ]


def escaped(text: str) -> str:
    """Escape an arbitrary text for HTML."""
    return html.escape(printable(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return an HTML table."""

    def line(cells: Iterable[str], tag: str) -> str:
        inside = "".join(f"<{tag}>{escaped(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inside}</tr>"

    body = "".join(line(map(shown, row), "td") for row in rows)
    return f"<table>{line(columns, 'th')}{body}</table>"
