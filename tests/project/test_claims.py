"""What README and docs say was measured is what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import claims, harness

ROOT = Path(__file__).parents[2]


def record(*rows):
    return {"benchmark": "b", "rows": [vars(row) for row in rows]}


def test_every_quoted_number_is_one_of_the_results():
    records = claims.read()
    for path, text in claims.wanted(records).items():
        assert path.read_text() == text, f"{path}: run make bench"
    quoted = list(claims.quoting())
    assert ROOT / "README.md" in quoted and ROOT / "docs" / "index.md" in quoted


def test_ratios_are_of_the_same_rounds_and_of_the_same_way():
    rows = [
        harness.summarise("t", "linsey", [1.0, 30.0, 1.0]),
        harness.summarise("t", "linsey folded", [1.0, 10.0, 1.0]),
        harness.summarise("t", "linsey, 9 layers", [1.0, 1.0, 1.0]),
        harness.summarise("t", "raw JAX, 9 layers", [8.0, 8.0, 8.0]),
        harness.summarise("t", "torch", [2.0, 60.0, 2.0]),
        harness.summarise("t", "torch folded", [4.0, 40.0, 4.0]),
    ]
    found = dict(claims.bars(record(*rows)))
    assert found == {
        "t: raw JAX, 9 layers": 0.125,
        "t: torch": 0.5,
        "t: torch folded": 0.25,
    }
    assert "| torch folded | 4 s | 4 s to 40 s | 0.25 |" in claims.table(record(*rows))


def test_of_rates_the_chart_shows_the_time():
    rows = [harness.summarise("t", who, [n], unit="/s")
            for who, n in (("linsey", 200.0), ("torch", 100.0))]  # fmt: skip
    assert claims.bars(record(*rows)) == [("t: torch", 0.5)]


def test_a_quoted_number_that_was_changed_is_found():
    records = claims.read()
    text = (ROOT / "README.md").read_text()
    block = claims.QUOTED.search(text)
    changed = text.replace(block[0], block[0].replace("| linsey |", "| us |"))
    assert changed != text
    assert claims.quote(changed, records, "benchmarks/CLAIMS.md") == text


def test_charts_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        harness.summarise("t", who, [n]) for who, n in (("linsey", 1.0), ("flax", 2.0))
    ]
    claims.draw(record(*rows), tmp_path / "charts" / "b.png")
    assert (tmp_path / "charts" / "b.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_says_nothing_where_all_agrees():
    command = [sys.executable, "-m", "benchmarks.claims", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
