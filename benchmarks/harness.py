"""Times rivals fairly and reports the result.

Words: a *task* is what is measured ("apply, 200 Dense"); a *rival* is who does it; a
*case* is one rival's way to do one task. A case prepares a fresh call for every round,
outside the clock, and only the call is timed.

All rivals of a task take turns within each round, in an order that rotates, so that a
slow moment of the machine hits all of them. A ratio is the median over rounds of
(this rival / the baseline in the same round).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Tests write elsewhere: what is committed here was measured.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
PACKAGES = (
    "linsey", "jax", "jaxlib", "numpy", "numba", "flax", "dm-haiku", "equinox", "optax",
    "orbax-checkpoint", "safetensors", "torch", "torchvision", "scikit-learn", "keras",
)  # fmt: skip


Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Case:
    """One rival's way to do a task: `prepare()` returns the call to be timed.

    `prepare` runs before every round, outside the clock. `calls` is how many repeats
    the timed call makes; the reported time is per repeat.
    """

    rival: str
    prepare: Callable[[], Callable[[], Any]]
    calls: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured for one case; low and high are the quartiles.

    `unit` is "s", "B" (bytes), "/s" or nothing (a count, an error). `samples` are the
    values of all rounds: those of two rivals belong together in pairs.
    """

    task: str
    rival: str
    median: float
    low: float
    high: float
    ratio: float | None
    goal: str | None
    unit: str = "s"
    samples: tuple[float, ...] = ()


def missing(rival: str, error: ImportError) -> None:
    """Note on the terminal that a rival cannot take part."""
    print(f"  skipped {rival}: {error}", file=sys.stderr)


def available(
    makers: Mapping[str, Callable[[], Callable[[], Callable[[], Any]]]], calls: int = 1
) -> list[Case]:
    """Return the cases whose packages can be imported; note the others.

    Args:
        makers: for each rival a function that imports what the rival needs and returns
            the `prepare` function of its case.
        calls: repeats made by each timed call.
    """
    cases = []
    for rival, make in makers.items():
        try:
            cases.append(Case(rival, make(), calls))
        except ImportError as error:
            missing(rival, error)
    return cases


def once(case: Case, clock: Clock = time.perf_counter) -> float:
    """Return seconds per call of a new case, without garbage collection."""
    call = case.prepare()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        call()
        return (clock() - start) / case.calls
    finally:
        gc.enable()


def measure(
    task: str,
    cases: Iterable[Case],
    rounds: int,
    baseline: str | None = None,
    goals: Mapping[str, str] | None = None,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time all cases of a task, interleaved, after one round that is not counted.

    Args:
        task: what to call the task.
        cases: who takes part.
        rounds: how often each is timed.
        baseline: the rival that ratios refer to; it comes first.
        goals: what some rivals aim at, for the table.
        clock: `time.perf_counter`, or `time.thread_time` for work that stays in one
            thread: other programs on the machine then do not count.
    """
    cases = list(cases)
    times: dict[str, list[float]] = {case.rival: [] for case in cases}
    for case in cases:
        once(case, clock)
    for round_ in range(rounds):
        turn = round_ % len(cases)
        for case in cases[turn:] + cases[:turn]:
            times[case.rival].append(once(case, clock))
    base = times.get(baseline) if baseline else None
    return [
        summarise(task, rival, seconds, base, (goals or {}).get(rival))
        for rival, seconds in times.items()
    ]


def summarise(
    task: str,
    rival: str,
    values: Sequence[float],
    base: Sequence[float] | None = None,
    goal: str | None = None,
    unit: str = "s",
) -> Row:
    """Median, quartiles and the median ratio to the baseline of the same rounds."""
    low, high = min(values), max(values)
    if len(values) > 3:
        low, _, high = statistics.quantiles(values, n=4)
    ratio = paired_ratio(values, base) if base else None
    median = statistics.median(values)
    return Row(task, rival, median, low, high, ratio, goal, unit, tuple(values))


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios of values measured in the same round."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, Python, package versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def processor_name() -> str:
    """Return the processor's name where the system tells it, else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


UNITS = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "B": {"MB": 1e6, "kB": 1e3, "B": 1.0},
    "/s": {"/s": 1.0},
    "": {"": 1.0},
}


def in_words(value: float, unit: str = "s") -> str:
    """Write a value with the unit that suits it, three significant digits."""
    if not math.isfinite(value):
        return "not finite"
    units = UNITS[unit]
    name = next(
        (name for name, size in units.items() if abs(value) >= size), list(units)[-1]
    )
    size = units[name]
    digits = f"{value / size:.3g}"
    if "e+" in digits:
        digits = f"{value / size:.0f}"
    return f"{digits} {name}".rstrip()


def print_table(title: str, rows: list[Row]) -> None:
    """Print the rows with rich where it is installed and as plain lines elsewhere."""
    header = ("task", "rival", "median", "quartiles", "ratio", "goal")
    cells = [
        (
            row.task,
            row.rival,
            in_words(row.median, row.unit),
            f"{in_words(row.low, row.unit)} to {in_words(row.high, row.unit)}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.goal or "",
        )
        for row in rows
    ]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title)
        for line in (header, *cells):
            print("  " + " | ".join(line))
        return
    table = Table(*header, title=title)
    previous = None
    for task, *line in cells:
        if previous not in (None, task):
            table.add_section()
        table.add_row(task if task != previous else "", *line)
        previous = task
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def write_json(name: str, rounds: int, rows: list[Row]) -> Path:
    """Write the rows with all that is needed to judge them; return the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{name}.json"
    record = {
        "benchmark": name,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": machine(),
        "rows": [_without_nan(dataclasses.asdict(row)) for row in rows],
    }
    target.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    return target


def row_of(fields: Mapping[str, Any]) -> Row:
    """Make a row from its fields in a file, where a figure that is not finite is null.

    Example:
        >>> row_of({"task": "error", "rival": "a", "median": None, "low": 0, "high": 0,
        ...         "ratio": None, "goal": None}).median
        nan
    """
    figures = {
        name: math.nan if fields[name] is None else fields[name]
        for name in ("median", "low", "high")
    }
    samples = fields.get("samples", ())
    figures["samples"] = [math.nan if x is None else x for x in samples]
    return Row(**{**fields, **figures})


def _without_nan(value: Any) -> Any:
    """Return fields with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def main(
    name: str,
    description: str,
    run: Callable[[int], list[Row]],
    rounds: int,
) -> list[Row]:
    """Run the command line of a benchmark: `--rounds N`, a table, a JSON file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="default: %(default)s"
    )
    arguments = parser.parse_args()
    rows = run(arguments.rounds)
    facts = machine()
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v)
    print_table(f"{name}: {description}", rows)
    print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}")
    print(versions)
    print(f"written to {write_json(name, arguments.rounds, rows)}")
    return rows
