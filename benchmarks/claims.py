"""Writes what was measured on one page, and quotes it where people read.

`benchmarks/CLAIMS.md` holds every figure of `benchmarks/results`, with a chart of each
benchmark, the machine and the versions. README and docs quote: between the lines
`<!-- quoted: NAME -->` and `<!-- end -->` stands the table of a benchmark, or, where
the name is `claims`, a few figures of several. Nobody writes these by hand.
Run with `python -m benchmarks.claims`, as `make bench` does when it is done; `--check`
says which files differ from the results, and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = ROOT / "benchmarks" / "CLAIMS.md"
CHARTS = ROOT / "benchmarks" / "charts"
OURS = "linsey"
MOST_BARS = 80  # more than these nobody reads
DEVICES = re.compile(r", (\d+) devices")
QUOTED = re.compile(r"(<!-- quoted: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Records = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the first page says of one task, against some rivals."""

    says: str
    benchmark: str
    task: str
    rivals: tuple[str, ...]
    ours: str = OURS


CLAIMS = (
    Claim("tracing the gradient of 24 residual blocks", "trace",
          "gradient of these", ("flax", "haiku", "equinox")),
    Claim("import, after that of JAX", "import_time",
          "import, after jax", ("flax.linen", "haiku", "equinox"), "linsey.linen"),
    Claim("training step of six convolutions with batch norm", "step",
          "training step", ("flax", "haiku", "torch")),
    Claim("batch norm alone, forward and backward, (128, 32, 32, 64)", "batch_norm",
          "forward and backward, (128, 32, 32, 64)", ("flax", "equinox", "torch")),
    Claim("error of its outputs, mean 1000, deviation 0.01", "batch_norm",
          "error of outputs, mean 1000, deviation 0.01", ("flax", "equinox", "torch")),
    Claim("memory of the gradient of 8 blocks with batch norm", "memory",
          "gradient of 8 blocks", ("flax", "haiku")),
    Claim("variance of recalibrated statistics, data in order of classes: error",
          "recalibrate", "error of the variance, sorted",
          ("torch's update_bn", "rule of fvcore"), "linsey.batch_stats.recalibrate"),
    Claim("checkpoints with a flipped bit that are loaded without an error, of 300",
          "checkpoint", "one flipped bit, of 300: silent",
          ("Orbax", "Flax msgpack", "safetensors", "torch.save")),
    Claim("`linsey train` on a table, until the same accuracy", "table",
          "table", ("scikit-learn", "keras")),
    Claim("`linsey train` on JPEGs, images a second", "images",
          "epoch", ("torch",), "linsey streamed"),
)  # fmt: skip


def read(folder: Path = harness.RESULTS) -> Records:
    """Read what the benchmarks wrote, by name; runs on a GPU have no such rows."""
    records = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {each["benchmark"]: each for each in records if "rows" in each}


def rows_of(record: Mapping[str, Any]) -> dict[str, dict[str, harness.Row]]:
    """Group the rows of a benchmark by task and rival."""
    tasks: dict[str, dict[str, harness.Row]] = {}
    for fields in record["rows"]:
        row = harness.row_of(fields)
        tasks.setdefault(row.task, {})[row.rival] = row
    return tasks


def way(who: str) -> str:
    """Return how somebody does a task: "folded" of "torch folded"."""
    return who.rpartition(", ")[2] if ", " in who else who.partition(" ")[2]


def ours_for(rival: str, rows: Mapping[str, harness.Row]) -> harness.Row | None:
    """Return the row of linsey to compare with a rival: the same way, or its first."""
    ours = [name for name in rows if name.startswith(OURS)]
    if rival in ours or not ours:
        return None
    same = (name for name in ours if way(name) == way(rival))
    return rows[next(same, ours[0])]


def ratio(ours: harness.Row, theirs: harness.Row) -> float | None:
    """Return linsey's time or memory over a rival's; `None` for counts and errors.

    Of images a second more is better: their ratio is that of the times for one.
    """
    if not ours.unit or not all(theirs.samples):
        return None
    if ours.unit == "/s":
        return harness.paired_ratio(theirs.samples, ours.samples)
    return harness.paired_ratio(ours.samples, theirs.samples)


