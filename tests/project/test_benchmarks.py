"""The benchmarks measure what they say and run to their end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness

ROOT = Path(__file__).parents[2]


def test_ratio_is_the_median_of_paired_ratios():
    # The second round hit a slow moment: paired ratios do not see it.
    row = harness.summarise("task", "rival", [2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert row.ratio == 2.0
    assert (row.low, row.median, row.high) == (2.0, 2.0, 20.0)


def test_rivals_take_turns_and_the_order_rotates():
    calls = []
    cases = [
        harness.Case(name, lambda name=name: lambda: calls.append(name))
        for name in ("a", "b", "c")
    ]
    rows = harness.measure("task", cases, rounds=3, baseline="a")
    warm_up, rounds = calls[:3], calls[3:]
    assert warm_up == ["a", "b", "c"]
    assert rounds == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [row.rival for row in rows] == ["a", "b", "c"]


def test_a_missing_rival_is_named_and_left_out(capsys):
    def absent():
        raise ImportError("No module named 'absent'")

    cases = harness.available({"here": lambda: lambda: lambda: None, "absent": absent})
    assert [case.rival for case in cases] == ["here"]
    assert "skipped absent: No module named 'absent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"), [(1.5, "1.5 s"), (0.0124, "12.4 ms"), (3e-7, "300 ns")]
)
def test_times_carry_the_unit_that_suits_them(seconds, words):
    assert harness.in_words(seconds) == words


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["trace", "dispatch", "import_time", "optim", "batch_norm", "step", "objects"],
)
def test_benchmark_runs_and_writes_its_figures(name):
    subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "1"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert record["rounds"] == 1
    assert any(row["rival"].startswith("linsey") for row in record["rows"])
    assert all(row["median"] > 0 for row in record["rows"])
