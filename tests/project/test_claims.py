"""What README and docs say was measured is what was measured."""

from __future__ import annotations

import json
import math
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


def test_ratios_of_rates_are_those_of_the_times():
    rows = [harness.summarise("t", who, [n], unit="/s")
            for who, n in (("linsey", 200.0), ("torch", 100.0))]  # fmt: skip
    assert claims.bars(record(*rows)) == [("t: torch", 0.5)]


def test_numbers_of_devices_are_columns():
    rows = [harness.summarise(f"step, {n} devices, sent", who, [8.0 * n], unit="B")
            for n in (8, 64) for who in ("linsey", "flax")]  # fmt: skip
    assert claims.table(record(*rows)).splitlines() == [
        "| on so many devices | who | 8 | 64 |",
        "|---|---|---|---|",
        "| step, sent | linsey | 64 B | 512 B |",
        "|  | flax | 64 B | 512 B |",
    ]


def test_what_is_not_finite_is_null_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    row = harness.summarise("error", "a", [math.inf, math.nan, 1.0], unit="")
    path = harness.write_json("errors", 3, [row])
    read = json.loads(path.read_text(), parse_constant=pytest.fail)["rows"][0]
    assert read["samples"] == [None, None, 1.0] and read["unit"] == ""
    assert math.isnan(harness.row_of(read).samples[0])
    assert "| error | a | not finite |  |  |" in claims.table({"rows": [read]})


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


def test_the_check_names_what_differs_until_it_is_written(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "README.md").write_text(
        "a\n<!-- quoted: claims -->\n9\n<!-- end -->\nb\n"
    )
    page = tmp_path / "CLAIMS.md"
    for name, value in {
        "ROOT": tmp_path,
        "DOCS": tmp_path / "docs",
        "PAGE": page,
    }.items():
        monkeypatch.setattr(claims, name, value)
    monkeypatch.setattr(claims, "draw", lambda record, path: None)
    monkeypatch.setattr(sys, "argv", ["claims", "--check"])
    assert claims.main() == 1 and not page.exists()
    assert "README.md differs" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["claims"])
    assert claims.main() == 0 and page.exists()
    monkeypatch.setattr(sys, "argv", ["claims", "--check"])
    assert claims.main() == 0


def test_runs_on_a_gpu_are_left_out_and_a_missing_claim_is_named(tmp_path):
    (tmp_path / "gpu-1.json").write_text('{"benchmark": "gpu", "parts": {}}')
    assert claims.read(tmp_path) == {}
    with pytest.raises(LookupError, match=r"Run `python -m benchmarks.trace`"):
        claims.claims({}, "page")


def test_the_index_begins_as_the_readme_does():
    readme, index = (
        (ROOT / "README.md").read_text(),
        (ROOT / "docs/index.md").read_text(),
    )
    first = readme[readme.index("Neural networks") : readme.index("What `make bench`")]
    first = first.replace("docs/images/", "images/").replace("](docs/", "](")
    first = first.replace("](examples/batch_norm_2015/README.md)", "]")
    first = first.replace("[`examples/batch_norm_2015`]", "`examples/batch_norm_2015`")
    assert " ".join(first.split()) in " ".join(index.split())