def table(record: Mapping[str, Any]) -> str:
    """Write the Markdown table of a benchmark, with every figure of it."""
    tasks = rows_of(record)
    if all(map(DEVICES.search, tasks)):
        return wide_table(tasks)
    lines = [
        "| task | who | median | quartiles | linsey / this |",
        "|---|---|---|---|---|",
    ]
    for task, rows in tasks.items():
        for number, row in enumerate(rows.values()):
            ours = ours_for(row.rival, rows)
            part = ratio(ours, row) if ours else None
            spread = ""
            if row.low != row.high and math.isfinite(row.median):
                low, high = (harness.in_words(x, row.unit) for x in (row.low, row.high))
                spread = f"{low} to {high}"
            cells = (
                "" if number else task, row.rival,
                harness.in_words(row.median, row.unit), spread,
                "" if part is None else f"{part:.2f}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def wide_table(tasks: Mapping[str, Mapping[str, harness.Row]]) -> str:
    """Write a table of exact figures, with a column for each number of devices."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for task, rows in tasks.items():
        found = DEVICES.search(task)
        assert found is not None
        rest = task[: found.start()] + task[found.end() :]
        for row in rows.values():
            words = harness.in_words(row.median, row.unit)
            cells.setdefault((rest, row.rival), {})[int(found[1])] = words
    counts = sorted({count for row in cells.values() for count in row})
    lines = [
        f"| on so many devices | who | {' | '.join(map(str, counts))} |",
        f"|---|---|{'---|' * len(counts)}",
    ]
    previous = None
    for (task, rival), row in cells.items():
        values = " | ".join(row.get(count, "") for count in counts)
        lines.append(f"| {task if task != previous else ''} | {rival} | {values} |")
        previous = task
    return "\n".join(lines) + "\n"


def claims(records: Records, link: str) -> str:
    """Write the table of the first page; `link` leads to the page that it quotes."""
    lines = ["| measured | linsey | others (linsey / this) |", "|---|---|---|"]
    for claim in CLAIMS:
        rows = rows_of(records.get(claim.benchmark, {"rows": []})).get(claim.task, {})
        if claim.ours not in rows:
            raise LookupError(
                f"{claim.says}: no row {claim.task!r} of {claim.ours!r} in the results "
                f"of {claim.benchmark}. Run `python -m benchmarks.{claim.benchmark}` "
                "as it is, without options that change the task."
            )
        ours = rows[claim.ours]
        others = []
        for rival in claim.rivals:
            if theirs := rows.get(rival):
                part = ratio(ours, theirs)
                words = f"{rival} {harness.in_words(theirs.median, theirs.unit)}"
                others.append(words + ("" if part is None else f" ({part:.2f})"))
        value = harness.in_words(ours.median, ours.unit)
        says = f"[{claim.says}]({link}#{claim.benchmark})"
        lines.append(f"| {says} | {value} | {', '.join(others)} |")
    return "\n".join(lines) + "\n"


def page(records: Records) -> str:
    """Write the whole page."""
    parts = [
        "# What was measured\n\n"
        "Written by `make bench` from `benchmarks/results`; what the benchmarks time,\n"
        "and how to read them, is in [their README](README.md). The last column has\n"
        "the median of the ratios of linsey to a rival in the same round, of rates\n"
        "those of the times: below 1 linsey needs less.\n\n<!-- tables -->\n"
    ]
    for name, record in records.items():
        facts = record["machine"]
        versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v)
        parts.append(
            f"## {name}\n\n`python -m benchmarks.{name} --rounds {record['rounds']}`, "
            f"{record['when'][:10]}: {facts['processor']}, {facts['cores']} cores, "
            f"{facts['system']}, Python {facts['python']}; {versions}.\n"
        )
        if has_chart(record):
            parts.append(f"![linsey's part of what others need](charts/{name}.png)\n")
        parts.append(table(record))
    return "\n".join(parts)


def bars(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what a chart shows: task and rival, and linsey's part of what it needs."""
    found = []
    for task, rows in rows_of(record).items():
        for row in rows.values():
            ours = ours_for(row.rival, rows)
            if ours and (part := ratio(ours, row)):
                found.append((f"{task}: {row.rival}", part))
    return found


def has_chart(record: Mapping[str, Any]) -> bool:
    """Tell whether there is something to show, and not too much of it."""
    return 0 < len(bars(record)) <= MOST_BARS


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Write the chart of a benchmark: a bar for each rival and task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, values = zip(*reversed(bars(record)), strict=True)
    figure = Figure(figsize=(8, 0.8 + 0.22 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = ["tab:blue" if value <= 1 else "tab:orange" for value in values]
    axes.barh(labels, [value - 1 for value in values], left=1, color=colors)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = min(0.8, *values) * 0.9, max(1, *values) * 1.1
    marks = (digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
    ticks = [mark for mark in marks if low <= mark <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.margins(y=0.01)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("linsey / this rival: below 1 linsey needs less")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def quoting() -> Iterator[Path]:
    """List the files that quote the page."""
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        if "_build" not in path.parts and "<!-- quoted: " in path.read_text():
            yield path


def quote(text: str, records: Records, link: str) -> str:
    """Return a text with its quoted tables brought up to date."""

    def fill(found: re.Match[str]) -> str:
        name = found[2]
        content = claims(records, link) if name == "claims" else table(records[name])
        return f"{found[1]}{content}{found[3]}"

    return QUOTED.sub(fill, text)


def wanted(records: Records) -> dict[Path, str]:
    """Return what the page and the files that quote it should hold."""
    files = {PAGE: page(records)}
    for path in quoting():
        link = "claims.md" if path.is_relative_to(DOCS) else "benchmarks/CLAIMS.md"
        files[path] = quote(path.read_text(), records, link)
    return files


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    is_check = parser.parse_args().check
    records = read()
    differ = [
        path
        for path, text in wanted(records).items()
        if not path.exists() or path.read_text() != text
    ]
    if is_check:
        for path in differ:
            print(f"{path.relative_to(ROOT)} differs from the results: "
                  "python -m benchmarks.claims")  # fmt: skip
        return bool(differ)
    for path, text in wanted(records).items():
        path.write_text(text)
    for name, record in records.items():
        if has_chart(record):
            draw(record, CHARTS / f"{name}.png")
    print(f"written to {PAGE}" + (", changed" if differ else ", as it was"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
